"""Where a job's `model.source` lies: a folder that the coordinator sees, or a model hub's id."""

from __future__ import annotations

from pathlib import Path

from fedgalore.model.folder import SUFFIXES, ModelFolderError, check_links

SECOND_COPIES = ("consolidated*", "*/*")  # of weights that the folder holds already


class SourceError(ValueError):
    """No model can be had from there; the message says why and what to do."""


def local_folder(source: str) -> Path | None:
    """The folder, or None for what may be a hub id.

    Raises:
        SourceError: a path where no model folder is, or a folder with links to files elsewhere.
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
    except (OSError, RuntimeError) as error:  # too long a name, a folder that is closed to us, an unknown ~user
        raise SourceError(f"{source} cannot be looked at ({error}); correct the path") from error
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise SourceError(f"the coordinator sees no folder {source}; give the path as the coordinator sees it")
    return None


def fetched_folder(source: str) -> Path:
    """The folder, downloaded from the hub if it is none yet; blocks.

    Raises:
        SourceError: neither a folder nor to be had from the hub.
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
            f"{source} is no folder here and could not be fetched from the hub ({type(error).__name__}); "
            "place the model on the coordinator and give its folder, or let the coordinator reach the hub"
        ) from error
