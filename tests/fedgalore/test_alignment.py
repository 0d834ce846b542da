"""What a job says of its clients' optimizer states, by layer."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedgalore.alignment import Alignment, by_layer, layer_of
from fedgalore.simulation import Site, simulate
from tests.fedgalore.conftest import classifier, sentences


@pytest.mark.parametrize(
    ("parameter", "layer"),
    [
        ("bert.encoder.layer.10.attention.self.query.weight", "bert.encoder.layer.10"),
        ("model.layers.3.mlp.experts.7.up_proj.weight", "model.layers.3"),
        ("bert.pooler.dense.weight", "bert.pooler.dense"),
        ("weight", "weight"),
    ],
)
def test_a_parameter_belongs_to_the_layer_of_its_first_number(parameter: str, layer: str) -> None:
    assert layer_of(parameter) == layer


def test_a_layer_is_the_mean_of_its_matrices_and_layers_are_in_the_models_order() -> None:
    matrices = {
        "layer.10.query": Alignment(2, {"north": 1.0, "south": 0.5}),
        "layer.9.query": Alignment(1, {"north": 0.25, "south": 0.0}),
        "layer.9.key": Alignment(4, {"north": 0.75, "south": 1.0}),
    }
    found = by_layer(matrices)
    assert list(found) == ["layer.9", "layer.10"]
    assert found["layer.9"] == Alignment(2.5, {"north": 0.5, "south": 0.5})
    assert by_layer({}) == {}


def test_alike_sites_share_more_than_unlike_ones(tiny_bert: Path) -> None:
    """The same texts at two sites, and others at a third, whose classes neither has."""
    spec = classifier(
        method={"rank": 4, "state_sync": "ajive"},
        rounds={"count": 2, "min_clients": 3},
        local={"steps": 3, "batch_size": 16, "learning_rate": 1e-3},
    )
    texts, others = sentences(16, 0, ("weather", "music")), sentences(16, 1, ("food",))
    sites = [Site(name, rows, rows) for name, rows in (("east", texts), ("north", texts), ("south", others))]
    layers = simulate(spec, tiny_bert, sites).rounds[0].alignment
    assert list(layers) == sorted(layers) and len(layers) >= 2
    for found in layers.values():
        assert set(found.explained) == {"east", "north", "south"}
        assert 0 <= found.joint_rank <= 4 and all(0 <= share <= 1 for share in found.explained.values())
