"""What a site refuses of jobs: each rule alone, the attack that the default forbids, and its siblings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client_agent.assignment import Assignment, SiteContext
from client_agent.cache import Cache
from client_agent.data import imbalance_of, read_all
from client_agent.errors import SiteRefuses
from client_agent.policy import Holdings, Policy, of_evaluation, of_job, of_task, refuse
from client_agent.settings import AgentSettings, DataSet
from client_agent.site_log import SiteLog, read
from client_agent.training_thread import TrainingThread
from client_agent.transport import Transport
from fedgalore.spec.census import Census
from protos import federation_pb2 as pb
from tests.builders import ANY_JOB, a_plan, a_spec
from tests.client_agent.conftest import write_reviews

ENOUGH = Holdings(examples=1000, held_out=100)
HASH, OTHER = "a" * 64, "b" * 64
SANE: dict[str, Any] = {
    "local": {"steps": 10, "batch_size": 16, "learning_rate": None},
    "method": {"kind": "fedgalore", "rank": 2},
}


def codes(policy: Policy, has: Holdings = ENOUGH, **sections: Any) -> list[str]:
    """Of what a site of this policy refuses of a sane job with these sections."""
    merged = {name: {**SANE.get(name, {}), **value} if name == "local" else value for name, value in sections.items()}
    return [refusal.code for refusal in of_job(policy, a_spec(**{**SANE, **merged}), has)]


def test_a_plain_job_is_allowed() -> None:
    assert codes(Policy()) == []


@pytest.mark.parametrize(
    ("sections", "code"),
    [
        ({"local": {"steps": 1, "batch_size": 1, "betas": (0.0, 0.0), "learning_rate": 10}}, "least_examples"),
        ({"local": {"steps": 1, "batch_size": 1}}, "least_examples"),
        ({"local": {"steps": 1, "batch_size": 31}}, "least_examples"),
        ({"local": {"steps": 8, "batch_size": 1, "micro_batch_size": 1}}, "least_examples"),
        (
            {
                "method": {"complement": 0, "update_proj_gap": 1, "basis_pool": 1},
                "local": {"steps": 32, "batch_size": 1},
            },
            "least_examples",
        ),
        ({"method": {"complement": 1e-30}, "local": {"steps": 32, "batch_size": 1}}, "least_examples"),
        ({"method": {"complement": 0.5}, "local": {"steps": 10, "batch_size": 31}}, "least_examples"),
        ({"local": {"steps": 32, "batch_size": 7}}, "least_examples"),  # a basis is of one batch
        ({"local": {"betas": (0.0, 0.999)}}, "beta1"),
        ({"local": {"betas": (0.9, 0.0)}}, "beta2"),
        ({"local": {"betas": (0.9, 0.9999999)}}, "beta2"),
        ({"local": {"eps": 1.0}}, "eps"),
        ({"local": {"eps": 1e-30}}, "eps"),
        ({"local": {"eps": 1e-8, "max_grad_norm": 1e-9}}, "max_grad_norm"),
        ({"local": {"learning_rate": 5.0}}, "learning_rate"),
        ({"local": {"learning_rate": 1e-3, "head_learning_rate": 5.0}}, "learning_rate"),
        ({"local": {"class_weights": (1e6, 1e-6)}}, "most_class_weight"),
        ({"method": {"kind": "fedgalore", "scale": 100}}, "scale"),
        ({"method": {"kind": "fedgalore", "complement": 100}}, "scale"),
        ({"method": {"kind": "fedit", "scale": 1000}, "local": {"learning_rate": 1e-3}}, "scale"),
        ({"rounds": {"min_clients": 1}}, "least_clients"),
    ],
)
def test_the_default_forbids_what_shows_few_examples(sections: dict[str, Any], code: str) -> None:
    assert f"policy.{code}" in codes(Policy(), **sections)


@pytest.mark.parametrize(
    "sections",
    [
        {"local": {"steps": 4, "batch_size": 8}},
        {"method": {"complement": 0.5}, "local": {"steps": 1, "batch_size": 32}},
        {"method": {"basis": "shared"}, "local": {"steps": 32, "batch_size": 1}},  # no basis of its own leaves
        {"method": {"kind": "flora"}, "local": {"steps": 32, "batch_size": 1, "learning_rate": 1e-3}},
    ],
)
def test_a_batch_needs_no_more_examples_than_an_update_shows_of_it(sections: dict[str, Any]) -> None:
    assert codes(Policy(), **sections) == []


def test_a_strict_site_takes_batches_of_eight() -> None:
    """The jobs of `deploy` and of the README, at the sites of `deploy`."""
    assert codes(Policy(least_examples=128), local={"steps": 10, "batch_size": 16}) == []
    assert codes(Policy(least_examples=128), local={"steps": 32, "batch_size": 7}) == ["policy.least_examples"]


def test_micro_batches_are_parts_of_what_is_averaged() -> None:
    assert codes(Policy(), local={"steps": 2, "batch_size": 16, "micro_batch_size": 1}) == []


@pytest.mark.parametrize(
    ("examples", "times"),
    [
        ([{"label": "a"}] * 6 + [{"label": "b"}] * 2, 3),
        ([{"label": ["a"]}] * 6 + [{"label": ["a", "b"]}] * 2, 3),  # six lack what two have
        ([{"tags": ["O", "O", "B"]}] * 5, 2),
        ([{"label": "1"}, {"label": 1}, {"label": 2}], 2),
        ([{"label": "a"}], 1),
        ([], 1),
    ],
)
def test_a_class_of_few_examples_does_not_decide_alone(examples: list[dict[str, Any]], times: float) -> None:
    assert imbalance_of(examples) == times
    policy, has = Policy(most_class_weight=2.5), replace(ENOUGH, imbalance=times)
    refused = ["policy.most_class_weight"] * (times > 2.5)
    found = [*of_job(policy, a_spec(**{**SANE, "local": {**SANE["local"], "class_weights": "balanced"}}), has)]
    assert [refusal.code for refusal in found] == refused
    assert all(": one is more than 2.5 times another here (" in refusal.words for refusal in found)  # not how many
    assert codes(policy, has) == []


def test_no_update_averages_over_more_examples_than_a_site_has() -> None:
    assert codes(Policy(), Holdings(1, None)) == ["policy.least_examples"]


@pytest.mark.parametrize(
    ("held_out", "section", "refused"),
    [
        (1, {}, True),
        (None, {}, False),
        (16, {"max_examples": 1000}, False),
        (100, {"max_examples": 1}, True),
        (100, {"split": "train", "max_examples": 15}, True),
    ],
)
def test_a_site_with_few_examples_to_evaluate_on_trains_and_measures_nothing(
    held_out: int | None, section: dict[str, Any], refused: bool
) -> None:
    spec, has = a_spec(**SANE, evaluation=section), Holdings(100, held_out)
    assert [*of_job(Policy(), spec, has)] == []
    found = [refusal.code for refusal in of_evaluation(Policy(), spec, has)]
    assert found == ["policy.least_evaluation_examples"] * refused


NOISY: dict[str, Any] = {"privacy": {"clip_norm": 1, "noise_multiplier": 1}}
ALL_WEIGHTS: dict[str, Any] = {"method": {"kind": "fedavg"}, "local": {"learning_rate": 1e-3}}
EMBEDDINGS: dict[str, Any] = {"method": {"kind": "fedgalore", "train_also": ["embeddings"]}}


@pytest.mark.parametrize(
    ("rule", "value", "refused", "allowed"),
    [
        ("data", ["notes-*", "scans"], {"data": {"name": "notes"}}, {"data": {"name": "notes-2026"}}),
        ("methods", ["fedgalore"], ALL_WEIGHTS, {}),
        ("weight_decay", [0, 0.1], {"local": {"weight_decay": 0.5}}, {"local": {"weight_decay": 0.1}}),
        ("least_noise", 1.0, {}, NOISY),
        ("least_noise", 2.0, NOISY, {"privacy": NOISY["privacy"] | {"noise_multiplier": 2}}),
        ("token_tables", False, EMBEDDINGS, {"method": {"kind": "fedgalore", "train_also": ["norms"]}}),
        ("token_tables", False, ALL_WEIGHTS, {}),
    ],
)
def test_a_rule_of_its_own(rule: str, value: Any, refused: dict[str, Any], allowed: dict[str, Any]) -> None:
    policy = Policy.model_validate({rule: value})
    assert codes(policy, **refused) == [f"policy.{rule}"]
    assert codes(policy, **allowed) == []


def test_answers_that_are_written_can_be_forbidden() -> None:
    asked: dict[str, Any] = {"model": {"task": "causal-lm", "source": "m", "num_labels": None}}
    assert codes(Policy(generates=False), **asked) == []
    judged = asked | {"evaluation": {"exact_match": "text"}}
    assert codes(Policy(generates=False), **judged) == ["policy.generates"]
    assert codes(Policy(), **judged) == []


def test_what_a_task_brings_is_looked_at_too() -> None:
    spec, plan = a_spec(**SANE), replace(a_plan(), size=0.05)

    def found(policy: Policy, plan: Any = plan, base: str | None = HASH, participants: int | None = 2) -> list[str]:
        return [refusal.code for refusal in of_task(policy, spec, plan, base, participants)]

    assert found(Policy()) == []
    assert found(Policy(), replace(plan, size=1e9)) == ["policy.learning_rate"] * 2  # a rate that no document names
    assert found(Policy(), replace(plan, size=float("nan"))) == ["policy.learning_rate"] * 2
    assert found(Policy(), replace(plan, new_head_width=1)) == ["policy.learning_rate"]
    assert found(Policy(base_models=(HASH,))) == found(Policy(base_models=(OTHER,)), base=None) == []
    assert found(Policy(base_models=(OTHER,))) == found(Policy(base_models=())) == ["policy.base_models"]
    assert found(Policy(), participants=1) == ["policy.least_clients"]
    assert found(Policy(), participants=None) == []
    embeds = replace(plan, census=Census(trained={"embedding": 8}))
    assert found(Policy(token_tables=False), embeds) == ["policy.token_tables"]


def test_a_refusal_says_field_value_rule_and_remedy_of_all_that_is_wrong() -> None:
    with pytest.raises(SiteRefuses) as caught:
        refuse(of_job(Policy(), a_spec(local={"steps": 1, "batch_size": 1, "betas": [0.9, 0.0]}), ENOUGH))
    assert caught.value.code == "policy.least_examples"
    assert "local.steps: 1 x local.batch_size 1 is 1 examples an update, and has to be at least 32" in str(caught.value)
    rule = "local.betas: 0 lies outside of 0.9 to 0.99999 (policy.beta2 of this site); change that in the job, or ask"
    assert rule in str(caught.value)


async def test_every_task_is_looked_at_and_an_update_that_lies_ready(tmp_path: Path) -> None:
    """A document that has changed since the preflight check, and a policy that has changed since the training."""
    rows = {split: write_reviews(tmp_path / f"{split}.jsonl") for split in ("train", "test")}
    data = {"reviews": DataSet(**rows, text="text", label="label")}
    line = Transport("127.0.0.1:1", "a", patience_s=0)  # nobody is there: what is refused asks nobody

    def task(policy: Policy, **changes: Any) -> Assignment:
        chosen = AgentSettings(name="a", work_dir=tmp_path / "work", data=data, policy=policy)
        thread = TrainingThread("cpu", 1)
        site = SiteContext(chosen, read_all(data), Cache(chosen.work_dir), SiteLog(chosen.work_dir), line, thread)
        plan = replace(a_plan(), size=0.05).to_dict()
        start = pb.Chain(start=HASH, checkpoint=pb.BlobRef(sha256=HASH, size_bytes=1))
        kind = pb.Task.KIND_TRAIN
        at = {"job_id": "job-1", "round": 1, "kind": kind, "participants": 2, "chain": start, **changes}
        return Assignment(pb.Task(spec_json=json.dumps(a_spec().model_dump()), plan_json=json.dumps(plan), **at), site)

    lax = Policy.model_validate(ANY_JOB)
    (tmp_path / "work").mkdir()
    SiteLog(tmp_path / "work").append("sends", job="another", document_sha256=HASH, what="update", version=1)
    for policy, changes, code in (
        (Policy(), {}, "least_examples"),
        (Policy(), {"kind": pb.Task.KIND_EVALUATE}, "least_examples"),
        (lax.model_copy(update={"least_clients": 2}), {"participants": 1}, "least_clients"),
        (lax.model_copy(update={"base_models": (HASH,)}), {}, "base_models"),
        (lax.model_copy(update={"most_rounds_a_day": 1}), {}, "most_rounds_a_day"),
        (lax.model_copy(update={"most_rounds_a_day": 1}), {"kind": pb.Task.KIND_EVALUATE}, "most_rounds_a_day"),
        (
            lax.model_copy(update={"least_evaluation_examples": 100}),
            {"kind": pb.Task.KIND_EVALUATE},
            "least_evaluation_examples",
        ),
    ):
        for step in (Assignment.prepare, Assignment.upload):
            with pytest.raises(SiteRefuses) as caught:
                await step(task(policy, **changes))
            assert caught.value.code == f"policy.{code}"
    await line.close()
    assert {path.name for path in (tmp_path / "work").rglob("*") if path.is_file()} == {"site.log", "site.log.head"}
    refused = [line["code"] for line in read(tmp_path / "work").lines if line["event"] == "refuses"]
    assert (
        refused[::2]
        == refused[1::2]
        == [
            f"policy.{code}"
            for code in ("least_examples",) * 2
            + ("least_clients", "base_models", "most_rounds_a_day", "most_rounds_a_day", "least_evaluation_examples")
        ]
    )
