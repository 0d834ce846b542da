"""The jobs that benchmarks post are jobs: a field that a method asks for is missing in none of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import aggregation, light_clients, light_round, peer_round, upload
from fedgalore.spec.job import parse

POSTED = {
    "light_round": (light_round.METHOD, {}),
    "peer_round": (peer_round.METHOD, {"wire": peer_round.WIRE}),
    "upload": (upload.METHOD, {"wire": upload.WIRE}),
}


@pytest.mark.parametrize("case", [case for cases in aggregation.cases(1).values() for case in cases], ids=str)
def test_of_aggregations(case: aggregation.Case) -> None:
    assert case.spec.method.kind == case.method["kind"]


@pytest.mark.parametrize("script", POSTED)
def test_of_light_clients(script: str) -> None:
    method, more = POSTED[script]
    document: dict[str, Any] = light_clients.document(Path("models/drawn"), 2, 3, method, **more)
    assert parse(document).method.kind == method["kind"]
