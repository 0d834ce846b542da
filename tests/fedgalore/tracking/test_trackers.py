"""Real trackers: an MLflow server over HTTP, event files that TensorBoard reads, runs that W&B writes offline."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from coordinator.state.job_events import LoadedBack
from fedgalore.process.redis_server import free_port
from fedgalore.tracking import End, MLflow, Run, TensorBoard, Tracking, WandB, feeding
from fedgalore.tracking.wandb_file import steps
from tests.coordinator.doors.rest.stack import Stack
from tests.fedgalore.tracking.test_mapping import row

pytestmark = [
    pytest.mark.trackers,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("default"),  # of packages that are not in the lock of all tests
    *(
        pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not here: make trackers")
        for name in ("mlflow", "tensorboard", "wandb")
    ),
]


class Server:
    """A real MLflow server on a port and files of its own, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.port, self._folder = free_port(), folder
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db", "--workers", "1"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        log = self._folder / "server.log"
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                command, stdout=file, stderr=file, env=os.environ | quiet, start_new_session=True
            )
        end = time.monotonic() + 180
        while not self._answers():
            assert self.process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.2)

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(20)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=5).status_code == 200
        except httpx.TransportError:
            return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("mlflow"))
    yield started
    started.kill()


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")


def rounds(*numbers: int) -> list[dict[str, Any]]:
    return [row(n, client, "evaluation", "accuracy", n / 10) for n in numbers for client in (None, "north")]


def a_run(id: str) -> Run:
    return Run(id, "wards", {"name": "wards", "method": {"kind": "fedgalore", "rank": 8}}, ("night",))


