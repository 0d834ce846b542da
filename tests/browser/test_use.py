"""Who can use the dashboard: on a small screen, without a mouse, without seeing it, while it changes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.dashboard_job import enroll, filled, site_names
from coordinator.store.redis_state_store import RedisStateStore
from tests.browser.dashboard import PAGES, Dashboard
from tests.coordinator.doors.rest.stack import Stack

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

SERIOUS = ("serious", "critical")
SITES = site_names(30)


@pytest.fixture
async def job_id(stack: Stack, redis_url: str) -> AsyncIterator[str]:
    """A job of thirty sites and six rounds, with everything in it that a page draws."""
    store = RedisStateStore(redis_url)
    yield await filled(stack.engine, store, redis_url, 6, SITES)
    await store.close()


async def walk(dashboard: Dashboard, job_id: str) -> AsyncIterator[str]:
    """Opens page after page; their names."""
    for name, where in PAGES.items():
        await dashboard.open(where.replace("JOB", job_id))
        await dashboard.page.wait_for_load_state("networkidle") if name in ("jobs", "audit") else None
        await dashboard.page.locator("h1").wait_for()
        await dashboard.page.wait_for_timeout(400)
        yield name


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_serious(dashboard: Dashboard, stack: Stack, job_id: str, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.async_playwright").Axe()
    await enroll(stack.engine, SITES)
    await dashboard.page.emulate_media(color_scheme=scheme)
    found: list[Any] = []
    async for name in walk(dashboard, job_id):
        told = (await axe.run(dashboard.page)).response["violations"]
        found += [(name, each["id"], each["nodes"][0]["html"]) for each in told if each["impact"] in SERIOUS]
    assert found == []


async def test_nothing_is_wider_than_a_small_screen(dashboard: Dashboard, stack: Stack, job_id: str) -> None:
    await enroll(stack.engine, SITES)
    await dashboard.page.set_viewport_size({"width": 390, "height": 800})
    assert [name async for name in walk(dashboard, job_id) if await dashboard.is_wider_than_the_window()] == []


async def test_the_keyboard_alone_does_everything(dashboard: Dashboard, stack: Stack, job_id: str) -> None:
    page, press = dashboard.page, dashboard.page.keyboard.press
    await dashboard.open()
    await dashboard.says("departments")
    await dashboard.tab_to("departments")
    await press("Enter")
    await dashboard.says("Progress")
    await page.locator(".chart .plot").focus()
    for key in ("ArrowLeft", "ArrowDown"):
        await press(key)
    told = await page.locator(".chart .told").inner_text()
    assert "round 5" in told
    assert "site-01" in told
    await dashboard.tab_to("Find a line by its name")
    await page.keyboard.type("17")
    await dashboard.tab_to("site-17")
    await press("Space")
    await page.get_by_role("button", name="site-17", pressed=True).wait_for()
    await dashboard.open(f"#/jobs/{job_id}/alignment")
    await page.locator(".heatmap .plot").focus()
    await press("ArrowUp")
    await dashboard.says("encoder.layer.0, round 6:")
    await dashboard.open(f"#/jobs/{job_id}")
    await dashboard.tab_to("Cancel")
    await press("Enter")
    await dashboard.says("Cancel this job?")
    assert await dashboard.focus() == "Leave it"
    await press("Escape")
    assert await dashboard.focus() == "Cancel"


async def test_what_one_does_outlives_what_happens(dashboard: Dashboard, stack: Stack, tmp_path: Path) -> None:
    job = await stack.running(tmp_path, rounds={"count": 3})
    await dashboard.open(f"#/jobs/{job.id}")
    await dashboard.tab_to("Clone")
    await stack.trained(job, tmp_path, 1)
    await dashboard.says("1 of 3")
    assert await dashboard.focus() == "Clone"
    await dashboard.page.get_by_label("over").select_option("time")
    await stack.trained(job, tmp_path, 2)
    await dashboard.says("2 of 3")
    assert await dashboard.page.get_by_label("over").input_value() == "time"
