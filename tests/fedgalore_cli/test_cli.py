"""The `fedgalore` command against a real coordinator process, and the process itself."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import redis
import yaml
from typer.testing import CliRunner, Result

from coordinator.engine.assembly import Engine, assemble
from coordinator.state.job_state import Prepared
from coordinator.state.records import RoundTask
from coordinator.state.round_state import EvaluationResult
from coordinator.store.directory_blob_store import DirectoryBlobStore
from coordinator.store.redis_state_store import RedisStateStore
from fedgalore import PROTOCOL_VERSION
from fedgalore.process.redis_server import RedisServer, free_port
from fedgalore_cli.main import app
from protos.codec import SafetensorsWriter
from tests.builders import a_plan, a_prepared, job_document, put_bytes, whole_version
from tests.sites import all_fit


class Coordinator:
    """A coordinator process; `stop` ends it and returns its exit status."""

    def __init__(self, redis_url: str, folder: Path, *flags: str) -> None:
        port_file = folder / "ports.json"
        self.blobs = folder / "blobs"
        command = [sys.executable, "-m", "fedgalore_cli.main", "coordinator", "--redis-url", redis_url, *flags]
        command += [
            "--blob-dir",
            str(self.blobs),
            "--rest-port",
            "0",
            "--grpc-port",
            "0",
            "--port-file",
            str(port_file),
        ]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FEDGALORE_")}
        self.log = folder / "coordinator.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stderr=log, env=environment)
        end = time.monotonic() + 30
        while not port_file.exists():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)
        self.url = f"http://127.0.0.1:{json.loads(port_file.read_text())['rest']}"
        self.port_file = port_file

    def stop(self, sign: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(sign)
        return self.process.wait(20)


@pytest.fixture(scope="module")
def process(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    """One for all tests here; `coordinator` empties its Redis."""
    running = Coordinator(redis_server.url, tmp_path_factory.mktemp("coordinator"), "--no-aggregator")
    yield running
    assert running.stop() == 0


@pytest.fixture
def coordinator(process: Coordinator, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Coordinator:
    with redis.Redis.from_url(redis_url) as client:  # emptied, and still the one of the coordinator's blobs
        client.mset({"fedgalore:store": (process.blobs / "store-id").read_text().strip(), "fedgalore:age": 10**6})
    monkeypatch.setenv("FEDGALORE_URL", process.url)
    return process


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job_document()))
    return path


def fedgalore(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def moved(redis_url: str, move: Callable[[Engine], Awaitable[object]]) -> None:
    """Does something to the state behind the coordinator's back, as another of its processes would."""

    async def run() -> None:
        engine = assemble(RedisStateStore(redis_url))
        try:
            await move(engine)
        finally:
            await engine.close()

    asyncio.run(run())


def assert_error_line(result: Result, *words: str, status: int = 1) -> None:
    """The command failed with a single line of error that holds these words."""
    assert result.exit_code == status
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    for word in words:
        assert word in result.stderr


@pytest.mark.slow
def test_help_answers_without_the_heavy_imports() -> None:
    heavy = ("torch", "transformers", "fastapi", "grpc", "httpx", "pydantic", "redis")
    script = f"import sys, fedgalore_cli.main; print([name for name in {heavy} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
    shown = fedgalore("--help")
    assert shown.exit_code == 0
    for command in ("coordinator", "aggregator", "agent", "jobs", "agents", "version"):
        assert command in shown.stdout
    for command in (
        "validate",
        "submit",
        "list",
        "get",
        "watch",
        "cancel",
        "pause",
        "resume",
        "rounds",
        "download",
        "adapter",
    ):
        assert command in fedgalore("jobs", "--help").stdout
        assert fedgalore("jobs", command, "--help").exit_code == 0
    assert "--work-dir" in fedgalore("agent", "--help").stdout


def test_version() -> None:
    assert f"protocol {PROTOCOL_VERSION}" in fedgalore("version").stdout


