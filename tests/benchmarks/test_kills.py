"""How `benchmarks.kills` reports an experiment: rows, table and page, without any system."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import pytest

from benchmarks.kills import fedgalore, flower, processes
from benchmarks.kills.__main__ import RESULTS, all_rows
from benchmarks.kills.experiment import HAND, HEAD, NOBODY, Experiment, Outcome, RoundEnd, State, perform, row, table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "KILLS.md"
ENDS = [RoundEnd(1, 2, 100.0), RoundEnd(2, 1, 130.0), RoundEnd(3, 2, 140.5)]


class ARun:
    """Three rounds; `log` holds what was done to it."""

    def __init__(self, broken=False, ends=True):
        self.log, self.broken, self.ends = [], broken, ends

    def begin(self):
        if self.broken:
            raise RuntimeError("no port")

    def ripe(self):
        return True

    def kill(self):
        self.log.append("kill")

    def restart(self):
        self.log.append("restart")

    def state(self):
        return State("done", self.ends, self.ends, ENDS) if self.ends else State("running")

    def digest(self):
        return "abc"


def an_experiment(run=None, killed="server", restarted_by=NOBODY, system="s"):
    @contextmanager
    def start():
        yield run or ARun()

    return Experiment(system, "", killed, "round 2", restarted_by, start)


def a_row(state, digest="", disturbed_at=120.0, over_at=150.0, killed="server"):
    return row(an_experiment(killed=killed), Outcome(state, digest, disturbed_at, over_at), "abc")


def test_a_run_that_went_on_tells_who_was_in_it_and_how_long_it_took():
    record = a_row(State("done", True, True, ENDS, redone=1), "abc")
    assert (record["completed"], record["same_weights"], record["clients"]) == (True, True, [2, 1, 2])
    assert (record["lost"], record["redone"], record["to_progress_s"], record["over_s"]) == (0, 1, 10.0, 30.0)
    assert a_row(State("done", True, True, ENDS), "abd")["same_weights"] is False


def test_a_run_that_failed_has_lost_the_rounds_it_had():
    record = a_row(State("failed: no heartbeat", True, False, ENDS[:1]))
    assert (record["completed"], record["lost"], record["same_weights"]) == (False, 1, None)
    assert (record["to_progress_s"], record["over_s"]) == (None, 30.0)


def test_a_run_that_hangs_is_reported_as_such():
    record = a_row(State("running", rounds=ENDS[:1]), over_at=None)
    assert (record["completed"], record["lost"], record["over_s"]) == (False, 0, None)
    assert record["status"].startswith("running, still so")


def test_the_undisturbed_run_tells_how_long_a_round_takes():
    record = a_row(State("done", True, True, ENDS), "abc", disturbed_at=None, killed="")
    assert (record["killed"], record["to_progress_s"], record["over_s"]) == ("nothing", 30.0, 50.0)


@pytest.mark.parametrize(("by", "log"), [(HAND, ["kill", "restart"]), (NOBODY, ["kill"])])
def test_what_was_killed_is_started_again_by_hand_only_where_said(by, log, monkeypatch):
    monkeypatch.setattr("benchmarks.kills.experiment.DOWN_S", 0.0)
    run = ARun()
    outcome = perform(an_experiment(run, restarted_by=by), 5, Event())
    assert (run.log, outcome.digest) == (log, "abc")


def test_an_experiment_that_cannot_start_is_a_row_and_the_others_go_on():
    broken, other = an_experiment(ARun(broken=True)), an_experiment(system="t")  # t has no undisturbed run
    rows = all_rows([an_experiment(killed=""), broken, an_experiment(), other], 5)
    assert [record["status"] for record in rows] == ["done", "RuntimeError: no port", "done", "done"]
    assert [record["same_weights"] for record in rows] == [None, None, True, None]
    assert len(table(rows).splitlines()) == 6


def test_a_job_is_not_watched_for_ever():
    outcome = perform(an_experiment(ARun(ends=False), killed=""), 0.1, Event())
    assert (outcome.state, outcome.over_at) == (State("running"), None)


def test_the_table_leaves_no_cell_out():
    lines = table([a_row(State("done", True, True, ENDS), "abd")]).splitlines()
    assert {line.count("|") for line in lines} == {len(HEAD) + 1}
    assert "| yes | 2 1 2 | 0 | 0 | **no** | 10.0 | 30.0 | done |" in lines[-1]


def test_flower_s_journal_as_a_state():
    step = {"at": 1.0, "site": "site-1", "round": 1, "step": 1}
    end = {"at": 2.0, "round": 1, "clients": 2, "digest": "abc"}
    state = flower.stated("finished:completed", [step, end, {**end, "at": 3.0}])
    assert (state.over, state.completed, state.redone) == (True, True, 1)
    assert flower.stated("finished:failed: why", []).over
    assert not flower.stated("running", [step]).over


def test_a_moment_in_which_all_of_flower_s_clients_train():
    def steps(*done):
        return [{"site": f"site-{n}", "round": 2, "step": step} for n, step in enumerate(done)]

    assert flower.all_train([{"round": 2, "clients": 2}, *steps(1, 3)], 2)
    assert not flower.all_train(steps(1), 2)
    assert not flower.all_train(steps(1, flower.STEPS), 2)
    assert not flower.all_train(steps(1, 3), 3)


def test_fedgalore_s_rounds_as_a_state():
    part = {"reported": True, "dropped": None}
    begun = {"kind": "train", "phase": "ABANDONED", "result_version": None, "phase_at": {}, "participants": {}}
    done = {"phase": "COMMITTED", "result_version": 1, "phase_at": {"COMMITTED": "1970-01-01T00:00:09Z"}}
    parts = {"participants": {"a": part, "b": part, "c": {**part, "dropped": "too long"}}}
    state = fedgalore.stated("COMPLETED", "COMPLETED", [begun, begun | done | parts, begun | {"kind": "evaluate"}])
    assert (state.over, state.completed, state.rounds, state.redone) == (True, True, [RoundEnd(1, 2, 9.0)], 1)


def test_an_agent_s_log_tells_since_when_it_trains(tmp_path):
    log = tmp_path / "agent.log"
    times = {"preparing": "2026-11-27T09:00:00Z", "training": "2026-11-27T09:00:07.5Z"}
    lines = [json.dumps({"round": 2, "state": state, "timestamp": at}) for state, at in times.items()]
    log.write_text("a warning\n" + "\n".join(lines) + '\n{"round": 2, "sta')
    assert fedgalore.training_since(log, 2) == 1795770007.5
    assert fedgalore.training_since(log, 1) is None


def until(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end


def test_descendants_of_a_process_are_listed():
    shell = subprocess.Popen(["sh", "-c", f"{sys.executable} -c 'import time; time.sleep(60)' & wait"])
    try:
        until(lambda: processes.descendants(shell.pid))
        (child,) = processes.descendants(shell.pid)
        until(lambda: processes.is_running(child, "sleep(60)"))
        os.kill(child, signal.SIGKILL)
        until(lambda: not processes.is_running(child, "sleep(60)"))
    finally:
        shell.kill()
        shell.wait()


def test_the_page_shows_the_stored_results():
    assert table(json.loads(RESULTS.read_text())["rows"]) in PAGE.read_text()
