"""What a model's folder may hold: data in files of known kinds, which name no file elsewhere. Never code, nor pickle.

A folder comes from a hub, an archive or the other side of the federation, so transformers sees it only after this. Told
to take safetensors and no remote code, it still unpickles what an index or `transformers_weights` names, and reads
whatever file a tokenizer's config calls its vocabulary, which would then be in the model that people download.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from fedgalore.spec.documents import printable

# Of what a model is made of; all else is left alone.
SUFFIXES = (".json", ".txt", ".model", ".spm", ".codes", ".safetensors", ".jinja")
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_LONGEST_NAME = 128
_TOKENIZER = ("tokenizer_config.json", "special_tokens_map.json")
_IGNORED = "special_tokens_map_file"  # transformers wrote it for years and reads it no more
_NAMING = ("weight_map", "configuration_files", "transformers_weights")  # keys whose values are files of the folder


class ModelFolderError(ValueError):
    """A model that is refused; the message names the file and what to do."""


def check_name(name: str, suffixes: tuple[str, ...] = SUFFIXES) -> None:
    """Refuses what is not the name of one file of a model: it becomes part of a path.

    Raises:
        ModelFolderError: a path, a hidden file, an unprintable or long name, or another kind of file.
    """
    path = PurePosixPath(name)
    plain = name == path.name and "\\" not in name and name.isprintable() and not name.startswith(".")
    if not plain or len(name.encode()) > _LONGEST_NAME:
        raise ModelFolderError(f"{_shown(name)} is not the plain name of a file")
    if path.suffix not in suffixes:
        raise ModelFolderError(f"{_shown(name)} is no file of a model; those end in {', '.join(suffixes)}")


def files(folder: Path) -> list[Path]:
    """The files that make up the model, by name; sub-folders and files of other kinds are no part of it."""
    return sorted(path for path in folder.iterdir() if path.is_file() and _is_part(path.name))


def check_links(folder: Path) -> None:
    """Refuses links to files elsewhere, which would be read with the rights of this process and handed on.

    In the cache of a model hub, every file is a link to one of the cache's blobs.

    Raises:
        ModelFolderError: a file is a link that leads out of the folder.
    """
    real = folder.resolve()
    inside = [real]
    if real.parent.name == "snapshots" and real.parent.parent.name.startswith("models--"):
        repository = real.parent.parent
        inside += [repository / "blobs", repository.parent / "blobs"]
    for path in files(folder):
        if not any(path.resolve().is_relative_to(root) for root in inside):
            raise ModelFolderError(f"{path.name} in {folder} is a link that leads out of it; copy the file into it")


def check(folder: Path, *, allow_pickle: bool = False) -> None:
    """Refuses a folder that is not data alone.

    Args:
        allow_pickle: weights in a pickle are let through; whoever loads them does so with `weights_only`.

    Raises:
        ModelFolderError: its weights are a pickle, it asks for code of its own or an adapter's base model, or a file
            in it names one outside of it.
        OSError: a file cannot be read.
    """
    if (folder / "adapter_config.json").is_file():
        raise ModelFolderError(
            "adapter_config.json names another model; merge the adapter into that one, and save it as a folder"
        )
    if not (has_safetensors(folder) or allow_pickle) and (pickles := list(_pickles(folder))):
        raise ModelFolderError(
            f"{pickles[0]} is a pickle, which can run code when it is read; convert the weights to safetensors "
            "(load them where you trust them, and save_pretrained)"
        )
    suffixes = SUFFIXES + PICKLES if allow_pickle else SUFFIXES
    for path in files(folder):
        if path.suffix != ".json" or (path.name.endswith(".bin.index.json") and not allow_pickle):
            continue
        try:
            json.loads(path.read_text(encoding="utf-8"), object_hook=_looked_at(path.name, suffixes))
        except ModelFolderError:
            raise
        except (ValueError, RecursionError):
            continue  # nor can transformers read it


def has_safetensors(folder: Path) -> bool:
    """Whether the weights are there as safetensors; others beside them are not looked at."""
    return any(path.suffix == ".safetensors" for path in files(folder))


def _pickles(folder: Path) -> Iterator[str]:
    return (path.name for path in sorted(folder.iterdir()) if path.suffix in PICKLES)


def _is_part(name: str) -> bool:
    try:
        check_name(name)
    except ModelFolderError:
        return False
    return True


def _looked_at(file: str, suffixes: tuple[str, ...]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Looks at every mapping of a JSON file, however deep, as it is read."""

    def look(mapping: dict[str, Any]) -> dict[str, Any]:
        for key, value in mapping.items():
            if key == "auto_map" and isinstance(value, dict | list) and value:
                raise ModelFolderError(
                    f"{file} asks for code by auto_map, which is never run; take the key out if transformers has a "
                    "class of its own for this model, or take another model"
                )
            if file in _TOKENIZER and _names_a_file(key, value):
                raise ModelFolderError(f"{file} names a file by {_shown(key)}; take the key out")
            if file == "config.json" and key == "quantization_config" and value:
                raise ModelFolderError(
                    "config.json has a quantization_config, and quantized weights cannot be trained; dequantize the "
                    "model and save it anew, or take the key out if the weights are whole"
                )
            if key in _NAMING:
                for name in _strings(value):
                    _check_named(file, key, name, suffixes)
        return mapping

    return look


def _check_named(file: str, key: str, name: str, suffixes: tuple[str, ...]) -> None:
    try:
        check_name(name, suffixes)
    except ModelFolderError as error:
        raise ModelFolderError(f"{file}, {key}: {error}; save the model anew by save_pretrained") from error


def _names_a_file(key: str, value: Any) -> bool:
    """Whether a tokenizer would open what stands here: a file in the place of a vocabulary, or in whatever place."""
    if key == "init_inputs":
        return bool(value)
    return isinstance(value, str) and key != _IGNORED and (key in ("vocab", "merges") or key.endswith("_file"))


def _strings(value: Any) -> Iterator[str]:
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
    return (item for item in values if isinstance(item, str))


def _shown(name: str) -> str:
    return repr(printable(name, 60))