@pytest.mark.slow
def test_a_job_is_submitted_listed_and_cancelled(coordinator: Coordinator, job_file: Path) -> None:
    submitted = fedgalore("jobs", "submit", job_file, "--key", "once")
    assert submitted.exit_code == 0
    job = submitted.stdout.strip()
    assert fedgalore("jobs", "submit", job_file, "--key", "once").stdout.strip() == job

    listed = json.loads(fedgalore("jobs", "list", "-o", "json").stdout)["jobs"]
    assert [row["id"] for row in listed] == [job]
    assert "PENDING" in fedgalore("jobs", "list").stdout
    assert json.loads(fedgalore("jobs", "get", job, "-o", "json").stdout)["spec"]["name"] == "tiny"
    assert "waiting for the aggregator" in fedgalore("jobs", "get", job).stdout
    assert json.loads(fedgalore("jobs", "rounds", job, "-o", "json").stdout) == {"rounds": []}
    assert_error_line(fedgalore("jobs", "pause", job), "PENDING", "[illegal_transition]")
    assert "CANCELLED" in fedgalore("jobs", "cancel", job).stdout
    assert json.loads(fedgalore("jobs", "list", "--status", "completed", "-o", "json").stdout)["jobs"] == []
    watched = fedgalore("jobs", "watch", job)
    assert "tiny: CANCELLED" in watched.stdout
    assert_error_line(watched, "is CANCELLED", status=4)


@pytest.mark.slow
def test_a_mended_copy_starts_from_a_version_of_the_old_job(
    coordinator: Coordinator, redis_url: str, job_file: Path
) -> None:
    old = fedgalore("jobs", "submit", job_file).stdout.strip()
    assert_error_line(fedgalore("jobs", "clone", old), "has no version", "--from-base")
    moved(redis_url, lambda engine: engine.aggregator.prepared(old, a_prepared()))
    steps = ("--set", "local.steps=20")
    tried = fedgalore("jobs", "clone", old, *steps, "--dry-run")
    assert tried.exit_code == 0
    assert yaml.safe_load(tried.stdout)["local"]["steps"] == 20
    assert {"+  steps: 20", "-  steps: 2", f"+  source: job:{old}@0"} <= set(tried.stderr.splitlines())
    clone = fedgalore("jobs", "clone", old, *steps, "--version", "0", "--key", "k").stdout.strip()
    assert fedgalore("jobs", "clone", old, *steps, "--key", "k").stdout.strip() == clone
    spec = json.loads(fedgalore("jobs", "get", clone, "-o", "json").stdout)["spec"]
    assert (spec["model"]["source"], spec["local"]["steps"]) == (f"job:{old}@0", 20)
    again = fedgalore("jobs", "clone", old, "--from-base").stdout.strip()
    assert json.loads(fedgalore("jobs", "get", again, "-o", "json").stdout)["spec"]["model"]["source"] == "models/tiny"
    assert len(json.loads(fedgalore("jobs", "list", "-o", "json").stdout)["jobs"]) == 3
    assert_error_line(fedgalore("jobs", "clone", old, "--set", "local.stpes=3"), "local has no stpes; it has steps")
    assert_error_line(fedgalore("jobs", "clone", old, "--version", "first"), "say last, best, or a version's number")
    assert_error_line(fedgalore("jobs", "clone", old, "--version", "best"), "has no best version")
    assert_error_line(fedgalore("jobs", "clone", old, "--from-base", "--version", "1"), "leave one of the two out")
    refused = fedgalore("jobs", "clone", old, "--version", "7")
    assert refused.exit_code == 1
    assert f"model.source: version: 7 of job {old} does not exist yet" in refused.stderr.splitlines()[-1]
    refused = fedgalore("jobs", "clone", old, "--set", "rounds.count=many")
    assert "rounds.count: " in refused.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_job_is_deleted(coordinator: Coordinator, job_file: Path) -> None:
    job = fedgalore("jobs", "submit", job_file, "--key", "once").stdout.strip()
    assert_error_line(fedgalore("jobs", "delete", job), "PENDING", "cancel it first", "[illegal_transition]")
    assert fedgalore("jobs", "delete", job, "--cancel").stdout == f"{job} is deleted; within minutes that frees 0 B\n"
    assert_error_line(fedgalore("jobs", "delete", job), "does not exist", "[job_not_found]")
    assert fedgalore("jobs", "submit", job_file, "--key", "once").stdout.strip() not in ("", job)


