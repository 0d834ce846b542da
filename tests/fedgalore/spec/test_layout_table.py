"""What every kind of file holds by method, written out for one tall and one wide matrix and a head.

The doors refuse whatever is not in these lists, so a slip here would break a federation of two versions.
"""

from __future__ import annotations

from typing import Any

import pytest

from fedgalore.spec.job import JobSpec
from fedgalore.spec.layout import aggregate_tensors, residue_tensors, state_tensors, update_tensors, weights_tensors
from fedgalore.spec.plan import Dense, Target, TensorSpec, TrainingPlan, factors_are_smaller
from tests.builders import a_spec

PLAN = TrainingPlan((Target("tall", (40, 30), 2), Target("wide", (30, 50), 3)), (Dense("head", (4, 30)),))
HEAD = {"head/delta": "F32 4 30"}
CODED_HEAD = {"head/delta": "Q4 4 30"}
WEIGHTS = {"tall": "F32 40 30", "wide": "F32 30 50", "head": "F32 4 30"}
LORA = {
    "tall/lora_A": "F32 2 30",
    "tall/lora_B": "F32 40 2",
    "wide/lora_A": "F32 3 50",
    "wide/lora_B": "F32 30 3",
}
STATE = {
    "tall/reference": "F32 30 2",
    "tall/rms": "F32 2 40",
    "tall/residual": "F32 1 40",
    "wide/reference": "F32 30 3",
    "wide/rms": "F32 3 50",
    "wide/residual": "F32 1 50",
}


def job(kind: str = "fedgalore", steps: int = 4, wire: dict[str, Any] | None = None, **method: Any) -> JobSpec:
    local = {"steps": steps, "batch_size": 2}
    return a_spec(method={"kind": kind, "rank": 3, **method}, wire=wire or {}, local=local)


def shown(tensors: dict[str, TensorSpec]) -> dict[str, str]:
    """`Q4`: quantized to 4 bits; `+`: without a sign."""
    words = {}
    for name, spec in tensors.items():
        code = spec.quantization
        dtype = f"Q{code.bits}{'' if code.signed else '+'}" if code else spec.dtype
        words[name] = " ".join([dtype, *map(str, code.shape if code else spec.shape)])
    return words


def factors(dtype: str, tall: int, wide: int) -> dict[str, str]:
    return {
        "tall/left": f"{dtype} 30 {tall}",
        "tall/right": f"{dtype} {tall} 40",
        "wide/left": f"{dtype} 30 {wide}",
        "wide/right": f"{dtype} {wide} 50",
    }


DENSE = {"tall/dense": "F32 40 30", "wide/dense": "F32 30 50"}
COMPRESSED = job(state_sync="ajive")
EXACT = job(state_sync="average", complement=0, global_momentum=0, update_proj_gap=3)
SHARED = job(state_sync="ajive", basis="shared", global_momentum=0)


def test_a_client_sends_the_leading_part_of_its_change_and_its_state() -> None:
    rms = {"tall/rms": "Q4+ 2 40", "wide/rms": "Q4+ 3 50"}
    residual = {"tall/residual": "Q4+ 1 40", "wide/residual": "Q4+ 1 50"}
    assert shown(update_tensors(COMPRESSED, PLAN, "a", 1)) == residual | CODED_HEAD | factors("Q4", 15, 23) | rms
    assert shown(update_tensors(job(state_sync="reset"), PLAN, "a", 1)) == CODED_HEAD | factors("Q4", 15, 23)
    cut = job(state_sync="ajive", wire={"up_rank": 2, "bits": 8})
    assert shown(update_tensors(cut, PLAN, "a", 1))["wide/rms"] == "Q8+ 2 50"
    assert shown(update_tensors(cut, PLAN, "a", 1)).items() >= factors("Q8", 2, 2).items()
    wide = job(wire={"up_rank": 64, "bits": 16})
    assert shown(update_tensors(wide, PLAN, "a", 1)).items() >= factors("Q16", 30, 30).items()
    exact = job(state_sync="ajive", wire={"bits": 32})
    floats = {"tall/rms": "F32 2 40", "wide/rms": "F32 3 50", "tall/residual": "F32 1 40", "wide/residual": "F32 1 50"}
    assert shown(update_tensors(exact, PLAN, "a", 1)) == HEAD | factors("F32", 15, 23) | floats


def test_tensors_of_float16_come_last_so_that_all_lie_aligned() -> None:
    for tensors in (update_tensors(COMPRESSED, PLAN, "a", 1), aggregate_tensors(job(), PLAN, ["a", "b"], 1)):
        dtypes = [spec.dtype for spec in tensors.values()]
        assert dtypes == sorted(dtypes, reverse=True)


