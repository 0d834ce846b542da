"""Clipped changes, noise of the deviation that was asked for, and an epsilon that holds."""

from math import comb, exp, log, sqrt

import pytest
import torch
from scipy.stats import kstest, norm

from benchmarks.epsilon import exact_delta, exact_epsilon, integrated_divergence, integrated_epsilon
from fedgalore.aggregation import privacy_spent
from fedgalore.deltas import orient_back
from fedgalore.maths.privacy import digest, epsilon, epsilon_of_site, fresh_noise, noise, noise_key
from fedgalore.rounds import ClientTensors, Start
from fedgalore.simulation import Site, simulate
from fedgalore.spec.job import SpecError
from fedgalore.spec.plan import Dense, Target, TrainingPlan
from tests.builders import a_spec
from tests.fedgalore.conftest import classifier, sentences
from tests.fedgalore.maths.test_robust import EXACTLY, METHODS, change_of
from tests.fedgalore.rounds import a_round, aggregated, an_update, clients_of, version_0

SECRET = "5e" * 32


@pytest.mark.parametrize(("multiplier", "rounds", "delta"), [(1.0, 1, 1e-5), (1.0, 20, 1e-5), (4.0, 100, 1e-6)])
def test_epsilon_holds_and_is_not_much_too_large(multiplier, rounds, delta):
    spent, mean = epsilon(multiplier, rounds, delta), sqrt(rounds) / multiplier
    assert exact_delta(mean, spent) <= delta
    assert exact_delta(mean, 0.85 * spent) > delta
    assert exact_delta(mean, exact_epsilon(mean, delta)) == pytest.approx(delta, rel=1e-6)
    integrated = integrated_epsilon(multiplier, rounds, 1.0, delta)
    assert integrated <= spent == pytest.approx(integrated, rel=1e-3)
    assert integrated_epsilon(multiplier, rounds, 0.5, delta) < integrated  # which nobody claims


@pytest.mark.parametrize(("multiplier", "rate", "order"), [(1.0, 1.0, 8.0), (0.8, 0.1, 4.0), (2.0, 0.3, 12.0)])
def test_the_divergence_that_is_integrated_is_that_of_the_sampled_gaussian(multiplier, rate, order):
    """Of whole orders there is a sum: Mironov, Talwar, Zhang (2019), section 3.3."""
    n, z = int(order), multiplier
    terms = [comb(n, k) * (1 - rate) ** (n - k) * rate**k * exp((k * k - k) / (2 * z * z)) for k in range(n + 1)]
    assert integrated_divergence(z, rate, order) == pytest.approx(log(sum(terms)) / (order - 1), rel=1e-9)


@pytest.mark.parametrize("multipliers", [[4.0], [8.0] * 20, [3.0, 5.0, 50.0]])
def test_epsilon_of_a_site_holds_for_changes_that_are_two_lengths_apart(multipliers):
    mean = sqrt(sum((2 / each) ** 2 for each in multipliers))
    spent = epsilon_of_site(multipliers, 1e-5)
    assert exact_delta(mean, spent) <= 1e-5 < exact_delta(mean, 0.85 * spent)
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
    sent = [digest(client.client, sorted(updates[client.client].tensors.items())) for client in clients]
    expected = noise((target.d, target.k), deviation, noise_key(SECRET, 1, sent), target.name)
    if method != "fedavg":  # whose changes are not oriented
        drawn_noise = drawn[list(moved[0]).index(target.name)].view(target.shape)
        torch.testing.assert_close(drawn_noise, orient_back(expected, target), rtol=1e-3, atol=1e-6)


def test_noise_hangs_on_the_secret_the_version_every_update_and_the_weight():
    def drawn(secret=SECRET, version=1, updates=("a", "b"), name="w"):
        key = noise_key(secret, version, [digest(each, [("w", torch.ones(2))]) for each in updates])
        return noise((4, 5), 1.0, key, name)

    assert torch.equal(drawn(), drawn())
    others = [
        {"secret": "ab" * 32},
        {"secret": "ff" + SECRET[2:]},  # beyond 64 bits
        {"version": 2},
        {"name": "v"},
        {"updates": ("a",)},
        {"updates": ("a", "b", "c")},
        {"updates": ("a", "c")},
    ]
    assert not any(torch.equal(drawn(), drawn(**other)) for other in others)


def test_an_update_is_told_from_every_other_by_its_digest():
    tensor = torch.arange(6.0)
    told = [
        digest("a", [("w", tensor)]),
        digest("b", [("w", tensor)]),
        digest("a", [("v", tensor)]),
        digest("a", [("w", tensor + torch.tensor([0, 0, 0, 0, 0, 1e-6]))]),
        digest("a", [("w", tensor[:3]), ("v", tensor[3:])]),
        digest("a", [("w", tensor[:2]), ("v", tensor[2:])]),
        digest("a", []),
    ]
    assert len(set(told)) == len(told)
    assert digest("a", [("w", tensor.view(2, 3).mT.contiguous().mT)]) == digest("a", [("w", tensor.view(2, 3))])


PLAN = TrainingPlan((Target("w", (6, 4), 2),), (Dense("head", (3, 4)),))


def released(clients, secret=SECRET, number=1, reverse=False):
    """The mean with its noise of clients that each change weight and head by these numbers."""
    spec = a_spec(method={"kind": "fedavg"}, privacy={"clip_norm": 10.0, "noise_multiplier": 1.0})
    weights = {name: torch.zeros(file.shape) for name, file in PLAN.weights().items()}
    updates = []
    for name, (weight, head) in sorted(clients.items(), reverse=reverse):
        tensors = {"w/delta": torch.full((6, 4), weight), "head/delta": torch.full((3, 4), head)}
        updates.append(ClientTensors(name, 5, 1.0, tensors.__getitem__))
    return aggregated(PLAN, a_round(spec, updates, weights, number=number, secret=secret)).weights


THREE = {"a": (0.1, 0.2), "b": (0.3, 0.1), "c": (0.2, 0.1)}


@pytest.mark.parametrize(
    "again",
    [
        {"clients": {"a": THREE["a"], "b": THREE["b"]}},  # one update less
        {"clients": THREE | {"d": (0.2, 0.1)}},  # one more
        {"clients": THREE | {"c": (0.2, 0.5)}},  # another head; the mean of the weight is the same
        {"clients": THREE | {"c": (0.2, 0.1000001)}},
        {"clients": {"a": THREE["a"], "b": THREE["b"], "d": THREE["c"]}},  # the same numbers of somebody else
        {"number": 2},  # what is trained again after a rollback makes another version
        {"secret": "5f" + SECRET[2:]},
    ],
    ids=str,
)
def test_whatever_is_aggregated_again_in_another_way_no_noise_comes_twice(again):
    once, twice = released(THREE), released(**{"clients": THREE} | again)
    for name in once:
        gap = (once[name] - twice[name]).double()
        assert float(gap.std()) > 1.0  # of two noises of 10 / 3 or 10 / 2 each; of equal noise it would be near 0
    assert all(torch.equal(once[name], same) for name, same in released(THREE, reverse=True).items())


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
