"""What a site's own noise cannot cover is refused, and what it has cost is counted for good."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from client_agent import settings
from client_agent.assignment import Assignment, SiteContext
from client_agent.cache import Cache
from client_agent.protection import Protection, of_evaluation, of_job, of_plan, of_spent
from client_agent.settings import AgentSettings, DataSet
from client_agent.site_log import SiteLog, read
from client_agent.training_thread import TrainingThread
from client_agent.transport import Transport
from fedgalore.maths.privacy import epsilon_of_site
from fedgalore.process.settings import SettingsError
from fedgalore.spec.plan import Buffer
from protos import federation_pb2 as pb
from tests.builders import a_plan, a_spec
from tests.client_agent.conftest import Coordinator
from tests.client_agent.test_agent import aggregating, configure, post, serving, until
from tests.looking import rounds_of

GIVEN = {"clip_norm": 1.0, "noise_multiplier": 10.0, "epsilon": 2.0}
CHOSEN = Protection.model_validate(GIVEN)
RESET = {"kind": "fedgalore", "rank": 2, "state_sync": "reset"}


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"method": RESET}, []),
        ({"method": {"kind": "fedit"}}, []),
        ({"method": {"kind": "fedavg"}}, []),
        ({"method": {"kind": "fedgalore", "state_sync": "ajive"}}, ["method: fedgalore as it is set sends more"]),
        ({"method": {"kind": "fedgalore", "basis": "shared"}}, ["method: fedgalore as it is set sends more"]),
        ({"method": RESET, "local": {"weight_decay": 0.1}}, ["local.weight_decay: is 0.1"]),
        (
            {"method": RESET, "local": {"weights": "bfloat16", "precision": "bfloat16"}},
            ["local.weights: bfloat16 rounds noise away"],
        ),
    ],
)
def test_what_cannot_be_covered_is_refused(sections: dict[str, Any], words: list[str]) -> None:
    found = [*of_job(CHOSEN, a_spec(**sections))]
    assert [refusal.words.startswith(word) for refusal, word in zip(found, words, strict=True)] == [True] * len(words)
    assert {refusal.code for refusal in found} <= {"protection.method"}
    assert [*of_job(None, a_spec(**sections))] == []


def test_buffers_and_metrics_have_no_noise() -> None:
    plan = replace(a_plan(), buffers=(Buffer("norm.running_mean", (4,)),))
    assert [refusal.code for refusal in of_plan(CHOSEN, plan)] == ["protection.method"]
    assert [refusal.code for refusal in of_evaluation(CHOSEN)] == ["protection.metrics"]
    allowed = CHOSEN.model_copy(update={"metrics": True})
    assert [*of_plan(CHOSEN, a_plan()), *of_plan(None, plan), *of_evaluation(allowed), *of_evaluation(None)] == []


@pytest.mark.slow
def test_another_update_is_refused_where_it_would_cost_more_than_there_is() -> None:
    one, two = (epsilon_of_site([10.0] * count, 1e-5) for count in (1, 2))
    between = CHOSEN.model_copy(update={"epsilon": (one + two) / 2})
    assert [*of_spent(between, [])] == []
    (refusal,) = of_spent(between, [10.0])
    assert refusal.code == "protection.epsilon"
    assert f"another update would make it {two:.4g}, and there is {between.epsilon:g}" in refusal.words
    assert [refusal.code for refusal in of_spent(between, [0.1])] == ["protection.epsilon"]  # of an earlier config


@pytest.mark.parametrize("wrong", [{"noise_multiplier": 0}, {"clip_norm": -1}, {"epsilon": None}, {"sigma": 1}])
def test_a_config_that_would_not_protect_is_refused(wrong: dict[str, Any], tmp_path: Path) -> None:
    (name,) = wrong
    path = tmp_path / "agent.yaml"
    rows = {"train": "t.jsonl", "text": "x", "label": "y"}
    document = {"name": "a", "work_dir": "w", "data": {"d": rows}, "protection": GIVEN | wrong}
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(SettingsError, match=f"protection.{name}: "):
        settings.load(path)


@pytest.mark.slow
async def test_a_site_gives_what_it_gives_and_then_no_more_also_after_a_restart(
    coordinator: Coordinator, tiny_model: Path, tmp_path: Path
) -> None:
    """Two updates are paid for; each is counted before it leaves. Metrics, losses and words stay."""
    budget = (epsilon_of_site([10.0] * 2, 1e-5) + epsilon_of_site([10.0] * 3, 1e-5)) / 2
    config = configure(tmp_path, coordinator.address, protection=GIVEN | {"epsilon": budget})
    async with aggregating(coordinator):
        async with serving(config):
            first = await post(coordinator, tiny_model, method=RESET, rounds={"count": 3}, evaluation={"every": 1})
            job = await until(coordinator, first, lambda job: job.abandoned_in_a_row > 0)
        assert job.model is not None
        assert job.model.version == 2
        done = (await rounds_of(coordinator.engine, first))[:3]
        parts = [each.participants["a"] for each in done]
        assert [part.failure_code for part in parts] == [None, None, "protection.epsilon"]
        assert [part.receipt.metrics for part in parts[:2] if part.receipt] == [{}, {}]
        assert [part.evaluation for part in parts] == [None] * 3

        async with serving(config):  # a restart gives nothing back, nor does another job
            second = await post(coordinator, tiny_model, method=RESET, rounds={"count": 1})
            refused = await until(coordinator, second, lambda job: bool(job.sites) and not job.unanswered)
        assert refused.sites["a"].code == "protection.epsilon"
    lines = read(tmp_path / "a" / "work").lines
    assert [line["event"] for line in lines if line.get("what") == "update" or line["event"] == "noise"] == [
        *("noise", "sends"),
        *("noise", "sends"),
    ]
    assert not any(line.get("what") == "evaluation" for line in lines)
    assert SiteLog(tmp_path / "a" / "work").noise_multipliers() == [10.0, 10.0]


async def test_nothing_made_without_noise_leaves_once_there_is_a_protection(tmp_path: Path) -> None:
    """Neither an update that lies ready, nor what an earlier one left out."""
    line = Transport("127.0.0.1:1", "a")
    data = {"reviews": DataSet(train=tmp_path / "t.jsonl", text="text", label="label")}
    start = pb.Chain(start="a" * 64, checkpoint=pb.BlobRef(sha256="a" * 64, size_bytes=1))
    task = pb.Task(job_id="job-1", round=1, kind=pb.Task.KIND_TRAIN, chain=start)

    def ready(protection: Protection | None) -> Assignment:
        chosen = AgentSettings(name="a", work_dir=tmp_path / "work", data=data, protection=protection)
        log = SiteLog(chosen.work_dir)
        return Assignment(task, SiteContext(chosen, {}, Cache(chosen.work_dir), log, line, TrainingThread("cpu", 1)))

    plain, covered = ready(None), ready(CHOSEN)
    plain._update.touch()
    assert plain.work().update_ready
    assert not covered.work().update_ready
    assert not plain._update.exists()
    covered._update.touch()
    assert covered.work().update_ready
    assert plain._kept_name(3) != covered._kept_name(3)
    await line.close()
