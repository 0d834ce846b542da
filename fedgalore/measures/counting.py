"""A site's half of a metric: what a model said of examples as counts, which `fedgalore.measures.values` describes.

torchmetrics is imported where a job first needs it: it takes a second and 100 MB, and most jobs ask for accuracy alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from fedgalore.measures.formulas import Array, bins_of, pooled_cells
from fedgalore.measures.values import Counts
from fedgalore.spec.metrics import BINS, MOST_CELLS
from fedgalore.spec.tags import entity_types, spans

Counter = Callable[[Tensor, Tensor], Array]  # scores, targets -> counts

_BITS = 16  # significant ones that Spearman's correlation keeps of a value


def _confusion(scores: Tensor, targets: Tensor) -> Array:
    """Scores `(N, C)`, targets `(N,)`."""
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    classes = scores.shape[1]
    return _array(multiclass_confusion_matrix(scores.argmax(1), targets, num_classes=classes).flatten())


def _right_of_classes(scores: Tensor, targets: Tensor) -> Array:
    return np.array([float((scores.argmax(1) == targets).sum()), float(len(targets))])


def _classes(scores: Tensor, targets: Tensor) -> Array:
    """Scores `(N, C)`, targets `(N,)`."""
    from torchmetrics.functional.classification import multiclass_stat_scores

    return _columns(
        multiclass_stat_scores(
            scores.argmax(1), targets, num_classes=scores.shape[1], average=None, validate_args=False
        )
    )


def _right_of_labels(scores: Tensor, targets: Tensor) -> Array:
    """An example is right when each of its labels is."""
    return np.array([float(((scores > 0) == (targets > 0.5)).all(1).sum()), float(len(targets))])


def _labels(scores: Tensor, targets: Tensor) -> Array:
    """Scores `(N, C)`, targets `(N, C)`."""
    from torchmetrics.functional.classification import multilabel_stat_scores

    # torchmetrics would take logits that all lie within [0, 1] for probabilities
    cut = (scores > 0).long()
    return _columns(
        multilabel_stat_scores(cut, targets.long(), num_labels=scores.shape[1], average=None, validate_args=False)
    )


def _columns(scores: Tensor) -> Array:
    """torchmetrics' `(C, 5)`, or `(5,)` of one class: right, wrongly predicted, neither, missed, true."""
    right, wrong, _, _, true = scores.reshape(-1, 5).T
    return _array(torch.cat([right, right + wrong, true]))


def _scores_of_classes(scores: Tensor, targets: Tensor) -> Array:
    """Log-odds of each class against the rest: `z_k - log sum of exp(z_j), j != k`."""
    scores = scores.double()
    rest = scores[:, None, :].expand(-1, scores.shape[1], -1).clone()
    rest.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
    is_class = torch.nn.functional.one_hot(targets, scores.shape[1])
    return _histograms(scores - rest.logsumexp(2), is_class)


def _histograms(log_odds: Tensor, targets: Tensor) -> Array:
    """`(C, 2, BINS)` of both `(N, C)`; the second of each pair is of targets that are 1."""
    classes = log_odds.shape[1]
    bins = torch.from_numpy(bins_of(_array(log_odds)))
    place = (torch.arange(classes) * 2 + (targets > 0.5).long()) * BINS + bins
    return _array(torch.bincount(place.flatten(), minlength=classes * 2 * BINS))


def _errors(error: Callable[[Tensor], Tensor]) -> Counter:
    def count(scores: Tensor, targets: Tensor) -> Array:
        return np.array([float(error(scores.double() - targets.double()).sum()), float(targets.numel())])

    return count


def _moments(values: Tensor) -> tuple[float, Tensor]:
    """Mean and differences from it, both float64. Equal values differ by exactly nothing."""
    first = values.double()[0]
    away = values.double() - first
    return float(first + away.mean()), away - away.mean()