@pytest.mark.slow
def test_a_job_is_validated_without_being_posted(coordinator: Coordinator, job_file: Path, tmp_path: Path) -> None:
    tried = fedgalore("jobs", "validate", job_file)
    assert tried.exit_code == 0
    whole = yaml.safe_load(tried.stdout)
    assert (whole["name"], whole["method"]["rank"], whole["evaluation"]["every"]) == ("tiny", 2, 1)
    assert "warning: data.name: no agent is present" in tried.stderr
    offline = fedgalore("jobs", "validate", job_file, "--offline", "--url", "http://127.0.0.1:9")
    assert (offline.exit_code, yaml.safe_load(offline.stdout), offline.stderr) == (0, whole, "")
    assert json.loads(fedgalore("jobs", "validate", job_file, "-o", "json").stdout)["spec"] == whole
    assert fedgalore("jobs", "list", "-o", "json").stdout.strip() == json.dumps({"jobs": []}, indent=2)
    whole_file = tmp_path / "whole.yaml"
    whole_file.write_text(tried.stdout)
    submitted = fedgalore("jobs", "submit", whole_file)
    assert submitted.exit_code == 0
    assert "warning: data.name: no agent is present" in submitted.stderr
    bad = tmp_path / "bad.yaml"
    bad.write_text(yaml.safe_dump(job_document(method={"rank": 0}, extra=1)))
    for flags in ((), ("--offline",)):
        assert_error_line(fedgalore("jobs", "validate", bad, *flags), "method.rank", "extra: unknown key")
    assert_error_line(fedgalore("jobs", "validate", tmp_path / "nowhere.yaml"), "cannot be read", status=2)


@pytest.mark.slow
def test_a_prepared_job_is_downloaded(coordinator: Coordinator, redis_url: str, job_file: Path, tmp_path: Path) -> None:
    job = fedgalore("jobs", "submit", job_file).stdout.strip()
    assert_error_line(fedgalore("jobs", "download", job, "--to", tmp_path / "model"), "[not_ready]")
    assert_error_line(fedgalore("jobs", "adapter", job, "--to", tmp_path / "model"), "[not_ready]")
    blobs = DirectoryBlobStore(coordinator.blobs)
    specs = a_plan().weights()
    with SafetensorsWriter(tmp_path / "w", specs, {}) as writer:
        for name, spec in specs.items():
            writer.write(name, np.ones(spec.shape, np.float32))
    weights = blobs.put_file(tmp_path / "w")
    files = (("config.json", put_bytes(blobs, b'{"a": 1}')), ("model.safetensors", weights))
    prepared = Prepared(a_plan().to_dict(), files, files, whole_version(0, weights), notes=("texts are cut",))
    moved(redis_url, lambda engine: engine.aggregator.prepared(job, prepared))
    assert "texts are cut" in fedgalore("jobs", "get", job).stdout.splitlines()
    done = fedgalore("jobs", "download", job, "--to", tmp_path / "model")
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "model" / "config.json").read_text() == '{"a": 1}'
    assert json.loads((tmp_path / "model" / "fedgalore.json").read_text())["job"] == job
    assert_error_line(
        fedgalore("jobs", "download", job, "--to", tmp_path / "model"), "exists and is not an empty folder", status=2
    )
    assert_error_line(fedgalore("jobs", "download", job, "--to", tmp_path / "m", "--version", "3"), "version: 3")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.yaml", "model", "w"]

    done = fedgalore("jobs", "adapter", job, "--rank", "3", "--to", tmp_path / "adapter")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "adapter")
    assert "rank 3 keeps 100.0 % of the change's energy" in done.stderr
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["target_modules"], config["modules_to_save"]) == (3, ["layer"], ["head"])
    assert_error_line(
        fedgalore("jobs", "adapter", job, "--to", tmp_path / "model"), "exists and is not an empty folder", status=2
    )
    assert fedgalore("jobs", "adapter", job, "--rank", "0", "--to", tmp_path / "a").exit_code == 2


@pytest.mark.slow
@pytest.mark.parametrize("exact_match", [0.25, None])
def test_exact_match_is_shown_where_a_job_has_it(
    coordinator: Coordinator, redis_url: str, tmp_path: Path, exact_match: float | None
) -> None:
    document = job_document(
        model={"task": "causal-lm", "num_labels": None},
        rounds={"min_clients": 1, "selection_wait_s": 0},
        evaluation={"exact_match": "number" if exact_match else None},
    )
    job_file = tmp_path / "job.yaml"
    job_file.write_text(yaml.safe_dump(document))
    job = fedgalore("jobs", "submit", job_file).stdout.strip()
    metrics = {"loss": 0.5, "accuracy": 0.75} | ({"exact_match": exact_match} if exact_match else {})

    async def evaluated(engine: Engine) -> None:
        await engine.aggregator.prepared(job, a_prepared())
        await engine.agents.register("a", PROTOCOL_VERSION, "0.1.0", {"reviews": 7})
        await all_fit(engine)
        task = await engine.agents.next_task("a", wait_s=10)
        assert isinstance(task, RoundTask)
        counts = {name: (8 * value, 8.0) for name, value in metrics.items()}
        await engine.agents.evaluated(job, task.round.number, "a", EvaluationResult(0, 8, metrics, counts))

    moved(redis_url, evaluated)
    got = fedgalore("jobs", "get", job).stdout  # with the tables of clients and rounds
    assert got.count("75.0 %") == 2
    assert got.count("exact match") == got.count("25.0 %") == (2 if exact_match else 0)
    fedgalore("jobs", "cancel", job)
    watched = fedgalore("jobs", "watch", job).stdout
    assert "accuracy 75.0 %" in watched
    assert ("exact match 25.0 %" in watched) == bool(exact_match)


