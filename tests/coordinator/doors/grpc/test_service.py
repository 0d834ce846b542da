"""The agents' door: registration, tasks, progress, and what all calls have in common."""

from __future__ import annotations

import asyncio
import errno
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from coordinator.doors.grpc.counts import REGISTRY
from coordinator.doors.grpc.guard import status_of
from coordinator.doors.grpc.server import SERVICE, serve
from coordinator.state import errors
from fedgalore import PROTOCOL_VERSION
from fedgalore.spec.job import JobSpec
from fedgalore.spec.plan import TrainingPlan
from protos import federation_pb2 as pb
from tests.builders import a_plan, a_result, a_spec, an_evaluation, blob_path
from tests.coordinator.doors.grpc.door import BIG, Code, House, failing, open_house, pb_ref
from tests.coordinator.doors.grpc.updates import ref
from tests.looking import round_of


@pytest.fixture
async def house(redis_url: str, tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(redis_url, tmp_path) as house:
        yield house


# --- registration and tasks -----------------------------------------------------------------------------------------


async def test_registering_tells_the_coordinators_version_and_patience(house: House) -> None:
    answer = await house.stub.Register(
        pb.RegisterRequest(client="site-a", protocol_version=PROTOCOL_VERSION, software_version="9", datasets={"d": 3})
    )
    assert (answer.software_version, answer.presence_s) == ("0.1.0", 30.0)
    (agent,) = await house.engine.reader.agents()
    assert (agent.name, agent.datasets, agent.software_version, agent.present) == ("site-a", {"d": 3}, "9", True)


async def test_another_protocol_version_is_refused_with_the_side_to_upgrade(house: House) -> None:
    async with failing(Code.FAILED_PRECONDITION, "protocol_version", "upgrade the coordinator"):
        await house.stub.Register(
            pb.RegisterRequest(client="site-a", protocol_version=PROTOCOL_VERSION + 1, software_version="2")
        )
    assert await house.engine.reader.agents() == []
    refused = {"method": "Register", "code": "protocol_mismatch"}
    assert (REGISTRY.get_sample_value("fedgalore_agent_calls_total", refused) or 0) >= 1


GOOD: dict[str, dict[str, Any]] = {
    "Register": {"client": "site-a", "protocol_version": PROTOCOL_VERSION, "software_version": "1"},
    "NextTask": {"client": "site-a"},
    "DownloadBlob": {"client": "site-a", "sha256": "0" * 64, "job_id": "job-1", "round": 1},
    "QueryUpload": {"client": "site-a", "job_id": "job-1", "round": 1},
    "ReportProgress": {"client": "site-a", "job_id": "job-1", "round": 1, "stage": "train"},
}


@pytest.mark.parametrize(
    ("method", "field", "value"),
    [
        ("Register", "client", ""),
        ("Register", "client", "../site"),
        ("Register", "client", "site-a\n"),
        ("Register", "protocol_version", 0),
        ("Register", "software_version", " "),
        ("Register", "software_version", "9" * 201),
        ("Register", "datasets", {f"d{number}": 1 for number in range(1001)}),
        ("Register", "datasets", {"../d": 1}),
        ("NextTask", "client", ""),
        ("NextTask", "wait_s", float("nan")),
        ("DownloadBlob", "client", ""),
        ("DownloadBlob", "sha256", ""),
        ("DownloadBlob", "sha256", "../../etc/passwd"),
        ("DownloadBlob", "job_id", ""),
        ("DownloadBlob", "round", 0),
        ("QueryUpload", "client", "a+b"),
        ("QueryUpload", "job_id", ""),
        ("QueryUpload", "round", 0),
        ("QueryUpload", "blob.sha256", None),
        ("QueryUpload", "blob.size_bytes", pb.BlobRef(sha256="0" * 64)),
        ("ReportProgress", "client", ""),
        ("ReportProgress", "job_id", ""),
        ("ReportProgress", "round", 0),
        ("ReportProgress", "failure", " "),
        ("ReportProgress", "job_id", "j" * 201),
        ("ReportProgress", "stage", "s" * 201),
        (
            "ReportProgress",
            "evaluation.metrics",
            pb.Evaluation(examples=1, metrics={"loss": 1, **{f"m{number}": 0 for number in range(100)}}),
        ),
        ("ReportProgress", "evaluation.examples", pb.Evaluation(metrics={"loss": 1})),
        ("ReportProgress", "evaluation.metrics.loss", pb.Evaluation(examples=1)),
        ("ReportProgress", "evaluation.metrics.f1", pb.Evaluation(examples=1, metrics={"f1": float("inf")})),
    ],
)
async def test_a_missing_or_senseless_field_is_named(house: House, method: str, field: str, value: Any) -> None:
    kinds: dict[str, Callable[..., Any]] = {name: getattr(pb, f"{name}Request") for name in GOOD}
    request = kinds[method](**{**GOOD[method], field.split(".")[0]: value})
    async with failing(Code.INVALID_ARGUMENT, f"{field}: "):
        call = getattr(house.stub, method)(request)
        if method == "DownloadBlob":
            _ = [message async for message in call]
        else:
            await call


async def test_an_unregistered_client_is_asked_to_register(house: House) -> None:
    for call in (house.poll("site-x"), house.download("site-x", "0" * 64, job_id="job-1", round=1)):
        async with failing(Code.UNAUTHENTICATED, "register first"):
            await call


async def test_a_task_holds_all_that_its_client_needs(house: House) -> None:
    await house.register("site-a", "site-b")
    job = await house.job()
    await house.engine.driver.tick_all()
    task = (await house.poll("site-a")).task
    assert (task.job_id, task.round, task.kind, task.evaluate) == (job.id, 1, pb.Task.KIND_TRAIN, True)
    assert JobSpec.model_validate(json.loads(task.spec_json)) == a_spec(wire={"bits": 32})
    assert TrainingPlan.from_dict(json.loads(task.plan_json)) == a_plan()
    assert [(file.name, file.blob.size_bytes) for file in task.base_model] == [("config.json", 6)]
    assert (task.model_version, task.rounds_behind, task.chain.checkpoint) == (0, 0, pb_ref(ref(BIG)))
    assert (task.posted_by, task.participants) == ("alice 1a2b3c4d", 2)
    assert not task.HasField("state")
    assert 50 < task.remaining_s <= 60
    assert (await house.poll("site-a")).task.round == 1  # asked again, it gets the same task


async def test_no_work_is_no_error(house: House) -> None:
    await house.register("site-a")
    assert not (await house.poll("site-a", wait_s=0.05)).HasField("task")


@pytest.mark.slow
async def test_long_polls_end_with_work_and_keep_nobody_waiting(house: House) -> None:
    clients = [f"idle-{n}" for n in range(20)]
    await house.register("site-a", "site-b", *clients)
    waiting = [asyncio.create_task(house.poll(client, wait_s=50)) for client in clients]
    poll = asyncio.create_task(house.poll("site-a", wait_s=50))
    await asyncio.sleep(0.3)
    started = time.perf_counter()
    await house.register("site-b")  # other calls need not wait
    assert time.perf_counter() - started < 1
    job = await house.job(rounds={"min_clients": 22, "goal_clients": 22})
    await house.engine.driver.tick_all()
    assert (await asyncio.wait_for(poll, 10)).task.job_id == job.id
    for other in waiting:
        assert (await asyncio.wait_for(other, 10)).HasField("task")


async def test_a_stopping_server_answers_its_long_polls(house: House) -> None:
    await house.register("site-a")
    poll = asyncio.create_task(house.poll("site-a", wait_s=50))
    await asyncio.sleep(0.2)
    started = time.perf_counter()
    await house.server.stop(5)
    assert not (await poll).HasField("task")
    assert time.perf_counter() - started < 2


@pytest.mark.slow
async def test_a_cancelled_long_poll_takes_no_task(house: House) -> None:
    await house.register("site-a", "site-b")
    call = house.stub.NextTask(pb.NextTaskRequest(client="site-a", wait_s=50))
    await asyncio.sleep(0.2)
    call.cancel()
    await asyncio.sleep(0.2)
    job = await house.job()
    await house.engine.driver.tick_all()
    flying = (await house.engine.reader.job(job.id)).round
    assert flying is not None
    assert flying.participants["site-a"].taken_at is None


# --- progress -------------------------------------------------------------------------------------------------------


async def test_progress_evaluation_and_failure_reach_the_round(house: House) -> None:
    job = await house.round()
    at = {"job_id": job.id, "round": 1}
    answer = await house.stub.ReportProgress(
        pb.ReportProgressRequest(client="site-a", stage="train", step=3, train_loss=0.5, **at)
    )
    assert answer.go_on
    progress = await house.engine.reader.live_progress(job.id)
    assert (progress["site-a"]["stage"], progress["site-a"]["step"]) == ("train", 3)

    evaluation = an_evaluation(loss=0.7, accuracy=0.5)
    answer = await house.stub.ReportProgress(
        pb.ReportProgressRequest(client="site-a", stage="evaluate", evaluation=evaluation, **at)
    )
    assert answer.go_on
    flying = await round_of(house.engine, job.id, 1)
    result = flying.participants["site-a"].evaluation
    assert result is not None
    assert result == a_result(0, 8, loss=0.7, accuracy=0.5)

    failed = pb.ReportProgressRequest(client="site-b", failure="disk full", failure_code="Disk full", **at)
    with pytest.raises(grpc.aio.AioRpcError, match="failure_code: 'Disk full' is no code"):
        await house.stub.ReportProgress(failed)
    failed.failure_code = "policy.learning_rate"
    assert not (await house.stub.ReportProgress(failed)).go_on
    site_b = (await round_of(house.engine, job.id, 1)).participants["site-b"]
    assert (site_b.failure, site_b.failure_code) == ("disk full", "policy.learning_rate")


HOSTILE = "[/x] <script>\x1b]8;;http://x\x07 \u202egnp.exe\r\nCOMPLETED"
TOLD = r"[/x] <script>\x1b]8;;http://x\x07 \u202egnp.exe  COMPLETED"


def also_measures(metric: str) -> pb.Evaluation:
    evaluation = an_evaluation()
    evaluation.metrics[metric] = 0.5
    return evaluation


async def test_whatever_an_agent_says_is_one_line_of_what_can_be_seen(house: House) -> None:
    request = pb.RegisterRequest(
        client="site-a", protocol_version=PROTOCOL_VERSION, software_version=HOSTILE, datasets={"reviews": 10}
    )
    await house.stub.Register(request)
    assert [agent.software_version for agent in await house.engine.reader.agents()] == [TOLD]
    job = await house.round()
    await house.stub.ReportCheck(pb.ReportCheckRequest(client="site-a", job_id=job.id, problem=HOSTILE))
    at = {"job_id": job.id, "round": 1}
    for fields, told in (
        ({"stage": HOSTILE}, "is none; send one of download, evaluate, train, upload"),
        ({"stage": "evaluate", "evaluation": also_measures(HOSTILE)}, "cannot be the name of a metric"),
        ({"stage": "evaluate", "evaluation": also_measures("f1")}, "metrics.f1: this job does not measure it"),
    ):
        async with failing(Code.INVALID_ARGUMENT, told):
            await house.stub.ReportProgress(pb.ReportProgressRequest(client="site-a", **fields, **at))
    async with failing(Code.INVALID_ARGUMENT, "cannot be a name"):
        await house.stub.Register(pb.RegisterRequest(client=HOSTILE, protocol_version=PROTOCOL_VERSION))
    await house.stub.ReportProgress(pb.ReportProgressRequest(client="site-b", failure=HOSTILE, **at))
    assert (await round_of(house.engine, job.id, 1)).participants["site-b"].failure == TOLD


async def test_a_long_failure_message_loses_its_end(house: House) -> None:
    job = await house.round()
    answer = await house.stub.ReportProgress(
        pb.ReportProgressRequest(client="site-b", job_id=job.id, round=1, failure="x" * 3_000_000)
    )
    assert not answer.go_on
    assert (await round_of(house.engine, job.id, 1)).participants["site-b"].failure == "x" * 1999 + "…"


async def test_a_client_that_works_for_a_closed_round_is_asked_to_stop(house: House) -> None:
    job = await house.round()
    await house.engine.people.cancel(job.id)
    evaluation = an_evaluation()
    for fields in ({"stage": "train"}, {"stage": "evaluate", "evaluation": evaluation}, {"failure": "too late"}):
        answer = await house.stub.ReportProgress(
            pb.ReportProgressRequest(client="site-a", job_id=job.id, round=1, **fields)
        )
        assert not answer.go_on
        assert "closed" in answer.reason
    answer = await house.stub.ReportProgress(
        pb.ReportProgressRequest(client="site-c", job_id=job.id, round=1, stage="train")
    )
    assert not answer.go_on


# --- the door itself ------------------------------------------------------------------------------------------------


async def test_health_and_reflection_are_served(house: House) -> None:
    stub = health_pb2_grpc.HealthStub(house.channel)
    for service in ("", SERVICE):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(house.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    answers = [answer async for answer in reflection.ServerReflectionInfo(iter([request]))]
    assert SERVICE in [service.name for service in answers[0].list_services_response.service]


async def test_a_taken_port_is_an_error(house: House) -> None:
    with pytest.raises(OSError, match=f"127.0.0.1:{house.server.port}"):
        await serve(house.engine.agents, house.blobs, house.doorkeeper, house.trail, "127.0.0.1", house.server.port)


async def test_an_unexpected_error_is_reported_by_an_id_that_the_log_has(house: House) -> None:
    job = await house.round()
    blob_path(house.blobs, ref(BIG).sha256).chmod(0o644)
    (house.tmp / "store" / "partial").rmdir()
    sample = house.sample(job)
    with structlog.testing.capture_logs() as logs, pytest.raises(grpc.aio.AioRpcError) as caught:
        await house.submit(sample, sample.bytes_in(house.tmp))
    details = caught.value.details() or ""
    assert caught.value.code() is Code.INTERNAL
    assert "No such file" not in details
    assert str(house.tmp) not in details
    (line,) = [line for line in logs if line["log_level"] == "error"]
    assert line["id"] in details
    assert isinstance(line["exc_info"], FileNotFoundError)


def test_every_domain_error_has_a_status() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "grpc_status")]
    assert len(kinds) > 10
    assert all(kind.grpc_status in Code.__members__ for kind in kinds)
    code, details = status_of(errors.WrongOffset("x" * 5000, 3))
    assert (code, len(details)) == (Code.OUT_OF_RANGE, 1000)
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):  # the agent waits, and goes on where it was
        assert status_of(OSError(number, "no"))[0] is Code.UNAVAILABLE


@pytest.mark.slow
def test_the_door_does_not_load_torch() -> None:
    script = (
        "import sys, coordinator.doors.grpc.server; sys.exit(any(m in sys.modules for m in ('torch', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=60).returncode == 0
