"""`fedgalore simulate --sweep` on a tiny encoder: table, picture, records, a run that fails, and one that is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from fedgalore.simulation import Site
from fedgalore.sweep import Goal, Setting
from fedgalore_cli import sweep_picture
from fedgalore_cli.main import app
from fedgalore_cli.sweep import Row, best_of, spread
from fedgalore_cli.sweep_runs import Runs
from tests.builders import a_spec, job_document
from tests.fedgalore.conftest import sentences, tiny_bert  # noqa: F401  # a fixture

ACCURACY = Goal("accuracy", "max")


@pytest.fixture
def folder(tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    model = {"source": str(tiny_bert), "num_labels": 3}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job_document(model=model, rounds={"count": 1})))
    for name, count, seed in (("train", 40, 0), ("test", 30, 1)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sentences(count, seed)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def sweep(*options: str) -> Result:
    data = ("--train", "train.jsonl", "--test", "test.jsonl", "--split", "iid", "--clients", "2")
    return CliRunner().invoke(app, ["simulate", "job.yaml", *data, "--threads", "1", *options])


@pytest.mark.slow
def test_a_sweep_is_a_table_and_goes_on_where_it_was(folder: Path) -> None:
    options = ("--sweep", "method.rank=1,2", "--seeds", "2")
    done = sweep(*options)
    assert done.exit_code == 0, done.stderr
    heading, *rows = done.stdout.splitlines()
    assert heading.split() == ["method.rank", "accuracy", "runs", "up", "a", "run"]
    assert [row.split()[0] for row in rows] == ["1", "2"]
    assert all(" % ± " in row for row in rows) and sum(row.rstrip().endswith("best") for row in rows) == 1
    assert done.stderr.startswith("[1/4] method.rank=1, seed 0: accuracy ")
    assert done.stderr.splitlines()[-1] == "runs: sweep-tiny/runs, picture: sweep-tiny/sweep.png"
    assert (folder / "sweep-tiny/sweep.png").read_bytes().startswith(b"\x89PNG")

    kept = {path: path.stat().st_mtime_ns for path in (folder / "sweep-tiny/runs").iterdir()}
    assert len(kept) == 4
    gone = min(kept)
    gone.write_text("{")  # as nobody leaves it: it is run again
    again = sweep(*options, "-o", "json")
    assert again.exit_code == 0, again.stderr
    *runs, last = map(json.loads, again.stdout.splitlines())
    assert [(each["type"], each["seed"]) for each in runs] == [("run", seed) for _ in (1, 2) for seed in (0, 1)]
    assert (last["type"], last["metric"], last["mode"]) == ("sweep", "accuracy", "max")
    assert [row["setting"] for row in last["settings"]] == [{"method.rank": 1}, {"method.rank": 2}]
    for row, shown in zip(last["settings"], rows, strict=True):
        assert f"{100 * row['mean']:.1f} %" in shown
        assert row["mean"] == pytest.approx(sum(row["values"].values()) / 2)
    assert {path for path, at in kept.items() if path.stat().st_mtime_ns != at} == {gone}

    other = job_document(model={"source": str(folder), "num_labels": 3})  # another job runs anew, and fails
    (folder / "job.yaml").write_text(yaml.safe_dump(other))
    failed = sweep("--sweep", "method.rank=1", "-o", "json")
    assert failed.exit_code == 1
    run, last, error = map(json.loads, failed.stdout.splitlines())
    assert run["problem"] and run["problem"] in error["problem"]
    assert last["settings"][0]["mean"] is None and last["best"] is None
    assert error["problem"].startswith("1 of 1 runs failed, the first of them method.rank=1, seed 0: ")


@pytest.mark.slow
def test_a_run_that_fails_is_named_and_the_others_go_on(folder: Path) -> None:
    done = sweep("--sweep", "rounds.min_clients=3,2")
    assert done.exit_code == 1
    _, first, second = done.stdout.splitlines()
    assert first.split()[:5] == ["3", "-", "0,", "1", "failed"]
    assert second.split()[0] == "2" and second.rstrip().endswith("best")
    problem = "rounds.min_clients is 3, but there are 2 clients"
    assert f"[1/2] rounds.min_clients=3, seed 0: failed: {problem}\n" in done.stderr
    assert done.stderr.splitlines()[-1] == (
        f"error: 1 of 2 runs failed, the first of them rounds.min_clients=3, seed 0: {problem}"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--sweep", "method.rnk=4"), "--sweep method.rnk=4: method.rnk: "),
        (("--sweep", "data.name=a,b"), "--sweep data.name: all settings run on the same data"),
        (("--sweep", "model.source=job:x@1"), "--sweep model.source=job:x@1: that version is at a coordinator"),
        (("--seeds", "2", "--metric", "f1"), "--metric: f1 is not measured in every setting"),
        (("--seeds", "2", "--track", "mlflow"), "error: M"),  # the package, or the address of its server
        (("--track", "mlflow"), "error: M"),
        (("--metric", "loss"), "--metric: there are no settings to compare; give some by --sweep or --seeds"),
        (("--seeds", "2", "--version", "last"), "--version: a sweep keeps no models; leave --version out"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_runs(
    folder: Path, options: tuple[str, ...], words: str
) -> None:
    refused = sweep(*options)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert words in refused.stderr
    assert not list(folder.glob("sweep-*"))


def rows(*values: dict[int, float], problems: dict[int, str] | None = None) -> list[Row]:
    ranks = range(1, len(values) + 1)
    return [
        Row(Setting((("method.rank", rank), ("local.steps", rank % 2)), a_spec()), found, problems=dict(problems or {}))
        for rank, found in zip(ranks, values, strict=True)
    ]


def test_the_best_setting_has_the_best_mean_and_no_failed_run() -> None:
    some = rows({0: 0.5, 1: 0.6}, {0: 0.7}, {0: 0.9, 1: 0.5}, {})
    assert best_of(some, ACCURACY) is some[1]
    assert best_of(some, Goal("loss", "min")) is some[0]
    assert best_of(rows({0: 0.5}, problems={1: "no room"}), ACCURACY) is None
    assert [spread(row.summary, ACCURACY) for row in some] == ["55.0 % ± 7.1", "70.0 %", "70.0 % ± 28.3", "-"]
    assert spread(some[0].summary, Goal("loss", "min")) == "0.5500 ± 0.0707"


def test_the_picture_has_a_line_for_each_combination_with_means_and_spreads() -> None:
    drawn = sweep_picture.figure(rows({0: 0.5, 1: 0.6}, {0: 0.7}, {0: 0.9}, {}), ACCURACY, "tiny")
    (axes,) = drawn.axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "3", "4"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["local.steps=1", "local.steps=0"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("method.rank", "accuracy in %")
    first, second = axes.containers
    assert list(first[0].get_ydata()) == pytest.approx([55, 90])
    assert list(second[0].get_ydata()) == pytest.approx([70])


def test_a_run_is_another_one_where_an_image_has_changed(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    sites = [Site("a", [{"row": 1, "image": str(image), "label": "cat"}], [])]

    def key() -> str:
        return Runs(tmp_path, sites, ()).key(a_spec())

    image.write_bytes(b"cat")
    before = key()
    assert key() == before
    image.write_bytes(b"a dog")
    assert key() != before
