"""The dashboard's files as a browser gets them: whole, kept, of one release, and without a way out of this machine."""

from __future__ import annotations

import re
from posixpath import dirname, join, normpath

import pytest

from coordinator.doors.rest import dashboard
from tests.coordinator.doors.rest.stack import Stack, is_problem

FILES = {name: body.decode() for name, body in dashboard.content().items()}
OWN = {name: text for name, text in FILES.items() if not name.startswith("vendor/")}
SCRIPTS = [name for name in OWN if name.endswith(".js")]
MOST_LINES = 300


@pytest.mark.slow
async def test_every_file_that_the_page_names_is_there_for_good(stack: Stack) -> None:
    page = await stack.http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    named = re.findall(r'(?:src|href)="(/dashboard/[^"]+)"', page.text)
    assert {path.rpartition("/")[2] for path in named} >= {"main.js", "style.css", "uPlot-1.6.32.iife.min.js"}
    for path in named:
        answer = await stack.http.get(path)
        assert answer.status_code == 200, path
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        kept = await stack.http.get(path, headers={"If-None-Match": f'"other", {answer.headers["etag"]}'})
        assert (kept.status_code, kept.content) == (304, b"")
    release = named[0].split("/")[2]
    for path in (
        f"/dashboard/{release}/nothing.js",
        f"/dashboard/{'0' * 16}/main.js",
        f"/dashboard/{release}/%2e%2e/app.py",
    ):
        is_problem(await stack.http.get(path), 404, "not_found")


async def test_the_page_is_asked_for_anew_and_comes_once(stack: Stack) -> None:
    page = await stack.http.get("/")
    assert page.headers["cache-control"] == "no-cache"
    assert (await stack.http.get("/?code=1&code=2&session_state=3")).content == page.content  # as providers lead to it
    assert (await stack.http.get("/", headers={"If-None-Match": page.headers["etag"]})).status_code == 304
    policy = page.headers["content-security-policy"]
    assert "script-src 'self'; style-src 'self'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script>|<style|\son\w+=|\sstyle=", page.text)  # the policy would refuse it


def test_a_release_is_told_by_its_content() -> None:
    before = dashboard.digest({"a.js": b"1", "b.js": b"2"})
    assert before == dashboard.digest({"b.js": b"2", "a.js": b"1"})
    assert len({before, dashboard.digest({"a.js": b"12", "b.js": b""}), dashboard.digest({"a.js": b"1"})}) == 3


def test_nothing_is_fetched_from_elsewhere() -> None:
    for name, text in OWN.items():
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), name


def test_what_a_module_imports_is_there() -> None:
    for name in SCRIPTS:
        for path in re.findall(r'from "([^"]+)"', FILES[name]):
            assert normpath(join(dirname(name), path)) in FILES, f"{name} imports {path}"


def test_text_only_goes_in_as_text() -> None:
    for name in SCRIPTS:
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", FILES[name]
        )


def test_each_file_can_be_read_at_a_sitting() -> None:
    assert len(SCRIPTS) > 20
    assert [name for name in OWN if len(FILES[name].splitlines()) >= MOST_LINES] == []


def test_the_charts_come_with_their_licence() -> None:
    assert "(v1.6.32)" in FILES["vendor/uPlot-1.6.32.iife.min.js"][:100]
    assert FILES["vendor/uPlot-LICENSE.txt"].startswith("The MIT License (MIT)")
