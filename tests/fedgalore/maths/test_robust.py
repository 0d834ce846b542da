"""A few clients cannot pull the model away: against NumPy and SciPy, and on whole rounds of real updates."""

import numpy as np
import pytest
import torch
from scipy import stats

from fedgalore.deltas import nothing, orient_back
from fedgalore.maths.robust import median, trimmed, trimmed_mean
from fedgalore.model.remarks import remarks
from fedgalore.rounds import ClientTensors, Start
from fedgalore.screening import screened
from fedgalore.simulation import Site, simulate
from fedgalore.spec.job import SpecError
from fedgalore.spec.layout import aggregate_tensors
from fedgalore.spec.server import ServerSpec
from fedgalore.training import local_update
from tests.fedgalore.conftest import classifier, sentences
from tests.fedgalore.rounds import a_round, aggregated, an_update, clients_of, version_0

METHODS = {
    "fedgalore": {"kind": "fedgalore", "rank": 4},
    "exact": {"kind": "fedgalore", "rank": 4, "complement": 0, "global_momentum": 0, "update_proj_gap": 2},
    "fedavg": {"kind": "fedavg"},
    "flora": {"kind": "flora", "rank": 4},
}
NAMES = "abcde"
BOUNDS = {
    "none": {"max_weight": None, "clip_norm": 3},
    "a multiple": {},
    "a number": {"max_weight": None, "max_examples": 9},
    "all alike": {"max_weight": None, "weighting": "equal"},
    "a median": {"max_weight": None, "aggregation": "median"},
}
EXACTLY = {"bits": 32, "down_rank": 0}


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 10, 11])
def test_against_numpy_and_scipy(count):
    stack = torch.randn(count, 6, 7, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    torch.testing.assert_close(median(stack), torch.from_numpy(np.median(stack.numpy(), axis=0)))
    for share in (0.1, 0.2, 0.49):
        cut = trimmed(count, share)
        expected = stats.trim_mean(stack.numpy(), cut / count + 1e-9, axis=0)
        torch.testing.assert_close(trimmed_mean(stack, share), torch.from_numpy(expected))
        assert cut >= 1 or count < 3
        assert 2 * cut < count


def a_job(method, **server):
    return classifier(
        method=method, server=server, wire=EXACTLY, local={"steps": 3, "weight_decay": 0.1, "learning_rate": 1e-2}
    )


def five_updates(spec, folder):
    task, weights = version_0(spec, folder)
    updates = {
        name: an_update(task, spec, sentences(6 + i, i), name, 1, Start(weights)) for i, name in enumerate(NAMES)
    }
    return task.plan, weights, clients_of(updates)


def blown_up(client: ClientTensors, factor: float) -> ClientTensors:
    """The client with a change that is `factor` times as long."""
    linear = ("/delta", "/right", "/factor.0", "/factor.1", "/lora_B")
    return ClientTensors(
        client.client,
        client.num_examples,
        client.decay,
        lambda name: factor * client.read(name).float() if name.endswith(linear) else client.read(name),
    )


def change_of(spec, target, client):
    """The client's change of a target, in the shape of the weight, float64."""

    def read(part):
        return client.read(f"{target.name}/{part}").double()

    match spec.method.kind:
        case "fedavg":
            return read("delta")
        case "flora":
            return spec.method.scale * read("lora_B") @ read("lora_A")
        case _ if spec.method.cuts:
            return orient_back(read("left") @ read("right"), target)
        case _:
            return orient_back(sum(read(f"basis.{j}") @ read(f"factor.{j}") for j in range(2)), target)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [("median", lambda x: np.median(x, axis=0)), ("trimmed_mean", lambda x: np.sort(x, axis=0)[1:-1].mean(0))],
)
def test_a_round_is_combined_coordinate_by_coordinate_in_the_full_space(method, aggregation, expected, tiny_bert):
    spec = a_job(METHODS[method], aggregation=aggregation, trim_share=0.2)
    plan, weights, clients = five_updates(spec, tiny_bert)
    clients[4] = blown_up(clients[4], 1e5)
    result = aggregated(plan, a_round(spec, clients, weights))
    decay = float(expected(np.array([client.decay for client in clients])))
    for target in plan.targets:
        changes = np.stack([change_of(spec, target, client).numpy() for client in clients])
        wanted = decay * weights[target.name].double() + torch.from_numpy(expected(changes))
        torch.testing.assert_close(result.weights[target.name].double(), wanted, rtol=1e-4, atol=1e-5)
    for item in plan.dense:
        deltas = np.stack([client.read(f"{item.name}/delta").double().numpy() for client in clients])
        wanted = weights[item.name].double() + torch.from_numpy(expected(deltas))
        torch.testing.assert_close(result.weights[item.name].double(), wanted, rtol=1e-4, atol=1e-5)
    shapes = {name: tuple(tensor.shape) for name, tensor in result.aggregate.items()}
    assert shapes == {
        name: tensor_spec.shape for name, tensor_spec in aggregate_tensors(spec, plan, list(NAMES), 1).items()
    }