@pytest.mark.slow
def test_jobs_are_labelled_compared_and_told_of(
    coordinator: Coordinator, redis_url: str, job_file: Path, tmp_path: Path
) -> None:
    first = fedgalore("jobs", "submit", job_file, "--tag", "nightly", "--description", "a trial").stdout.strip()
    second = fedgalore("jobs", "clone", first, "--from-base", "--set", "method.rank=1").stdout.strip()
    assert fedgalore("jobs", "label", second, "--tag", "b", "--tag", "a").stdout == f"{second}: a, b\n"
    assert fedgalore("jobs", "label", second, "--no-tags").stdout == f"{second}: no tags\n"
    assert_error_line(fedgalore("jobs", "label", second), "nothing is to be changed")
    assert_error_line(fedgalore("jobs", "label", second, "--tag", "a", "--no-tags"), "leave one of the two out")
    tagged = json.loads(fedgalore("jobs", "list", "--tag", "nightly", "--name", "TIN", "-o", "json").stdout)["jobs"]
    assert [row["id"] for row in tagged] == [first]

    shown = fedgalore("jobs", "compare", first, second).stdout.splitlines()
    assert shown[-2].split() == ["differences", first, second]
    assert shown[-1].split() == ["method.rank", "2", "1"]
    compared = json.loads(fedgalore("jobs", "compare", first, second, "-o", "json").stdout)
    assert compared["differences"] == {"method.rank": {first: 2, second: 1}}
    assert compared["results"]["status"] == {first: "PENDING", second: "PENDING"}
    for jobs in ([first], [first, first], [first] * 9):
        assert_error_line(fedgalore("jobs", "compare", *jobs), "give two to 8 different ones")

    moved(redis_url, lambda engine: engine.aggregator.prepared(first, a_prepared()))
    (model,) = json.loads(fedgalore("models", "list", "-o", "json").stdout)["models"]
    assert (model["job"], model["versions"][0]["version"]) == (first, 0)
    assert first in fedgalore("models", "list", "--tag", "nightly").stdout
    assert "there are no such models" in fedgalore("models", "list", "--tag", "weekly").stderr
    assert "nothing such was measured yet" in fedgalore("jobs", "metrics", first).stderr

    fedgalore("jobs", "cancel", first)
    lines = fedgalore("jobs", "logs", first).stdout.splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d info    submitted: .*", lines[0])
    assert "cancelled" in lines[-1]
    followed = fedgalore("jobs", "logs", first, "--follow", "--tail", "1", "-o", "json").stdout
    assert json.loads(followed)["text"] in lines[-1]


@pytest.mark.slow
def test_agents_are_listed(coordinator: Coordinator, redis_url: str) -> None:
    assert "no agents yet" in fedgalore("agents", "list").stderr
    moved(redis_url, lambda engine: engine.agents.register("clinic-1", PROTOCOL_VERSION, "0.1.0", {"reviews": 7}))
    assert "clinic-1" in fedgalore("agents", "list").stdout
    assert json.loads(fedgalore("agents", "list", "-o", "json").stdout)["agents"][0]["datasets"] == {"reviews": 7}
    described = fedgalore("agents", "describe", "clinic-1").stdout
    assert described.startswith("clinic-1 is present")
    assert "data reviews: 7 training examples\nhas no task" in described
    assert_error_line(fedgalore("agents", "describe", "clinic-2"), "there is no agent 'clinic-2'")


