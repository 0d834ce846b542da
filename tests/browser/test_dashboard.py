"""The dashboard in a real browser, from a job's launch to its end."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from coordinator.state.job_events import LoadedBack
from tests.browser.conftest import house
from tests.browser.dashboard import Dashboard
from tests.builders import a_receipt, a_spec
from tests.coordinator.doors.access import OPERATOR, bearing
from tests.coordinator.doors.rest.stack import Stack

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


async def posted(stack: Stack) -> str:
    """The id of the newest job."""
    return str((await stack.http.get("/api/v1/jobs")).json()["jobs"][0]["id"])


async def test_a_job_is_launched_from_the_form_and_watched_to_its_end(
    dashboard: Dashboard, stack: Stack, tmp_path: Path
) -> None:
    await stack.enrolled()
    page = dashboard.page
    await dashboard.open("#/launch")
    await page.get_by_label("Model").fill("models/tiny")
    assert await page.get_by_label("Data set").input_value() == "reviews"  # what the agents offer
    await page.get_by_label("Rounds", exact=True).fill("1")
    await page.get_by_label("Rank").fill("2")
    await dashboard.says("can be launched")
    await dashboard.press("Launch")
    await page.wait_for_url("**/#/jobs/job-*")
    await dashboard.says("PENDING")
    job = await stack.started(await posted(stack), tmp_path)
    await dashboard.says("RUNNING")
    await stack.trained(job, tmp_path, 1)
    await dashboard.says("1 of 1")
    await stack.evaluated(job, await stack.next_tasks("evaluate"), 1)
    await stack.engine.aggregator.loaded_back(job.id, LoadedBack(1))
    await dashboard.says("COMPLETED")
    await dashboard.says("80.0 %")  # of 30 examples 90 %, of 10 examples 50 %
    assert await page.get_by_role("button", name="Cancel").count() == 0
    await asyncio.sleep(1.5)  # what was under way ends
    asked = len(dashboard.requests)
    await asyncio.sleep(11)
    assert dashboard.requests[asked:] == []  # a job that has ended asks for nothing


async def test_what_would_be_refused_is_said_beside_its_field_as_one_types(dashboard: Dashboard, stack: Stack) -> None:
    page = dashboard.page
    await dashboard.open("#/launch")
    rank = page.get_by_label("Rank")
    await page.get_by_label("Model").fill("models/tiny")
    await page.get_by_label("Data set").fill("reviews")
    await dashboard.says("can be launched")
    await rank.fill("none")
    await dashboard.says("would be refused")
    assert "'none' is text; write a number" in await page.locator("#field-method\\.rank-told").inner_text()
    assert await rank.get_attribute("aria-invalid") == "true"
    await page.get_by_role("button", name="Launch").click(force=True)
    assert await dashboard.focus() == "Rank"
    assert (await stack.http.get("/api/v1/jobs")).json()["jobs"] == []
    await page.locator("#document").fill(
        "name: pasted\nmodel: {source: models/tiny, num_labels: 2}\ndata: {nam: reviews}"
    )
    await dashboard.says("data.nam")
    await page.locator("#document").fill(
        "name: pasted\nmodel: {source: models/tiny, num_labels: 2}\ndata: {name: reviews}"
    )
    await dashboard.says("can be launched")
    await dashboard.press("Turn into JSON")
    assert await page.get_by_label("Name").input_value() == "pasted"


async def test_a_clone_names_what_somebody_chose(dashboard: Dashboard, stack: Stack) -> None:
    job, _ = await stack.engine.people.create(a_spec(seed=7), team="radiology")
    await dashboard.open(f"#/jobs/{job.id}")
    await dashboard.press("Clone", "link")
    await dashboard.says("can be launched")
    assert await dashboard.page.get_by_label("Team").input_value() == "radiology"
    document = await dashboard.page.locator("#document").input_value()
    assert '"seed": 7' in document
    assert '"name": "tiny-2"' in document
    assert "weight_decay" not in document  # as the default has it
    await dashboard.press("Launch")
    await dashboard.page.wait_for_url("**/#/jobs/job-*")
    await dashboard.says("tiny-2")
    copy = await stack.engine.reader.job(await posted(stack))
    assert copy.parsed == job.parsed.model_copy(update={"name": "tiny-2"})
    assert copy.team == "radiology"  # whose sites alone it asks


async def test_jobs_are_found_and_compared(dashboard: Dashboard, stack: Stack, tmp_path: Path) -> None:
    first = await stack.running(tmp_path, name="one")
    await stack.trained(first, tmp_path, 1)
    await stack.engine.people.create(a_spec(name="two", seed=3))
    page = dashboard.page
    await dashboard.open()
    await page.get_by_label("Part of the name").fill("tw")
    await page.get_by_role("link", name="one", exact=True).wait_for(state="detached")
    await page.get_by_label("Part of the name").fill("")
    await dashboard.press("running")
    await page.get_by_role("link", name="two", exact=True).wait_for(state="detached")
    await dashboard.press("running")
    for name in ("one", "two"):
        await page.get_by_role("checkbox", name=f"Compare {name}").check()
    await dashboard.press("Compare", "link")
    await dashboard.says("Where they stand")
    rows = page.get_by_role("region", name="Documents").get_by_role("row")
    assert [await row.inner_text() for row in await rows.all()] == [
        "field\tone\ttwo",
        '≠ name\t"one"\t"two"',
        "≠ seed\t0\t3",
    ]
    await dashboard.press("Show what is equal, too")
    await dashboard.says("method.rank")


async def test_a_job_is_cancelled_after_a_question(dashboard: Dashboard, stack: Stack, tmp_path: Path) -> None:
    job = await stack.running(tmp_path)
    await dashboard.open(f"#/jobs/{job.id}")
    await dashboard.press("Cancel")
    await dashboard.press("Leave it")
    assert (await stack.engine.reader.job(job.id)).status == "RUNNING"
    await dashboard.press("Cancel")
    await dashboard.press("Cancel the job")
    await dashboard.says("CANCELLED")
    assert (await stack.engine.reader.job(job.id)).status == "CANCELLED"


async def test_labels_are_changed_and_the_log_tells_of_it(dashboard: Dashboard, stack: Stack, tmp_path: Path) -> None:
    job = await stack.running(tmp_path)
    await dashboard.open(f"#/jobs/{job.id}/log")
    await dashboard.says("RUNNING")
    await dashboard.press("Label")
    await dashboard.page.get_by_label("Tags, with spaces between").fill("nightly, team:cardiology")
    await dashboard.page.get_by_label("Description").fill("<b>for the board</b>")
    await dashboard.press("Save")
    await dashboard.page.get_by_role("listitem").filter(has_text="team:cardiology").wait_for()
    await dashboard.says("<b>for the board</b>")
    await dashboard.open("#/models")
    await dashboard.says("untrained")
    async with dashboard.page.expect_download() as coming:
        await dashboard.press("Model", "link")
    assert (await coming.value).suggested_filename.endswith(".tar")


async def test_a_lost_connection_is_told_and_mended(page: Any, redis_url: str, tmp_path: Path) -> None:
    async with house(redis_url, tmp_path) as stack:
        job, port = await stack.running(tmp_path), stack.http.base_url.port
        dashboard = Dashboard(page, str(stack.http.base_url))
        await dashboard.open(f"#/jobs/{job.id}")
        await dashboard.says("connected")
    await dashboard.says("no connection since")
    async with house(redis_url, tmp_path, port or 0) as stack:
        await page.get_by_text("connected", exact=True).wait_for()
        await stack.engine.people.pause(job.id)
        await dashboard.says("PAUSED")


async def test_a_key_is_asked_for_and_kept_in_the_tab(page: Any, redis_url: str, tmp_path: Path) -> None:
    async with house(redis_url, tmp_path, operator_key=SecretStr(OPERATOR)) as stack:
        made = await stack.http.post("/api/v1/keys", json={"name": "v", "role": "viewer"}, headers=bearing(OPERATOR))
        dashboard = Dashboard(page, str(stack.http.base_url))
        await dashboard.open()
        for key, answer in (("wrong" * 9, "API key"), (made.json()["key"], "No jobs yet.")):
            await page.get_by_label("API key", exact=True).last.fill(key)
            await page.keyboard.press("Enter")
            await dashboard.says(answer)
        await dashboard.open("#/audit")
        await dashboard.says("the key is a viewer's")
        await dashboard.press("Forget the key")
        await page.get_by_label("API key", exact=True).last.fill(OPERATOR)
        await page.keyboard.press("Enter")
        await dashboard.says("/api/v1/keys")
        await dashboard.press("Without a known key")
        await dashboard.says("There is nothing here yet.")


async def test_a_killed_site_is_silent_and_an_odd_reason_is_text(page: Any, redis_url: str, tmp_path: Path) -> None:
    async with house(redis_url, tmp_path, presence_s=2) as stack:
        job = await stack.running(tmp_path, rounds={"min_clients": 1, "goal_clients": 2})
        number = await stack.next_tasks("train")
        await stack.engine.agents.progress(job.id, number, "a", "training", 3, 0.5)
        await stack.engine.agents.client_failed(job.id, number, "b", "<img src=x onerror=alert(1)>")
        await asyncio.sleep(2.2)
        dashboard = Dashboard(page, str(stack.http.base_url))
        await dashboard.open(f"#/jobs/{job.id}/rounds/{number}")
        await dashboard.says("<img src=x onerror=alert(1)>")
        row = page.get_by_role("row").filter(has_text="gives no sign of life")
        assert "silent" in await row.inner_text()
        await dashboard.open("#/agents")
        await dashboard.says("nothing; it left the task of")


async def test_the_round_tells_how_long_each_site_took(dashboard: Dashboard, stack: Stack, tmp_path: Path) -> None:
    job = await stack.running(tmp_path, rounds={"count": 2})
    number = await stack.next_tasks("train")
    await dashboard.open(f"#/jobs/{job.id}/rounds/{number}")
    await dashboard.says("working")
    await stack.evaluated(job, number, 0)
    for name in ("a", "b"):
        await stack.engine.agents.report(job.id, number, name, a_receipt(name))
    await stack.engine.aggregator.aggregated(job.id, number, stack.version(tmp_path, 1), {}, {})
    await dashboard.says("COMMITTED")
    row = dashboard.page.get_by_role("row").filter(has=dashboard.page.get_by_role("rowheader", name="a", exact=True))
    await row.get_by_text("reported").wait_for()
    times = (await row.inner_text()).split("\t")[2:5]
    assert all(each.endswith((" s", " ms")) for each in times), times
