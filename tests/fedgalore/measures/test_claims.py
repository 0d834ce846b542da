"""What a site's counts claim: nobody counts for more than the job lets it, and no examples are counted otherwise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedgalore.measures.counting import count
from fedgalore.measures.values import MEASURES, fits, measured, pool, training_mean
from fedgalore.spec.metrics import METRICS, Kind
from fedgalore.spec.server import ServerSpec

CHANCE = np.random.default_rng(0)
SCORES = torch.from_numpy(CHANCE.normal(size=(60, 3)))
EXAMPLES: dict[Kind, tuple[torch.Tensor, torch.Tensor]] = {
    "classes": (SCORES, torch.from_numpy(CHANCE.integers(0, 3, 60))),
    "labels": (SCORES, torch.from_numpy(CHANCE.integers(0, 2, (60, 3)))),
    "numbers": (SCORES[:, 0], 5 + SCORES[:, 1]),
}
HONEST = [(name, list(count(kind, [name], *EXAMPLES[kind])[name])) for kind in EXAMPLES for name in METRICS[kind]] + [
    ("loss", [12.5, 10.0]),
    ("perplexity", [12.5, 10.0]),
    ("rouge1", [0.0, 0.0]),
    ("entity_f1", [1.0, 2.0, 1.0]),
]


@pytest.mark.parametrize(("name", "counts"), HONEST)
def test_what_was_counted_fits_and_half_of_twice_as_much_is_the_same(name: str, counts: list[float]) -> None:
    claim = MEASURES[name].claim
    assert claim is not None
    assert fits(name, counts)
    twice = pool([{name: counts}, {name: counts}])[name]
    assert fits(name, list(twice))
    assert claim.size(twice) == 2 * claim.size(np.array(counts))
    once = claim.shrunk(twice, 0.5)
    assert measured({name: once}).metrics == pytest.approx(measured({name: counts}).metrics)
    assert np.allclose(np.sort(once), np.sort(pool([{name: counts}])[name]))


@pytest.mark.parametrize(("name", "counts"), [each for each in HONEST if each[1][0]])
def test_a_claim_of_any_number_counts_for_three_times_the_median(name: str, counts: list[float]) -> None:
    claim = MEASURES[name].claim
    assert claim is not None
    server, hostile = ServerSpec(), claim.shrunk(np.array(counts), 1e15)
    within = pool([{name: counts}] * 3 + [{name: hostile}], server.near_median)[name]
    assert claim.size(within) == pytest.approx(6 * claim.size(np.array(counts)))
    believed = pool([{name: counts}] * 3 + [{name: hostile}], ServerSpec(max_weight=None).near_median)[name]
    assert claim.size(believed) > 1e14
    assert np.array_equal(pool([{name: counts}] * 3, server.near_median)[name], pool([{name: counts}] * 3)[name])


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("accuracy", [11.0, 10.0]),
        ("accuracy", [-1.0, 10.0]),
        ("accuracy", [0.0, -10.0]),
        ("loss", [-5.0, 10.0]),
        ("perplexity", [5.0, -1.0]),
        ("f1", [3.0, 1.0, 2.0, 1.0, 3.0, 1.0]),  # more right than predicted
        ("mcc", [1.0, -1.0, 2.0, 1.0, 3.0, 1.0]),
        ("confusion_matrix", [1.0, -1.0, 0.0, 2.0]),
        ("r2", [-1.0, 4.0, 2.0, 1.0]),
        ("pearson", [4.0, 0.0, 0.0, 1.0, 1.0, 1.5]),
        ("pearson", [4.0, 0.0, 0.0, -1.0, 1.0, 0.0]),
        ("spearman", [0.0, 0.0, 1.0, 2.0, -3.0]),
    ],
)
def test_what_no_examples_make_does_not_fit(name: str, counts: list[float]) -> None:
    assert not fits(name, counts)


def test_what_sites_measured_in_training_weighs_as_their_changes_do() -> None:
    trained = {name: (100, {"train_loss": 1.0}) for name in "abc"} | {"evil": (10**15, {"train_loss": 0.0, "odd": 2.0})}
    assert training_mean(ServerSpec(), trained) == {"train_loss": 0.5, "odd": 2.0}
    assert training_mean(ServerSpec(weighting="equal"), trained) == {"train_loss": 0.75, "odd": 2.0}
    assert training_mean(ServerSpec(max_examples=50), trained) == {"train_loss": 0.75, "odd": 2.0}
    assert training_mean(ServerSpec(max_weight=None), trained)["train_loss"] < 1e-12
    assert training_mean(ServerSpec(), {}) == {}
