"""The model that people download: the number format of each tensor, and its folder."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from fedgalore.model.inputs import TaskError
from fedgalore.spec.dtypes import STORED_AS, Dtype, exported

_TORCH = {stored: getattr(torch, name) for name, stored in STORED_AS.items()}
_STORED = {dtype: stored for stored, dtype in _TORCH.items()}
BLOCK = 2**20  # numbers that are rounded at a time
_NARROWED = {"F64": torch.float32}  # models are in float32 while they are trained


@dataclass(frozen=True)
class Formats:
    """In which format the download holds each floating point tensor of a model; `choice` is the job's `model.dtype`.

    `base`: by name in the model's state, as the base model's files have it. `main`: of new tensors, such as a head, and
    what `config.json` says.
    """

    choice: Dtype
    base: Mapping[str, torch.dtype]
    main: torch.dtype

    def of(self, name: str) -> torch.dtype:
        return _TORCH[exported(_STORED[self.base[name]], self.choice)]

    def round_(self, state: Mapping[str, Tensor], names: Iterable[str]) -> None:
        """Gives tensors of the model's state the values that the download has, in place.

        Rounds to nearest, ties to even, as the download does. What is rounded already is not written to: it may be
        mapped from a file, and take no memory so far.
        """
        with torch.no_grad():
            for name in names:
                if name in self.base and (dtype := self.of(name)) is not state[name].dtype:
                    _round(state[name], dtype)


AS_LOADED = Formats("base", {}, torch.float32)


def formats_of(model: nn.Module, folder: Path, new: Collection[str], choice: Dtype) -> Formats:
    """The formats of a model that was loaded from a base model's folder.

    Args:
        model: in float32.
        new: names of the tensors that the folder lacks.

    Raises:
        TaskError: the folder holds a format that nobody can train, or whole numbers in the place of a weight.
    """
    stored = dict(_stored(folder))
    counts: Counter[torch.dtype] = Counter()
    for held, numbers in stored.values():
        if (dtype := _trained_as(held)) is not None:
            counts[dtype] += numbers
    by_base = counts.most_common(1)[0][0] if counts else _said(folder)
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    base = {}
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        # Names differ by the prefix of the backbone; other names are those of another version of transformers.
        places = (name, f"{prefix}{name}", name.removeprefix(prefix))
        place = next((place for place in places if place in stored), None)
        known = _trained_as(stored[place][0]) if place else None
        if place and known is None:
            raise TaskError(
                f"model.source: the folder has {place} in {stored[place][0]}, whole numbers in the place of a weight, "
                "as quantized models have them; load the model where it came from, dequantize it, and save it anew"
            )
        base[name] = by_base if name in new else known or _narrowest(tensor, by_base)
    return Formats(choice, base, by_base if choice == "base" else _TORCH[STORED_AS[choice]])


def save_model(model: Any, folder: Path, formats: Formats, *, as_base: bool) -> None:
    """Writes a model of transformers as `from_pretrained` reads it.

    Weights go by the names that they have in the model, which are the plan's; by default transformers writes those of
    older versions.

    Args:
        model: in float32.
        as_base: each tensor in the base model's format, so that those which the base model has keep their values
            whatever the job chose; for later versions to be made of it.
    """
    dtypes = formats.base if as_base else {name: formats.of(name) for name in formats.base}
    folder.mkdir(parents=True, exist_ok=True)
    made: dict[int, Tensor] = {}  # by address: a weight with two names stays one
    state = {}
    for name, tensor in model.state_dict().items():
        if tensor.numel() and tensor.data_ptr() not in made:
            made[tensor.data_ptr()] = _converted(tensor, dtypes.get(name, tensor.dtype), folder)
        state[name] = made.get(tensor.data_ptr(), tensor)
    model.save_pretrained(folder, state_dict=state, save_original_format=False)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | _left_out(model.config, folder)
    _say(config, str(formats.main).removeprefix("torch."))
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _round(tensor: Tensor, dtype: torch.dtype) -> None:
    for block in tensor.view(-1).split(BLOCK) if tensor.is_contiguous() else (tensor,):
        rounded = block.to(dtype).to(block.dtype)
        if not torch.equal(rounded, block):
            block.copy_(rounded)


def _converted(tensor: Tensor, dtype: torch.dtype, folder: Path) -> Tensor:
    """The tensor in another format, in a file without a name in the folder: all of them would be half a model."""
    if dtype is tensor.dtype:
        return tensor
    path = folder / ".converted"
    converted = torch.from_file(str(path), shared=True, size=tensor.numel(), dtype=dtype).view(tensor.shape)
    path.unlink()
    return converted.copy_(tensor)


def _left_out(config: Any, folder: Path) -> dict[str, Any]:
    """What whoever reads the saved configuration would have otherwise.

    transformers leaves out what it takes for a default, such as two labels, even where the architecture has another.
    """
    read = type(config).from_pretrained(str(folder)).to_dict()
    own = {name: value for name, value in config.to_dict().items() if not name.startswith("_")}
    missed = {name: value for name, value in own.items() if name not in read or read[name] != value}
    return json.loads(json.dumps(missed, default=str))


def _stored(folder: Path) -> Iterator[tuple[str, tuple[str, int]]]:
    """Name, format and count of the numbers of each tensor in the folder's safetensors."""
    for path in weight_files(folder):
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118, no mapping
                piece = file.get_slice(name)
                stored = piece.get_dtype()
                if stored.startswith("F8"):
                    raise TaskError(
                        f"model.source: {name} is in {stored}, which cannot be trained; "
                        "load the model where it came from, dequantize it, and save it as bfloat16 or float32"
                    )
                yield name, (stored, prod(piece.get_shape()))


def is_stored_in(folder: Path, dtype: torch.dtype) -> bool:
    """Whether all floating point numbers of the folder's safetensors are in this format."""
    stored = {_trained_as(held) for _, (held, _) in _stored(folder)}
    return stored - {None} == {dtype}


def _trained_as(stored: str) -> torch.dtype | None:
    """The format of safetensors as torch's; None for whole numbers."""
    return _TORCH.get(stored, _NARROWED.get(stored))


def weight_files(folder: Path) -> list[Path]:
    """Those that transformers reads; others, such as variants in another format, may lie beside them."""
    if (one := folder / "model.safetensors").is_file():
        return [one]
    if (index := folder / "model.safetensors.index.json").is_file():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return [folder / name for name in sorted(names)]
    return sorted(folder.glob("*.safetensors"))


def _said(folder: Path) -> torch.dtype:
    """What `config.json` calls the format of weights that are no safetensors."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    said = config.get("dtype") or config.get("torch_dtype")
    return _TORCH.get(STORED_AS.get(said, ""), torch.float32)


def _narrowest(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    """This format where the tensor loses nothing by it."""
    return dtype if torch.equal(tensor.to(dtype).to(tensor.dtype), tensor) else torch.float32


def _say(config: dict[str, Any], dtype: str) -> None:
    """Makes a configuration, and those inside of it, name the format."""
    for key, value in config.items():
        if key in ("dtype", "torch_dtype") and value is not None:
            config[key] = dtype
        elif isinstance(value, dict):
            _say(value, dtype)