@pytest.mark.slow
def test_errors_are_a_single_line_with_a_remedy(coordinator: Coordinator, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(yaml.safe_dump(job_document(method={"rank": 0}, extra=1)))
    assert_error_line(fedgalore("jobs", "submit", bad), "method.rank", "extra: unknown key", "[invalid_job]")
    assert_error_line(fedgalore("jobs", "submit", tmp_path / "nowhere.yaml"), "cannot be read", status=2)
    assert_error_line(fedgalore("jobs", "get", "nope"), "[job_not_found]")
    assert_error_line(fedgalore("jobs", "get", "../agents"), "../agents' is no id of a job", status=2)
    assert_error_line(fedgalore("jobs", "list", "--status", "done"), "status", "[invalid_request]")
    away = f"http://127.0.0.1:{free_port()}"
    assert_error_line(fedgalore("jobs", "list", "--url", away), away, "fedgalore coordinator", status=6)
    assert fedgalore("jobs", "list", "--limit", "0").exit_code == 2
    assert fedgalore("jobs", "bogus").exit_code == 2


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8080", "ftp://x", "http://", "http://::1:8080", "http://x:port", "http://x:99999", "nonsense"]
)
def test_an_address_that_is_none_is_refused_with_the_right_form(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDGALORE_API_KEY", "fgk_1")
    for command in (("list",), ("get", "job-1"), ("wait", "job-1"), ("clone", "job-1"), ("delete", "job-1")):
        refused = fedgalore("jobs", *command, "--url", url)
        assert_error_line(refused, f"--url (FEDGALORE_URL): '{url}'", "write it such as http://", status=2)


@pytest.mark.parametrize("job", ["", ".", "..", "a/b"])
def test_what_is_no_id_is_not_asked_for(job: str) -> None:
    for command in ("get", "rounds", "pause", "wait", "delete", "clone"):
        assert_error_line(fedgalore("jobs", command, job), "JOB: ", "`fedgalore jobs list` shows them", status=2)


def test_an_empty_key_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("\n")
    monkeypatch.setenv("FEDGALORE_API_KEY_FILE", str(tmp_path / "key"))
    assert_error_line(fedgalore("jobs", "list"), "FEDGALORE_API_KEY_FILE: the file is empty", status=2)


def test_a_bad_setting_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDGALORE_REST_PORT", "many")
    for command in ("coordinator", "aggregator"):
        refused = fedgalore(command)
        assert refused.exit_code == 2
        assert "FEDGALORE_REST_PORT" in refused.stderr


@pytest.mark.slow
def test_a_taken_port_is_reported_in_a_single_line(coordinator: Coordinator, redis_url: str, tmp_path: Path) -> None:
    port = coordinator.url.rpartition(":")[2]
    started = subprocess.run(
        [
            sys.executable,
            "-m",
            "fedgalore_cli.main",
            "coordinator",
            "--rest-port",
            port,
            "--blob-dir",
            tmp_path,
            "--no-aggregator",
        ],
        env={**os.environ, "FEDGALORE_REDIS_URL": redis_url},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert started.returncode == 1
    assert "error: FEDGALORE_REST_PORT: cannot listen" in started.stderr
    assert "Traceback" not in started.stderr


@pytest.mark.slow
def test_the_process_keeps_an_aggregator_and_ends_it(redis_url: str, tmp_path: Path) -> None:
    running = Coordinator(redis_url, tmp_path)
    try:
        first = aggregator_pids(running)[0]
        os.kill(first, signal.SIGKILL)
        second = next(pid for pid in aggregator_pids(running, but=first))
        assert second != first
    finally:
        status = running.stop(signal.SIGINT)
    assert status == 0
    assert not Path(f"/proc/{second}").exists()
    assert not running.port_file.exists()


def aggregator_pids(running: Coordinator, but: int = 0) -> list[int]:
    """Ids of the aggregators in the coordinator's log, without `but`. Waits for the first of them."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        lines = [json.loads(line) for line in running.log.read_text().splitlines() if line.startswith("{")]
        pids = [line["pid"] for line in lines if line["event"] == "aggregator_started" and line["pid"] != but]
        if pids:
            return pids
        time.sleep(0.1)
    raise AssertionError(running.log.read_text())


def test_a_redis_that_was_emptied_can_be_accepted(redis_url: str, tmp_path: Path) -> None:
    blobs = DirectoryBlobStore(tmp_path)
    blobs.bind("of another Redis")
    put_bytes(blobs, b"model")
    arguments = ("accept-state", "--redis-url", redis_url, "--blob-dir", tmp_path)
    shown = fedgalore(*arguments)
    assert shown.exit_code == 0
    assert "- blob_dir belongs to another Redis" in shown.stdout
    assert "No job names 1 blobs with 5 of 5 bytes.\nNothing is changed; --yes takes it" in shown.stdout
    assert blobs.store_id() == "of another Redis"
    assert "they are deleted in an hour" in fedgalore(*arguments, "--yes").stdout
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        assert client.get("fedgalore:store") == blobs.store_id()
    assert fedgalore(*arguments).stdout.startswith("No job names 1 blobs")
