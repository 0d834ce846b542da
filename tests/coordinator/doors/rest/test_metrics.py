"""The metrics that Prometheus reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import structlog
from structlog.testing import capture_logs

from coordinator.doors.rest.metrics import Metrics
from coordinator.engine.assembly import assemble
from coordinator.store.redis_state_store import RedisStateStore
from tests.coordinator.doors.rest.stack import JOBS, Stack


async def test_invented_methods_add_no_time_series(redis_url: str) -> None:
    engine = assemble(RedisStateStore(redis_url))
    metrics = Metrics(engine.reader)
    for method in ("GET", "BREW", "X" * 1000):
        metrics.request(method, "/livez", 200, 0.01)
    text = (await metrics.render()).decode()
    await engine.close()
    counts = [line.partition("{")[2] for line in text.splitlines() if line.startswith("fedgalore_http_requests_total{")]
    assert sorted(counts) == [
        'method="GET",route="/livez",status="200"} 1.0',
        'method="other",route="/livez",status="200"} 2.0',
    ]


async def test_rounds_and_clients_are_counted_across_replicas(stack: Stack, tmp_path: Path) -> None:
    """Counted by the process that saves the step, and shown by each."""
    job = await stack.running(tmp_path, rounds={"count": 3})
    with capture_logs() as logged:
        await stack.trained(job, tmp_path, 1)
        number = await stack.next_tasks("train")
        await stack.engine.agents.client_failed(job.id, number, "a", "no memory")
        await stack.http.post(f"{JOBS}/{job.id}/cancel")
    told = (await stack.http.get("/metrics")).text.splitlines()
    for line in (
        'fedgalore_round_clients_total{outcome="reported"} 2.0',
        'fedgalore_round_clients_total{outcome="evaluated"} 2.0',
        'fedgalore_round_clients_total{outcome="failed"} 1.0',
        'fedgalore_round_phase_seconds_count{phase="SELECTION"} 2.0',
        'fedgalore_round_phase_seconds_bucket{le="+Inf",phase="REPORTING"} 2.0',
        'fedgalore_aggregation_seconds_sum{part="compute"} 0.1',
        'fedgalore_aggregation_seconds_count{part="compute"} 1.0',
        'fedgalore_lease_held{lease="driver"} 1.0',
        'fedgalore_lease_held{lease="aggregator"} 0.0',
        "fedgalore_agents_enrolled 2.0",
    ):
        assert line in told
    assert [line for line in told if line.startswith("fedgalore_blob_disk_free_bytes ")]
    assert [line for line in told if line.startswith("fedgalore_build_info{")]
    lines = [row for row in logged if row["event"] == "job_event" and row["log_level"] != "debug"]
    assert all(row["job"] == job.id for row in lines)
    by_what = {(row["what"], row.get("client")): (row["log_level"], row["reason"]) for row in lines}
    assert by_what["client.failure", "a"] == ("warning", "failed: no memory")
    assert by_what["job.status", None] == ("info", "cancelled by the operator")
    assert ("warning", True) in {
        (level, words.startswith("round abandoned: 1 of 2 ")) for level, words in by_what.values()
    }


async def test_lines_of_the_log_carry_the_job_of_a_request(stack: Stack, tmp_path: Path) -> None:
    job = await stack.running(tmp_path)
    seen: list[dict[str, Any]] = []
    processors = structlog.get_config()["processors"]

    def note(logger: object, level: str, event: Any) -> Any:
        seen.append(structlog.contextvars.merge_contextvars(logger, level, dict(event)))
        return event

    processors.insert(0, note)
    try:
        await stack.http.get(f"{JOBS}/{job.id}")
        await stack.http.get(JOBS)
    finally:
        processors.remove(note)
    answered = {row["path"]: row.get("job") for row in seen if row["event"] == "request_answered"}
    assert answered == {f"{JOBS}/{job.id}": job.id, JOBS: None}


async def test_what_the_aggregator_tells_of_active_jobs_is_shown(stack: Stack, tmp_path: Path) -> None:
    job = await stack.running(tmp_path)
    await stack.trained(job, tmp_path, 1)
    shown = f'fedgalore_job_statistic{{job_id="{job.id}",statistic="rank"}} 2.0'
    assert shown in (await stack.http.get("/metrics")).text.splitlines()
    await stack.http.post(f"{JOBS}/{job.id}/cancel")
    assert shown not in (await stack.http.get("/metrics")).text