def in_mlflow(url: str, experiment: str) -> tuple[Any, Any, str]:
    """MLflow's own client, the only run of the experiment, and its id."""
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=url)
    (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return client, run, run.info.run_id


def in_tensorboard(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()


def in_wandb(folder: Path, run_id: str) -> dict[int, dict[str, Any]]:
    """By step what W&B wrote of a run, in all processes together; no step stands there twice."""
    from wandb.proto.wandb_internal_pb2 import Record

    found: dict[int, dict[str, Any]] = {}
    for path in folder.glob(f"wandb/offline-run-*-{run_id}/run-{run_id}.wandb"):
        there = steps(path, Record)
        assert not found.keys() & there.keys()
        found |= there
    return found


async def fedgalore(arguments: list[str]) -> str:
    """What a command prints that ends well and has nothing to remark."""
    command = [sys.executable, "-m", "fedgalore_cli.main", *arguments]
    done = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, remarks = await done.communicate()
    assert (done.returncode, remarks.decode()) == (0, "")
    return out.decode()


async def test_a_job_is_in_all_trackers_once(
    stack: Stack, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    job = await stack.running(tmp_path, rounds={"count": 2})
    command = ["jobs", "track", job.id, "--url", str(stack.http.base_url), "--runs", str(tmp_path / "runs")]
    command += ["--to", "mlflow", "--to", "tensorboard", "--to", "wandb", "--experiment", "clinic", "--model", "last"]
    task = asyncio.create_task(fedgalore(command))
    await stack.trained(job, tmp_path, 1)
    await stack.trained(job, tmp_path, 2)
    await stack.evaluated(job, await stack.next_tasks("evaluate"), 2)
    await stack.engine.aggregator.loaded_back(job.id, LoadedBack(2))
    for printed in (await task, await fedgalore(command)):
        mlflow, tensorboard, wandb = printed.splitlines()
        assert mlflow.startswith(f"MLflow: {server.url}/#/experiments/")
        assert tensorboard == f"TensorBoard: {tmp_path / 'runs' / f'{job.parsed.name}-{job.id}'}"
        assert wandb.startswith(f"W&B: {tmp_path / 'wandb' / 'offline-run-'}")

    client, run, run_id = in_mlflow(server.url, "clinic")
    assert (run.info.status, run.data.params["rounds.count"]) == ("FINISHED", "2")
    assert {name: run.data.tags[f"fedgalore.{name}"] for name in ("status", "model_version", "kept_model_version")} == {
        "status": "COMPLETED",
        "model_version": "2",
        "kept_model_version": "2",
    }
    for name, values in (
        ("evaluation_by_client/accuracy/a", [(n, 0.9) for n in (1, 2, 3)]),
        ("server/rank", [(1, 2), (2, 2)]),
    ):
        assert [(each.step, each.value) for each in client.get_metric_history(run_id, name)] == values
    assert {each.path for each in client.list_artifacts(run_id, "model")} == {
        "model/config.json",
        "model/fedgalore.json",
        "model/model.safetensors",
    }
    assert [each.path for each in client.list_artifacts(run_id)] == ["job.yaml", "model"]

    events = in_tensorboard(tmp_path / "runs" / f"{job.parsed.name}-{job.id}")
    assert [each.step for each in events.Scalars("round/number")] == [1, 2, 3]
    assert [each.value for each in events.Scalars("traffic/up_bytes_so_far")] == [200, 400, 400]
    assert {"document", "end/COMPLETED"} <= set(events.Tags()["tensors"])

    for path in tmp_path.glob(f"wandb/offline-run-*-{job.id}/run-{job.id}.wandb"):
        assert not [word for word in (sys.executable, str(Path.cwd())) if word.encode() in path.read_bytes()]
    written = in_wandb(tmp_path, job.id)
    assert list(written) == [1, 2, 3]
    assert (written[1]["evaluation_by_client/accuracy/a"], written[3]["traffic/up_bytes_so_far"]) == (0.9, 400)


def test_no_round_is_lost_where_the_server_is_killed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeding, "LONGEST_PAUSE_S", 1.0)
    said: list[str] = []
    tracking = Tracking(a_run("killed"), [MLflow("killed", server.url)], said.append, patience_s=300)
    tracking.log(rounds(1))
    server.kill()
    started = time.monotonic()
    tracking.log(rounds(2))
    assert time.monotonic() - started < 5  # whatever the server does
    while not said:
        time.sleep(0.05)
    tracking.log(rounds(3))
    server.start()
    tracking.end(End("CANCELLED", "by hand"))
    client, run, run_id = in_mlflow(server.url, "killed")
    assert [(each.step, each.value) for each in client.get_metric_history(run_id, "evaluation/accuracy")] == [
        (1, 0.1),
        (2, 0.2),
        (3, 0.3),
    ]
    assert run.info.status == "KILLED"
    assert said[0].startswith("MLflow does not take what it gets (") and said[-1] == "MLflow takes it again"


@pytest.mark.parametrize("left", [1, 20])
def test_a_round_that_a_file_has_half_is_written_again(tmp_path: Path, left: int) -> None:
    first = Tracking(a_run("half"), [TensorBoard(tmp_path)])
    first.log(rounds(1, 2))
    first.leave(60)
    (file,) = (tmp_path / "wards-half").iterdir()
    os.truncate(file, file.stat().st_size - left)
    with Tracking(a_run("half"), [TensorBoard(tmp_path)]) as second:
        second.log(rounds(1, 2, 3))
    events = in_tensorboard(tmp_path / "wards-half")
    for name in ("evaluation/accuracy", "evaluation_by_client/accuracy/north", "round/number"):
        assert [each.step for each in events.Scalars(name)] == [1, 2, 3]


KILLED = """
import os, signal, sys
from fedgalore.tracking import TensorBoard, Tracking, WandB
from tests.fedgalore.tracking.test_trackers import a_run, rounds
tracking = Tracking(a_run("gone"), [TensorBoard(sys.argv[1]), WandB(folder=sys.argv[1])])
tracking.log(rounds(1, 2))
tracking.leave(60)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_that_was_killed_is_gone_on_with(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False, env={**os.environ})
    assert killed.returncode == -signal.SIGKILL
    with Tracking(a_run("gone"), [TensorBoard(tmp_path), WandB(folder=tmp_path)]) as tracking:
        tracking.log(rounds(1, 2, 3))
    events = in_tensorboard(tmp_path / "wards-gone")
    assert [each.step for each in events.Scalars("evaluation/accuracy")] == [1, 2, 3]
    end = time.monotonic() + 60
    while not (found := in_wandb(tmp_path, "gone")) and time.monotonic() < end:
        time.sleep(0.1)  # W&B's process writes the end behind our back
    assert sorted(found) == [1, 2, 3]
