"""`jobs watch` and `jobs wait` against a small server that plays a coordinator: statuses, absences, interruptions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from typer.testing import CliRunner, Result

from fedgalore.client import download, waiting
from fedgalore.process.redis_server import free_port
from fedgalore_cli.jobs import logs
from fedgalore_cli.main import app
from tests.fedgalore.client.documents import MOMENT, a_job

AWAY = (503, {"detail": "Redis does not answer; try again", "code": "state_unavailable"})


class Script:
    """A server that answers looks at a job in this order, and the last answer for ever; each has status and body."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, Any]]] = []
        self.logs: list[list[dict[str, Any]]] = []  # what has happened at each look at it
        script = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if "/logs?" in self.path:
                    status, body = 200, script.lines(dict(parse_qsl(urlsplit(self.path).query)))
                else:
                    status, body = (200, {"rounds": [], "next": None}) if "/rounds?" in self.path else script.next()
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", f"application/{'json' if status == 200 else 'problem+json'}")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                """Nothing: the test reads stderr."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def next(self) -> tuple[int, dict[str, Any]]:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def lines(self, query: dict[str, str]) -> dict[str, Any]:
        """A page of the log, as the coordinator cuts it: of the events that are looked at, those of the level."""
        happened = self.logs.pop(0) if len(self.logs) > 1 else self.logs[0]
        looked_at = [each for each in happened if each["id"] > query.get("after", "")]
        looked_at = looked_at[-int(query["limit"]) :] if "tail" in query else looked_at
        return {"lines": [each for each in looked_at if each["level"] >= query["level"]], "next": None}

    def plays(self, *answers: str | tuple[int, dict[str, Any]]) -> Script:
        """Statuses of a job, or refusals."""
        self.answers = [(200, a_job(each)) if isinstance(each, str) else each for each in answers]
        return self


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    monkeypatch.setattr(waiting, "POLL_S", 0.05)
    script = Script()
    thread = threading.Thread(target=script.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield script
    script.server.shutdown()
    script.server.server_close()
    thread.join()


def jobs(script: Script, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["jobs", *arguments, "job-1", "--url", script.url])


def test_a_download_asks_again_while_its_weights_are_being_made(
    script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(download, "AGAIN_S", 0.01)
    being_made = (503, {"detail": "the aggregator is making them; ask again", "code": "being_made"})
    lost = (500, {"detail": "blob 12 is damaged; restore it", "code": "blob_lost"})
    script.plays(being_made, being_made, lost)
    result = jobs(script, "download", "--to", str(tmp_path / "model"))
    assert (result.exit_code, len(script.answers)) == (1, 1)
    waiting, lost_words = result.stderr.splitlines()
    assert waiting == "waiting: the aggregator is making them; ask again"  # once
    assert lost_words == "error: blob 12 is damaged; restore it [blob_lost]"


def test_a_download_of_what_nobody_makes_ends_with_what_it_waits_for(
    script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(download, "MOST_MADE_S", 0.0)
    script.plays((503, {"detail": "the aggregator is making them; ask again", "code": "being_made"}))
    result = jobs(script, "download", "--to", str(tmp_path / "model"))
    assert (result.exit_code, (tmp_path / "model").exists()) == (6, False)
    assert result.stderr.splitlines()[-1] == "error: the aggregator is making them; ask again [being_made]"


def test_what_is_waited_for_long_is_looked_at_less_often() -> None:
    assert [waiting.poll_s(waited) for waited in (0.0, 60.0, 120.0, 300.0, 1e6)] == [1.0, 1.0, 2.0, 5.0, 5.0]


def test_no_more_of_a_log_is_asked_for_than_is_told_at_once(script: Script) -> None:
    refused = jobs(script, "logs", "--tail", "501")
    assert refused.exit_code == 2
    assert "--tail" in refused.stderr
    assert "limit" not in refused.stderr


@pytest.mark.parametrize("command", ["wait", "watch"])
@pytest.mark.parametrize(("status", "code"), [("COMPLETED", 0), ("FAILED", 1), ("PAUSED", 3), ("CANCELLED", 4)])
def test_the_exit_status_is_the_jobs(script: Script, command: str, status: str, code: int) -> None:
    done = jobs(script.plays("PENDING", "RUNNING", "RUNNING", status), command)
    assert done.exit_code == code
    lines = ["tiny: PENDING: because it is pending", "tiny: RUNNING: because it is running"]
    assert done.stdout.splitlines() == [*lines, f"tiny: {status}: because it is {status.lower()}"]
    expected = f"error: job job-1 is {status}: because it is {status.lower()}\n" if code else ""
    assert done.stderr == expected


def test_a_coordinator_that_is_away_for_a_while_is_waited_for(script: Script) -> None:
    done = jobs(script.plays("RUNNING", AWAY, AWAY, (502, {"detail": "proxy", "code": "x"}), "COMPLETED"), "wait")
    assert (done.exit_code, len(done.stdout.splitlines())) == (0, 2)
    away, back = done.stderr.splitlines()
    assert away == "Redis does not answer; try again [state_unavailable]; trying again for 600 s"
    assert back == "the coordinator answers again"


def test_patience_ends(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "FIRST_PATIENCE_S", 0.02)
    monkeypatch.setattr(script, "url", f"http://127.0.0.1:{free_port()}")
    done = jobs(script, "wait")
    assert done.exit_code == 6
    assert done.stderr.splitlines()[-1].startswith(f"error: no answer from {script.url}")


@pytest.mark.parametrize("answers", [("RUNNING",), ("RUNNING", AWAY)])
def test_a_time_limit_has_its_own_status(script: Script, answers: tuple[Any, ...]) -> None:
    done = jobs(script.plays(*answers), "wait", "--timeout", "0.05")
    assert done.exit_code == 5
    assert done.stderr.splitlines()[-1] == "error: --timeout: job job-1 is RUNNING after 0.05 s, and goes on"


def test_a_log_is_followed_behind_what_is_not_told(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FOLLOW_S", 0.001)
    lines = [
        {"id": f"{at}-0", "at": MOMENT, "level": level, "event": "x", "round": 1, "client": None, "text": f"line {at}"}
        for at, level in enumerate(("warning", "debug", "warning", "debug"))
    ]
    script.logs = [lines[:2], lines]
    followed = jobs(script.plays("RUNNING", "COMPLETED"), "logs", "--follow", "--tail", "1", "--level", "warning")
    assert (followed.exit_code, followed.stdout) == (0, "2026-01-31 12:00:00 warning round 1: line 2\n")


def test_a_job_that_is_not_there_ends_the_wait(script: Script) -> None:
    gone = (
        404,
        {"detail": "job 'job-1' does not exist; GET /api/v1/jobs lists those that do", "code": "job_not_found"},
    )
    done = jobs(script.plays("RUNNING", gone), "wait")
    assert (done.exit_code, "does not exist" in done.stderr) == (1, True)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["wait", "watch"])
def test_ctrl_c_ends_the_command_in_a_line(script: Script, command: str) -> None:
    arguments = [sys.executable, "-m", "fedgalore_cli.main", "jobs", command, "job-1"]
    environment = {**os.environ, "FEDGALORE_URL": script.plays("RUNNING").url, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # a test run in the background of a script ignores Ctrl-C, and so would what it starts
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as cli:
        assert cli.stdout is not None
        assert cli.stderr is not None
        assert cli.stdout.readline().startswith("tiny: RUNNING")
        cli.send_signal(signal.SIGINT)
        assert cli.wait(20) == 130
        assert cli.stderr.read() == "stopped looking; job job-1 goes on\n"