def _r2(scores: Tensor, targets: Tensor) -> Array:
    middle, away = _moments(targets)
    errors = (scores.double() - targets.double()).square().sum()
    return np.array([float(errors), float(len(targets)), middle, float(away.square().sum())])


def _pearson(scores: Tensor, targets: Tensor) -> Array:
    (mean_p, p), (mean_t, t) = _moments(scores), _moments(targets)
    return np.array([len(targets), mean_p, mean_t, float(p @ p), float(t @ t), float(p @ t)], np.float64)


def _spearman(scores: Tensor, targets: Tensor) -> Array:
    """Cells of rounded pairs; rounded further where there are too many."""
    return bounded(np.column_stack([_array(scores), _array(targets), np.ones(len(targets))]))


def bounded(cells: Array, lost: Array | None = None) -> Array:
    """Counts of cells `(n, 3)` whose values are rounded to 16 significant bits, to fewer for at most `MOST_CELLS`."""
    for bits in range(_BITS, 0, -1):
        mantissa, exponent = np.frexp(cells[:, :2])
        rounded = np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits)
        away = cells[:, 2] @ (cells[:, :2] - rounded) ** 2 + (0 if lost is None else lost)
        result = pooled_cells([np.concatenate([away, np.column_stack([rounded, cells[:, 2]]).ravel()])])
        if len(result) <= 2 + 3 * MOST_CELLS:
            break
    return result


def _array(tensor: Tensor) -> Array:
    return tensor.detach().cpu().double().numpy()


_OF_CLASSES = ("f1", "f1_micro", "f1_weighted", "precision", "recall", "mcc")
COUNTERS: dict[str, dict[str, Counter]] = {
    "classes": {
        "accuracy": _right_of_classes,
        **dict.fromkeys(_OF_CLASSES, _classes),
        "auroc": _scores_of_classes,
        "confusion_matrix": _confusion,
    },
    "labels": {
        "accuracy": _right_of_labels,
        **dict.fromkeys(_OF_CLASSES[:-1], _labels),
        "auroc": _histograms,
    },
    "numbers": {
        "mse": _errors(torch.square),
        "mae": _errors(torch.abs),
        "r2": _r2,
        "pearson": _pearson,
        "spearman": _spearman,
    },
}


def count(kind: str, names: Iterable[str], scores: Tensor, targets: Tensor) -> dict[str, Array]:
    """Counts of these metrics on one batch, which is not empty.

    Args:
        kind: of the predictions, as `fedgalore.spec.metrics.Kind`.
        scores: logits `(N, C)`, or numbers `(N,)`.
        targets: classes `(N,)`, labels `(N, C)` or numbers `(N,)`.
    """
    return {name: COUNTERS[kind][name](scores, targets) for name in names}


def entities(scores: Tensor, targets: Tensor, lengths: Iterable[int], tags: Sequence[str]) -> Array:
    """`(3, types)`: entities that are found whole and of the right type; all that are predicted; all that are true.

    Args:
        scores: logits `(N, C)` of the words of all texts, one text after the other.
        lengths: words of each text.
        tags: the names of the classes.
    """
    types = entity_types(tags)
    result = np.zeros((3, len(types)))
    ends = np.cumsum(list(lengths))
    for words in map(slice, [0, *ends[:-1]], ends):
        predicted, true = (
            spans([tags[index] for index in part.tolist()]) for part in (scores[words].argmax(1), targets[words])
        )
        for row, found in enumerate((predicted & true, predicted, true)):
            for kind, _, _ in found:
                result[row, types.index(kind)] += 1
    return result.ravel()


def as_sent(sums: Counts) -> dict[str, Array]:
    """The counts of all of a site's batches, in the size that a site may send."""
    arrays = {name: np.asarray(given, np.float64) for name, given in sums.items()}
    if "spearman" in arrays:
        arrays["spearman"] = bounded(arrays["spearman"][2:].reshape(-1, 3), arrays["spearman"][:2])
    return arrays
