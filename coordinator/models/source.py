"""The model that a job's `model.source` names: a folder that the coordinator sees, or the id of a model on a hub."""

from __future__ import annotations

import json
from pathlib import Path

from fedgalore.model.folder import PICKLES, SUFFIXES, ModelFolderError, check, check_links

SECOND_COPIES = ("consolidated*", "*/*")  # files with weights that other files of the model hold already


class SourceError(ValueError):
    """The source gives no model. The message says why, and what to do."""


def local_folder(source: str) -> Path | None:
    """The folder that `source` names; None where `source` may be a hub id.

    Raises:
        SourceError: `source` is a path without a model's folder, or the folder has links to files elsewhere.
    """
    try:
        folder = Path(source).expanduser()
        if folder.is_dir():
            if not (folder / "config.json").is_file():
                raise SourceError(f"{source} has no config.json; name a folder that save_pretrained wrote")
            check_links(folder)
            return folder
    except ModelFolderError as error:
        raise SourceError(str(error)) from error
    except (
        OSError,
        RuntimeError,
    ) as error:  # a name that is too long, a folder without read permission, an unknown ~user
        raise SourceError(f"{source} cannot be read ({error}); correct the path") from error
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise SourceError(f"the coordinator has no folder {source}; give the path as the coordinator sees it")
    return None


def check_folder(folder: Path) -> None:
    """Looks whether a folder can be a model, as far as that shows without reading its weights. Blocks.

    Raises:
        SourceError: its config is no JSON, it has no weights, or it is one of those that are never loaded.
    """
    try:
        if not isinstance(json.loads((folder / "config.json").read_bytes()), dict):
            raise SourceError(f"config.json of {folder} holds no mapping; name a folder that save_pretrained wrote")
        if not any(path.suffix in (".safetensors", *PICKLES) for path in folder.iterdir()):
            raise SourceError(f"{folder} has no weights, such as model.safetensors; copy them there")
        check(folder, allow_pickle=True)  # whether pickles are allowed is the aggregator's to say
    except SourceError:
        raise
    except ModelFolderError as error:
        raise SourceError(str(error)) from error
    except OSError as error:
        raise SourceError(f"{folder} cannot be read ({error}); correct the path or its permissions") from error
    except (ValueError, RecursionError) as error:
        raise SourceError(f"config.json of {folder} is not JSON ({error}); save the model anew") from error


def is_cached(source: str) -> bool:
    """Whether this machine has fetched the model of this name before. Blocks.

    Raises:
        SourceError: `source` cannot be the name of a model on the hub.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(source, "config.json"), str)
    except HFValidationError:
        raise SourceError(
            f"{source[:100]!r} is neither a folder here nor a name that a model on the hub can have; correct the path"
        ) from None


def fetched_folder(source: str) -> Path:
    """The model's folder, downloaded from the hub unless `source` is a folder. Blocks.

    Raises:
        SourceError: `source` is no folder, and the hub does not give the model.
    """
    if (folder := local_folder(source)) is not None:
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = [f"*{suffix}" for suffix in SUFFIXES]
    try:
        return Path(snapshot_download(source, allow_patterns=patterns, ignore_patterns=list(SECOND_COPIES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise SourceError(
            f"{source} is no folder here, and it could not be fetched from the hub ({type(error).__name__}); "
            "place the model on the coordinator and give its folder, or let the coordinator reach the hub"
        ) from error