def test_without_complement_a_client_sends_the_bases_that_it_trained_in() -> None:
    expected = {
        "tall/residual": "F32 1 40",
        "wide/residual": "F32 1 50",
        "tall/rms": "F32 2 40",
        "wide/rms": "F32 3 50",
    }
    for j in (0, 1):
        expected |= {f"tall/basis.{j}": "F32 30 2", f"tall/factor.{j}": "F32 2 40"}
        expected |= {f"wide/basis.{j}": "F32 30 3", f"wide/factor.{j}": "F32 3 50"}
    assert shown(update_tensors(EXACT, PLAN, "a", 1)) == expected | HEAD
    assert shown(aggregate_tensors(EXACT, PLAN, ["a", "b"], 1)) == factors("F32", 8, 12) | HEAD
    assert (
        shown(aggregate_tensors(EXACT, PLAN, ["a", "b", "c", "d"], 1))
        == {
            "tall/left": "F32 30 16",
            "tall/right": "F32 16 40",
            "wide/dense": "F32 30 50",
        }
        | HEAD
    )


def test_with_a_shared_basis_the_first_round_only_sketches() -> None:
    sketch = {"tall/sketch": "F32 30 6", "wide/sketch": "F32 30 7"}
    assert shown(update_tensors(SHARED, PLAN, "a", 1)) == sketch | HEAD
    later = sketch | {
        "tall/factor.0": "F32 2 40",
        "wide/factor.0": "F32 3 50",
        "tall/residual": "F32 1 40",
        "wide/residual": "F32 1 50",
        "tall/rms": "F32 2 40",
        "wide/rms": "F32 3 50",
    }
    assert shown(update_tensors(SHARED, PLAN, "a", 2)) == later | HEAD
    assert shown(aggregate_tensors(SHARED, PLAN, ["a", "b"], 1)) == HEAD
    assert shown(aggregate_tensors(SHARED, PLAN, ["a", "b"], 2)) == factors("F32", 2, 3) | HEAD
    small = {"tall/reference": "F32 30 2", "wide/reference": "F32 30 3"}
    assert shown(state_tensors(SHARED, PLAN, 1)) == small
    assert shown(state_tensors(SHARED, PLAN, 2)) == STATE


def test_an_aggregate_is_cut_on_its_way_down_and_the_rest_stays_on_the_server() -> None:
    cut = job(wire={"down_rank": 4})
    assert shown(aggregate_tensors(cut, PLAN, ["a", "b"], 1)) == CODED_HEAD | factors("Q4", 4, 4)
    assert shown(residue_tensors(cut, PLAN)) == factors("Q16", 4, 4) | {"head": "Q16 4 30"}
    assert shown(residue_tensors(job(wire={"down_rank": 4, "bits": 32}), PLAN)) == factors("F32", 4, 4)
    by_default = job()  # seven and a half times the rank, as up
    assert shown(aggregate_tensors(by_default, PLAN, ["a", "b"], 1)) == CODED_HEAD | factors("Q4", 15, 23)
    exact = job(wire={"up_rank": 4, "down_rank": 0, "bits": 32})
    assert shown(aggregate_tensors(exact, PLAN, ["a", "b"], 1)) == factors("F32", 8, 8) | HEAD
    assert shown(aggregate_tensors(exact, PLAN, list("abcdef"), 1)) == DENSE | HEAD  # factors would be no smaller
    shared = job(basis="shared", global_momentum=0.5)
    assert shown(aggregate_tensors(shared, PLAN, ["a", "b"], 2)) == factors("F32", 2, 3) | HEAD  # the change alone
    assert (
        residue_tensors(shared, PLAN)
        == residue_tensors(exact, PLAN)
        == residue_tensors(EXACT, PLAN)
        == residue_tensors(SHARED, PLAN)
        == {}
    )


def test_clients_start_from_what_the_method_carries() -> None:
    assert shown(state_tensors(EXACT, PLAN, 2)) == STATE
    assert shown(state_tensors(COMPRESSED, PLAN, 1)) == {
        name: text.replace("F32", "Q4" if name.endswith("reference") else "Q4+") for name, text in STATE.items()
    }
    assert state_tensors(job(state_sync="reset"), PLAN, 2) == state_tensors(job(state_sync="local"), PLAN, 2) == {}
    for kind in ("fedavg", "fedit", "flora"):
        assert state_tensors(a_spec(method={"kind": kind}), PLAN, 2) == {}


