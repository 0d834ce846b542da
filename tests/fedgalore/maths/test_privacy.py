"""Clipped changes, noise of the deviation that was asked for, and an epsilon that holds."""

from math import exp, sqrt

import pytest
import torch
from scipy.stats import kstest, norm

from fedgalore.aggregation import privacy_spent
from fedgalore.deltas import orient_back
from fedgalore.maths.privacy import epsilon, epsilon_of_site, fresh_noise, noise
from fedgalore.rounds import Start
from fedgalore.simulation import Site, simulate
from fedgalore.spec.job import SpecError
from tests.fedgalore.conftest import classifier, sentences
from tests.fedgalore.maths.test_robust import EXACTLY, METHODS, change_of
from tests.fedgalore.rounds import a_round, aggregated, an_update, clients_of, version_0

SECRET = "5e" * 32


def least_delta(multiplier, rounds, at):
    """Of the Gaussian mechanism, exactly: Balle, Wang (2018), theorem 8, with a sensitivity of 1."""
    mean = sqrt(rounds) / multiplier
    return norm.cdf(mean / 2 - at / mean) - exp(at) * norm.cdf(-mean / 2 - at / mean)


@pytest.mark.parametrize(("multiplier", "rounds", "delta"), [(1.0, 1, 1e-5), (1.0, 20, 1e-5), (4.0, 100, 1e-6)])
def test_epsilon_holds_and_is_not_much_too_large(multiplier, rounds, delta):
    spent = epsilon(multiplier, rounds, delta)
    assert least_delta(multiplier, rounds, spent) <= delta
    assert least_delta(multiplier, rounds, 0.85 * spent) > delta


@pytest.mark.parametrize("multipliers", [[4.0], [8.0] * 20, [3.0, 5.0, 50.0]])
def test_epsilon_of_a_site_holds_for_changes_that_are_two_lengths_apart(multipliers):
    mean = sqrt(sum((2 / each) ** 2 for each in multipliers))
    spent = epsilon_of_site(multipliers, 1e-5)
    assert norm.cdf(mean / 2 - spent / mean) - exp(spent) * norm.cdf(-mean / 2 - spent / mean) <= 1e-5
    assert spent == pytest.approx(epsilon(1 / mean, 1, 1e-5), rel=1e-9)
    assert epsilon_of_site([], 1e-5) == 0 < epsilon_of_site(multipliers[:1], 1e-5) <= spent


def test_the_systems_noise_is_gaussian_and_never_the_same():
    first, second = (fresh_noise((101, 503), 2.0).flatten() for _ in range(2))
    assert kstest(first.numpy(), norm(scale=2.0).cdf).pvalue > 1e-6
    assert float((first - second).abs().min()) > 0
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.03
    assert fresh_noise((), 1.0).shape == ()
    assert fresh_noise((0, 3), 1.0).shape == (0, 3)


@pytest.mark.parametrize("method", METHODS)
def test_each_change_is_cut_and_all_weigh_alike_and_noise_is_added(method, tiny_bert):
    spec = classifier(
        method=METHODS[method],
        privacy={"clip_norm": 0.01, "noise_multiplier": 2.0},
        wire=EXACTLY,
        local={"steps": 3, "weight_decay": 0.1, "learning_rate": 1e-2},
    )
    task, weights = version_0(spec, tiny_bert)
    updates = {n: an_update(task, spec, sentences(6 + 9 * i, i), n, 1, Start(weights)) for i, n in enumerate("abc")}
    clients, plan = clients_of(updates), task.plan

    def changes(client):
        matrices = {target.name: change_of(spec, target, client) for target in plan.targets}
        return matrices | {item.name: client.read(f"{item.name}/delta").double() for item in plan.dense}

    result = aggregated(plan, a_round(spec, clients, weights, secret=SECRET))
    assert result.dropped == {}
    moved = [changes(client) for client in clients]
    norms = [sqrt(sum(float(change.square().sum()) for change in parts.values())) for parts in moved]
    assert min(norms) > 0.01
    decay = {target.name: clients[0].decay for target in plan.targets}
    drawn = []
    for name, weight in weights.items():
        if name not in moved[0]:
            continue
        mean = sum(0.01 / norm * parts[name] for parts, norm in zip(moved, norms, strict=True)) / 3
        drawn.append((result.weights[name].double() - decay.get(name, 1.0) * weight.double() - mean).flatten())
    whole = torch.cat(drawn)
    deviation = 2.0 * 0.01 / 3
    assert float(whole.std()) == pytest.approx(deviation, rel=0.03)
    assert abs(float(whole.mean())) < 5 * deviation / sqrt(len(whole))
    target = plan.targets[0]
    expected = noise((target.d, target.k), deviation, SECRET, 1, target.name)
    if method != "fedavg":  # whose changes are not oriented
        drawn_noise = drawn[list(moved[0]).index(target.name)].view(target.shape)
        torch.testing.assert_close(drawn_noise, orient_back(expected, target), rtol=1e-3, atol=1e-6)


def test_noise_hangs_on_the_secret_the_version_and_the_weight():
    drawn = noise((4, 5), 1.0, SECRET, 1, "w")
    assert torch.equal(drawn, noise((4, 5), 1.0, SECRET, 1, "w"))
    beyond_64_bits = "ff" + SECRET[2:]
    for other in (("ab" * 32, 1, "w"), (beyond_64_bits, 1, "w"), (SECRET, 2, "w"), (SECRET, 1, "v")):
        assert not torch.equal(drawn, noise((4, 5), 1.0, *other))


@pytest.mark.slow
def test_every_round_tells_what_was_spent(tiny_bert):
    spec = classifier(
        method={"state_sync": "reset"},
        privacy={"clip_norm": 0.1, "noise_multiplier": 1.5},
        rounds={"count": 2, "min_clients": 2},
        evaluation={"every": 0},
    )
    sites = [Site(name, sentences(12, i), sentences(4, i)) for i, name in enumerate("ab")]
    runs = [simulate(spec, tiny_bert, sites, secret=secret) for secret in (SECRET, SECRET, None)]
    spent = [record.statistics.get("epsilon") for record in runs[0].rounds]
    assert spent == [epsilon(1.5, 1, 1e-5), epsilon(1.5, 2, 1e-5), None]
    assert privacy_spent(classifier(), 1) == {}
    same, other = (
        all(torch.equal(runs[0].weights[name], run.weights[name]) for name in run.weights) for run in runs[1:]
    )
    assert (same, other) == (True, False)


PRIVACY = {"clip_norm": 1.0, "noise_multiplier": 1.0}


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"method": {"kind": "fedit"}}, ["privacy", "averages factors", "fedgalore or fedavg or flora"]),
        ({"method": {"state_sync": "ajive"}}, ["privacy", "second moments have no noise", "state_sync: reset"]),
        ({"method": {"kind": "fedgalore", "basis": "shared"}}, ["privacy", "method.basis: local"]),
        ({"method": {"state_sync": "reset"}, "server": {"clip_norm": 3}}, ["privacy", "leave server.aggregation"]),
        ({"privacy": PRIVACY | {"noise_multiplier": 0}}, ["privacy.noise_multiplier: 0 does", "above 0"]),
        ({"privacy": {"clip_norm": 1}}, ["privacy.noise_multiplier", "is missing; give a number above 0"]),
    ],
)
def test_what_would_leave_without_noise_is_refused(sections, words):
    with pytest.raises(SpecError) as caught:
        classifier(**{"privacy": PRIVACY, **sections})
    assert [word for word in words if word not in str(caught.value)] == []
