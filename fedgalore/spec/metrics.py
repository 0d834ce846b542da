"""Which metrics fit which predictions, and how much of a site they take to the coordinator.

How they are counted and what the counts are worth: `fedgalore.measures`.
"""

from __future__ import annotations

from typing import Literal

# What a model says of an example: one class; any of several labels; a number; a class for each token of entities;
# a text.
Kind = Literal["classes", "labels", "numbers", "entities", "texts"]

_OF_CLASSES = ("accuracy", "f1", "f1_micro", "f1_weighted", "precision", "recall")
_OF_ENTITIES = ("entity_f1", "entity_precision", "entity_recall")
METRICS: dict[Kind, tuple[str, ...]] = {
    "classes": (*_OF_CLASSES, "mcc", "auroc", "confusion_matrix"),
    "labels": (*_OF_CLASSES, "auroc"),
    "numbers": ("mse", "mae", "r2", "pearson", "spearman"),
    "entities": ("accuracy", *_OF_ENTITIES),
    "texts": ("accuracy", "perplexity"),
}
ALWAYS: dict[Kind, tuple[str, ...]] = {
    "classes": ("loss", "accuracy"),
    "labels": ("loss", "accuracy"),
    "numbers": ("loss", "mse"),
    "entities": ("loss", "accuracy"),
    "texts": ("loss", "accuracy"),
}
BINS = 1024  # of a histogram of scores
MOST_CELLS = 20_000  # different pairs of rounded numbers that a site sends for Spearman's correlation
MOST_COUNTS = 2**18  # numbers that a site sends of one evaluation


def counts_of(metric: str, classes: int) -> int:
    """How many numbers a site sends for a metric, with so many classes; for `spearman` at most so many."""
    sizes = {
        **dict.fromkeys((*_OF_CLASSES, *_OF_ENTITIES, "mcc"), 3 * classes),
        "accuracy": 2,
        "confusion_matrix": classes * classes,
        "auroc": classes * 2 * BINS,
        "r2": 4,
        "pearson": 6,
        "spearman": 2 + 3 * MOST_CELLS,
    }
    return sizes.get(metric, 2)