def test_federated_averaging_moves_whole_matrices() -> None:
    spec = a_spec(method={"kind": "fedavg"})
    whole = {"tall/delta": "F32 40 30", "wide/delta": "F32 30 50"}
    assert shown(update_tensors(spec, PLAN, "a", 1)) == whole | HEAD
    assert shown(aggregate_tensors(spec, PLAN, ["a", "b"], 1)) == DENSE | HEAD
    assert shown(weights_tensors(spec, PLAN, 0)) == WEIGHTS


def test_adapters_move_as_peft_keeps_them() -> None:
    for kind in ("fedit", "fedex_lora", "flora", "frlora"):
        assert shown(update_tensors(job(kind), PLAN, "a", 1)) == LORA | HEAD
    halves = {name: shape for name, shape in LORA.items() if name.endswith("lora_B")}
    for kind in ("ffa_lora", "fedsvd"):
        assert shown(update_tensors(job(kind), PLAN, "a", 1)) == halves | HEAD
    for kind in ("fedit", "frlora", "fedsvd"):
        assert shown(aggregate_tensors(job(kind), PLAN, ["a", "b"], 1)) == LORA | HEAD
    assert shown(aggregate_tensors(job("ffa_lora"), PLAN, ["a", "b"], 1)) == halves | HEAD
    assert shown(aggregate_tensors(job("flora"), PLAN, ["a", "b"], 1)) == factors("F32", 4, 6) | HEAD
    assert shown(aggregate_tensors(job("fedex_lora"), PLAN, ["a", "b"], 1)) == LORA | factors("F32", 6, 9) | HEAD
    for kind in ("fedit", "ffa_lora", "fedex_lora", "frlora", "fedsvd"):
        assert shown(weights_tensors(job(kind), PLAN, 1)) == WEIGHTS | LORA
    assert shown(weights_tensors(job("flora"), PLAN, 1)) == WEIGHTS
    assert shown(weights_tensors(COMPRESSED, PLAN, 0)) == WEIGHTS


def test_an_adapter_of_a_conv1d_has_its_sides_exchanged() -> None:
    plan = TrainingPlan((Target("w", (30, 50), 3, fan_in_fan_out=True),), ())
    assert shown(update_tensors(job("fedit"), plan, "a", 1)) == {"w/lora_A": "F32 3 30", "w/lora_B": "F32 50 3"}


def test_a_client_of_another_rank_sends_and_adds_that_rank() -> None:
    ranks = {"client_ranks": {"b": 5}}
    assert shown(update_tensors(job("flora", **ranks), PLAN, "b", 1))["wide/lora_A"] == "F32 5 50"
    assert shown(aggregate_tensors(job("flora", **ranks), PLAN, ["a", "b"], 1)) == factors("F32", 7, 8) | HEAD
    exact = job(complement=0, global_momentum=0, update_proj_gap=4, **ranks)
    assert shown(update_tensors(exact, PLAN, "b", 1))["wide/factor.0"] == "F32 5 50"
    assert shown(aggregate_tensors(exact, PLAN, ["a", "b"], 1)) == factors("F32", 7, 8) | HEAD
    cut = job(wire={"down_rank": 0}, client_ranks={"b": 1})
    assert shown(update_tensors(cut, PLAN, "b", 1))["wide/left"] == "Q4 30 8"
    assert shown(aggregate_tensors(cut, PLAN, ["b"], 1)) == factors("F32", 8, 8) | CODED_HEAD


def test_a_state_has_the_rank_of_its_client() -> None:
    ranks = {"client_ranks": {"b": 5}}
    compressed = shown(update_tensors(job(state_sync="ajive", **ranks), PLAN, "b", 1))
    assert (compressed["wide/left"], compressed["wide/rms"]) == ("Q4 30 30", "Q4+ 5 50")
    large = shown(update_tensors(job(state_sync="ajive", client_ranks={"b": 10}), PLAN, "b", 1))
    assert (large["wide/left"], large["wide/rms"]) == ("Q4 30 30", "Q4+ 10 50")
    cut = shown(update_tensors(job(state_sync="ajive", wire={"up_rank": 4}, **ranks), PLAN, "b", 1))
    assert (cut["wide/left"], cut["wide/rms"]) == ("Q4 30 4", "Q4+ 4 50")
    exact = job(state_sync="average", complement=0, global_momentum=0, **ranks)
    assert shown(update_tensors(exact, PLAN, "b", 1))["wide/rms"] == "F32 5 50"


@pytest.mark.parametrize(("q", "smaller"), [(1, True), (11, True), (12, False), (13, False)])
def test_factors_are_smaller_below_the_rank_where_both_take_the_same(q: int, smaller: bool) -> None:
    assert factors_are_smaller(20, 30, q) is smaller
