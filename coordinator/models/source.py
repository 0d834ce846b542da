"""The model that a job's `model.source` names: a folder that the coordinator sees, or the id of a model on a hub."""

from __future__ import annotations

from pathlib import Path

from fedgalore.model.folder import SUFFIXES, ModelFolderError, check_links

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
