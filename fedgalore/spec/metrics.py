"""Which metrics fit which predictions, and how much of a site they take to the coordinator.

How they are counted and what the counts are worth: `fedgalore.measures`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from fedgalore.spec.documents import printable
from fedgalore.spec.findings import close_to
from fedgalore.spec.tags import OUTSIDE, entity_types, misread

if TYPE_CHECKING:
    from fedgalore.spec.job import JobSpec
    from fedgalore.spec.model import ModelSpec

# What a model says of an example: one class; any of several labels; a number; a class for each token of entities;
# a text.
Kind = Literal["classes", "labels", "numbers", "entities", "texts"]

_OF_CLASSES = ("accuracy", "f1", "f1_micro", "f1_weighted", "precision", "recall")
_OF_ENTITIES = ("entity_f1", "entity_precision", "entity_recall")
ROUGE = ("rouge1", "rouge2", "rougeL")
METRICS: dict[Kind, tuple[str, ...]] = {
    "classes": (*_OF_CLASSES, "mcc", "auroc", "confusion_matrix"),
    "labels": (*_OF_CLASSES, "auroc"),
    "numbers": ("mse", "mae", "r2", "pearson", "spearman"),
    "entities": ("accuracy", *_OF_ENTITIES),
    "texts": ("accuracy", "perplexity", "exact_match", *ROUGE),
}
ALWAYS: dict[Kind, tuple[str, ...]] = {
    "classes": ("loss", "accuracy"),
    "labels": ("loss", "accuracy"),
    "numbers": ("loss", "mse"),
    "entities": ("loss", "accuracy"),
    "texts": ("loss", "accuracy"),
}
_CUSTOM = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
BINS = 1024  # of a histogram of scores
MOST_CELLS = 20_000  # different pairs of rounded numbers that a site sends for Spearman's correlation
MOST_COUNTS = 2**18  # numbers that a site sends of one evaluation


def kind_of(model: ModelSpec) -> Kind:
    """What the job's model says of an example."""
    if model.task == "token-classification":
        return "entities"
    match model.problem_type:
        case "single_label":
            return "classes"
        case "multi_label":
            return "labels"
        case "regression":
            return "numbers"
        case None:
            return "texts"


def is_custom(metric: str) -> bool:
    """Whether a metric is one of another package, as `package.module:NAME`: `fedgalore.measures.custom`."""
    return _CUSTOM.fullmatch(metric) is not None


def fitting(model: ModelSpec) -> tuple[str, ...]:
    """The metrics that a job of this model may name. Correlations are of one number an example."""
    kind = kind_of(model)
    return METRICS[kind] if kind != "numbers" or model.labels == 1 else ("mse", "mae")


def check_metrics(spec: JobSpec) -> None:
    """Looks at what `evaluation.metrics` asks for.

    Raises:
        ValueError: a metric does not fit what the model predicts, or a site would have to send too many counts.
    """
    asked, fit = spec.evaluation.metrics, fitting(spec.model)
    if "loss" in asked:
        raise ValueError("evaluation.metrics: loss is always measured; leave it out")
    if strange := [name for name in asked if name not in fit and not is_custom(name)]:
        raise ValueError(
            f"evaluation.metrics: {printable(strange[0], 60)!r} does not fit {spec.model.task} as this job sets it"
            f"{close_to(strange[0], fit)}; take of {', '.join(fit)}, or package.module:NAME of what the operators allow"
        )
    if any(name in _OF_ENTITIES for name in asked) and OUTSIDE not in (spec.model.label_names or ()):
        raise ValueError(
            f"evaluation.metrics: {', '.join(asked)} count entities by their tags; "
            "list the tags in model.label_names, such as [O, B-PER, I-PER]"
        )
    if any(name in _OF_ENTITIES for name in asked) and (odd := misread(spec.model.label_names or ())):
        raise ValueError(
            f"evaluation.metrics: {', '.join(asked)} count entities by tags such as B-PER and I-PER, and would take "
            f"{' and '.join(map(repr, odd))} for different types; rename them in model.label_names and in the data"
        )
    sizes = {name: counts_of(name, spec.model) for name in asked if not is_custom(name)}
    if sum(sizes.values()) > MOST_COUNTS:
        largest = max(sizes, key=lambda name: sizes[name])
        raise ValueError(
            f"evaluation.metrics: {', '.join(sizes)} of {spec.model.labels} classes are {sum(sizes.values())} numbers, "
            f"and a site sends at most {MOST_COUNTS}; leave {largest} out"
        )


def measured(spec: JobSpec) -> tuple[str, ...]:
    """All metrics of the job's evaluations: those that every job has first, then those that it asks for."""
    names = (*ALWAYS[kind_of(spec.model)], *spec.evaluation.metrics)
    matches = ("exact_match",) if spec.evaluation.matching is not None else ()
    return tuple(dict.fromkeys((*names, *matches)))


def class_names(metric: str, model: ModelSpec) -> tuple[str, ...]:
    """What a metric has a value for each of, if it has one: classes, or types of entities."""
    if metric in _OF_ENTITIES:
        return entity_types(model.label_names or ())
    return model.label_names or tuple(map(str, range(model.labels)))


def counts_fit(metric: str, size: int, model: ModelSpec) -> bool:
    """Whether a site may send so many numbers for a metric."""
    if is_custom(metric):
        return size <= MOST_COUNTS
    if metric == "spearman":
        return 5 <= size <= counts_of(metric, model) and size % 3 == 2
    return size == counts_of(metric, model)


def counts_of(metric: str, model: ModelSpec) -> int:
    """How many numbers a site sends for a metric; for `spearman` at most so many."""
    classes = len(class_names(metric, model))
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
