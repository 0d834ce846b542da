"""DELETE /jobs/{id}: what is refused, what is answered, and what is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.coordinator.doors.rest.stack import JOBS, Stack, is_problem


@pytest.mark.slow
async def test_a_job_that_has_ended_is_deleted_once(stack: Stack, tmp_path: Path) -> None:
    job = await stack.completed(tmp_path)
    before = (await stack.http.get("/metrics")).text.splitlines()
    partial = tmp_path / "blobs" / "partial" / f"update+{job.id}+1+a+{'0' * 64}"
    partial.write_bytes(b"half an update")
    answer = await stack.http.delete(f"{JOBS}/{job.id}")
    assert answer.status_code == 200
    freed = sum(stack.version(tmp_path, number).weights.size_bytes for number in (0, 1))
    assert answer.json() == {"id": job.id, "freed_bytes": freed + len("{}") + len("half an update")}
    assert not partial.exists()
    is_problem(await stack.http.delete(f"{JOBS}/{job.id}"), 404, "job_not_found")
    is_problem(await stack.http.get(f"{JOBS}/{job.id}/model"), 404, "job_not_found")
    assert (await stack.http.get(JOBS)).json() == {"jobs": [], "next": None}
    after = (await stack.http.get("/metrics")).text.splitlines()
    for name in ("fedgalore_rounds_total", "fedgalore_client_bytes_total"):  # counters never fall
        assert [line for line in after if line.startswith(name)] == [line for line in before if line.startswith(name)]


async def test_a_job_that_goes_on_is_deleted_only_with_its_end(stack: Stack, tmp_path: Path) -> None:
    job = await stack.running(tmp_path)
    shown = is_problem(await stack.http.delete(f"{JOBS}/{job.id}"), 409, "illegal_transition")
    assert "cancel=true" in shown["detail"]
    assert (await stack.http.delete(f"{JOBS}/{job.id}", params={"cancel": "true"})).status_code == 200
    assert await stack.engine.agents.next_task("a") is None