@pytest.mark.parametrize("method", METHODS)
def test_a_change_far_too_long_is_left_out(method, tiny_bert):
    spec = a_job(METHODS[method], drop_norm=10, clip_norm=5)
    plan, weights, clients = five_updates(spec, tiny_bert)
    for index, factor in ((1, 100.0), (3, 7.0)):
        clients[index] = blown_up(clients[index], factor)
    screened_round, dropped = screened(a_round(spec, clients, weights).server, plan)
    assert list(dropped) == ["b"]
    assert "times as long as the median one (server.drop_norm: 10)" in dropped["b"]
    assert [client.client for client in screened_round.clients] == list("acde")
    assert [clip < 1 for clip in screened_round.clips] == [False, False, True, False]
    result = aggregated(plan, a_round(spec, clients, weights))
    assert result.dropped == dropped
    honest = a_job(METHODS[method])
    cut = blown_up(clients[3], screened_round.clips[2])
    wanted = aggregated(plan, a_round(honest, [clients[0], clients[2], cut, clients[4]], weights))
    for name, tensor in wanted.weights.items():
        torch.testing.assert_close(result.weights[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("server", "claim", "weights"),
    [
        ({}, 10**15, [27, 7, 8, 9, 10]),  # three times the median
        ({}, 24, [24, 7, 8, 9, 10]),
        ({"max_weight": 1.5}, 10**15, [13.5, 7, 8, 9, 10]),
        ({"max_weight": None}, 10**15, [10**15, 7, 8, 9, 10]),
        ({"max_examples": 8}, 10**9, [8, 7, 8, 8, 8]),
        ({"weighting": "equal"}, 10**15, [1, 1, 1, 1, 1]),
    ],
)
def test_a_client_weighs_what_the_job_lets_it_claim(server, claim, weights):
    spec = a_job({"kind": "fedavg"}, **server)
    clients = [ClientTensors(name, n, 1.0, nothing) for name, n in zip(NAMES, [claim, 7, 8, 9, 10], strict=True)]
    shares = a_round(spec, clients, {}).server.shares
    assert shares.tolist() == pytest.approx([weight / sum(weights) for weight in weights])


def test_of_two_clients_the_smaller_claim_is_the_median_and_no_limit_is_told(tiny_bert):
    assert ServerSpec().near_median([10**15, 5]) == [15.0, 5.0]
    assert ServerSpec().near_median([3, 10**15, 4, 5]) == [3.0, 12.0, 4.0, 5.0]
    task, _ = version_0(a_job({"kind": "fedavg"}), tiny_bert)
    told = {
        name: [word for word in remarks(task.under(a_job({"kind": "fedavg"}, **server))) if "claims" in word]
        for name, server in BOUNDS.items()
    }
    (note,) = told.pop("none")
    assert note.startswith("server.max_weight: null lets a client that claims enough examples outweigh all others")
    assert not any(told.values())


@pytest.mark.parametrize(
    ("server", "clients", "words"),
    [
        ({"max_weight": 1e9}, 5, "server.max_weight: 1e+09 lets a client count for as much as all others together"),
        ({"clip_norm": 2}, 4, "server.max_weight: 3 lets"),
        ({"clip_norm": 2}, 5, ""),
        ({}, 2, ""),  # nothing was asked for; SECURITY says what one of two can do
        ({"clip_norm": 2, "weighting": "equal"}, 2, ""),
        ({"max_weight": 1e9, "max_examples": 100}, 2, ""),
        ({"aggregation": "median"}, 2, "server.aggregation: median of fewer than three clients is their plain mean"),
        ({"aggregation": "trimmed_mean"}, 3, ""),
    ],
)
def test_what_protects_nobody_in_so_small_a_round_is_said(server, clients, words, tiny_bert):
    spec = classifier(method={"kind": "fedavg"}, server=server, rounds={"count": 2, "min_clients": clients})
    told = [each for each in remarks(version_0(spec, tiny_bert)[0]) if each.startswith("server.")]
    assert [each[: len(words)] for each in told] == [words] * bool(words)


def test_states_are_combined_alike(tiny_bert):
    spec = a_job({"kind": "fedgalore", "rank": 4, "state_sync": "average", "state_scale": "own"}, aggregation="median")
    plan, weights, clients = five_updates(spec, tiny_bert)
    loud = clients[4]
    clients[4] = ClientTensors(
        "e", 10, loud.decay, lambda n: 1e3 * loud.read(n).float() if n.endswith("/rms") else loud.read(n)
    )
    state = aggregated(plan, a_round(spec, clients, weights)).state
    calm = aggregated(plan, a_round(spec, [*clients[:4], loud], weights)).state
    for name, tensor in calm.items():
        if name.endswith("/rms"):
            assert state[name].max() < 10 * tensor.max()  # the loud client's is a thousand times too large


def test_a_dropped_client_goes_on_from_what_it_kept_before(tiny_bert):
    """No model holds the update of a dropped client. What that update left out must not be sent as if one did."""

    def wild(this, examples):
        update = local_update(this, examples)
        seen.append({name: tensor.clone() for name, tensor in this.start.kept.items()})
        if this.number != 2:
            return update
        grown = {n: 1e3 * t.float() if n.endswith(("/right", "/delta")) else t for n, t in update.tensors.items()}
        return type(update)(
            {n: t.to(update.tensors[n].dtype) for n, t in grown.items()},
            update.num_examples,
            update.decay,
            update.metrics,
            update.kept,
        )

    seen = []
    spec = classifier(
        method={"rank": 2},
        server={"drop_norm": 5},
        rounds={"count": 3, "min_clients": 3, "goal_clients": 4},
        evaluation={"every": 0},
    )
    sites = [Site(name, sentences(12, i), sentences(4, i)) for i, name in enumerate("abcd")]
    sites[3] = Site("d", sites[3].train, sites[3].test, local_update=wild)
    rounds = simulate(spec, tiny_bert, sites).rounds
    assert [sorted(record.dropped) for record in rounds] == [[], ["d"], [], []]
    first, second, third = seen
    assert first == {}
    assert second.keys() == third.keys() != set()
    assert all(torch.equal(second[name], third[name]) for name in second)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"server": {"aggregation": "mode"}}, ["server.aggregation", "'mode' does", "mean, trimmed_mean or median"]),
        ({"server": {"trim_share": 0.5}}, ["server.trim_share", "below 0.5"]),
        ({"server": {"clip_norm": 3, "drop_norm": 2}}, ["server", "drop_norm (2) must be above clip_norm (3)"]),
        ({"server": {"max_weight": 0.5}}, ["server.max_weight", "a number of at least 1"]),
        (
            {"server": {"weighting": "equal", "max_examples": 7}},
            ["max_examples (7) bounds nothing with weighting: equal", "take weighting: examples"],
        ),
        (
            {"method": {"kind": "fedit"}, "server": {"aggregation": "median"}},
            ["server.aggregation", "averages factors", "fedgalore or fedavg or flora"],
        ),
        ({"method": {"kind": "fedit"}, "server": {"drop_norm": 3}}, ["server.drop_norm", "averages factors"]),
        (
            {"method": {"kind": "fedgalore", "basis": "shared"}, "server": {"aggregation": "median"}},
            ["server.aggregation", "method.basis: local"],
        ),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_remedy(sections, words):
    with pytest.raises(SpecError) as caught:
        classifier(**sections)
    assert [word for word in words if word not in str(caught.value)] == []
