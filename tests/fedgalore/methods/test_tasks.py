"""Every method trains the models of every task."""

import pytest
import torch

from fedgalore.rounds import Start
from fedgalore.spec.registry import methods
from tests.builders import a_spec
from tests.fedgalore.rounds import a_round, aggregated, an_update, clients_of, version_0
from tests.fedgalore.tasks import CASES

FEWER = (
    "classes of a text",
    "tags of words",
    "a number of an image",
    "answers in a conversation",
    "answers of an encoder and decoder",
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(methods()))
@pytest.mark.parametrize("name", FEWER)
def test_a_round_changes_the_model(name, kind, request, tmp_path):
    case = CASES[name]
    method = {"kind": kind} if kind == "fedavg" else {"kind": kind, "rank": 4}
    spec = a_spec(model={"num_labels": None, **case.model}, method=method, local={"steps": 2, "batch_size": 2})
    task, weights = version_0(spec, request.getfixturevalue(case.folder))
    examples = {client: case.make(4, seed, tmp_path / client) for seed, client in enumerate("ab")}
    updates = {client: an_update(task, spec, examples[client], client, 1, Start(weights)) for client in "ab"}
    result = aggregated(task.plan, a_round(spec, clients_of(updates), weights)).weights
    assert result.keys() >= weights.keys()
    assert all(torch.isfinite(tensor).all() for tensor in result.values())
    task.load_weights(result)  # they fit
    trained = task.plan.weights()
    assert sum(not torch.equal(weights[name], result[name]) for name in trained) > len(trained) / 3
