"""The benchmark's rule for learning rates, its resumption and its report, with real but tiny runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks import datasets
from benchmarks.accuracy import Store, entries_of, key_of, merged, walk, wanted
from benchmarks.report import chosen_runs
from fedgalore.job_spec import parse

ROOT = Path(__file__).resolve().parents[2]
GRID = [1, 2, 4, 8, 16]


def an_entry(**more):
    common = {"model": "m", "data": {"name": "d"}, "grid": GRID, "seeds": [0, 1], "job": {"local": {"steps": 1}}}
    (entry,) = entries_of({"defaults": common, "suites": {"s": {"entries": {"e": {}}, **more}}})
    return entry


def fulfilled(entry, accuracy, results=None):
    """Results after doing whatever is wanted until nothing is, with the rates in the order they were run."""
    results, order = dict(results or {}), []
    while runs := wanted(entry, results):
        for run in runs:
            rate = run["job"]["local"]["learning_rate"]
            order.append((rate, run["job"]["seed"]))
            value = accuracy(rate)
            curve = [] if value is None else [{"version": 1, "validation": value, "up_bytes": 1}]
            results[key_of(run)] = {"run": run, "test": value, "curve": curve}
    return results, order


@pytest.mark.parametrize("peak", GRID)
def test_the_walk_ends_at_the_peak_with_both_neighbours_seen(peak):
    entry = an_entry()
    results, order = fulfilled(entry, lambda rate: 1 / (1 + abs(GRID.index(rate) - GRID.index(peak))))
    assert walk(entry, results) == ([], peak)
    assert {rate for rate, seed in order if seed == 0} >= {2, 4, 8}
    assert [rate for rate, seed in order if seed == 1] == [peak]
    assert [run["run"]["job"]["seed"] for run in chosen_runs(entry, results)] == [0, 1]


def test_a_rate_that_diverges_is_never_chosen():
    results, _ = fulfilled(an_entry(), lambda rate: None if rate > 2 else 0.1 * rate)
    assert walk(an_entry(), results)[1] == 2


def test_every_rate_is_run_with_every_seed_where_asked_for():
    _, order = fulfilled(an_entry(every_rate=True), lambda rate: rate / 100)
    assert sorted(order) == sorted((rate, seed) for rate in GRID for seed in (0, 1))


def test_what_is_done_is_not_done_again_and_what_changes_a_result_changes_its_key():
    entry = an_entry()
    results, _ = fulfilled(entry, lambda rate: rate)
    assert fulfilled(entry, lambda rate: rate, results)[1] == []
    assert wanted(an_entry(job={"local": {"steps": 2}}), results)
    keys = {key_of(entry.run(rate, seed)) for rate in GRID for seed in (0, 1)}
    assert len(keys) == 2 * len(GRID)


def test_a_method_is_taken_whole_and_sections_are_merged():
    below = {"job": {"method": {"kind": "fedgalore", "rank": 8}, "local": {"steps": 1, "batch_size": 2}}}
    above = {"job": {"method": {"kind": "fedavg"}, "local": {"steps": 3}}}
    assert merged(below, above) == {"job": {"method": {"kind": "fedavg"}, "local": {"steps": 3, "batch_size": 2}}}


def test_every_entry_of_the_shipped_file_is_a_valid_job():
    entries = list(entries_of(yaml.safe_load((ROOT / "benchmarks" / "accuracy.yaml").read_text())))
    assert len({entry.suite for entry in entries}) > 5
    for entry in entries:
        run = entry.run(entry.grid[0], 0)
        document = merged(run["job"], {"name": "x", "data": {"name": "x"}, "model": {"source": "m", "num_labels": 2}})
        assert parse(document).method.kind in entry.name or "states" in entry.suite


def test_the_excerpt_is_cut_into_parts_that_do_not_overlap():
    found = datasets.load("sentiment", Path("nowhere"), max_train=300, max_test=100)
    assert (len(found.train), len(found.test), found.num_labels) == (300, 100, 2)
    rows = {example["row"] for example in found.train}
    assert not rows & {example["row"] for example in found.validation}
    assert set(found.keys("domain")) == {"amazon", "movie", "nyt", "tweets"}
    with pytest.raises(datasets.Missing, match="banking77"):
        datasets.load("banking77", Path("nowhere"))


def test_results_are_kept_whole(tmp_path):
    store = Store(tmp_path)
    run = an_entry().run(1, 0)
    store.add("s", {"run": run, "test": 0.5, "curve": []})
    assert json.loads((tmp_path / "s.json").read_text()) == Store(tmp_path).of("s")
    assert [path.name for path in tmp_path.iterdir()] == ["s.json"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_real_suite_runs_resumes_and_reports(tmp_path):
    document = {
        "suites": {
            "tiny": {
                "model": "minilm-3",
                "data": {
                    "name": "sentiment",
                    "split": "iid",
                    "clients": 2,
                    "least": 1,
                    "max_train": 40,
                    "max_test": 20,
                },
                "grid": [1e-3],
                "seeds": [0],
                "job": {
                    "data": {"max_length": 8},
                    "rounds": {"count": 1, "min_clients": 2},
                    "local": {"steps": 1, "batch_size": 4},
                    "evaluation": {"max_examples": 20},
                },
                "entries": {
                    "fedavg": {"job": {"method": {"kind": "fedavg"}}},
                    "noise": {"attack": "noise", "job": {"method": {"kind": "fedgalore", "rank": 2}}},
                    "unknown data": {"data": {"name": "banking77"}},
                },
            }
        }
    }
    config = tmp_path / "suites.yaml"
    config.write_text(yaml.safe_dump(document))
    script = [sys.executable, str(ROOT / "benchmarks" / "accuracy.py"), "--config", str(config), "--jobs", "1"]
    script += ["--results", str(tmp_path / "results"), "--cache", str(tmp_path / "cache"), "--data", str(tmp_path)]

    def told(*words: str) -> str:
        done = subprocess.run([*script, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    first = told()
    assert first.count("seed 0: test") == 2
    assert "left out, banking77" in first
    assert "seed 0" not in told()
    results = json.loads((tmp_path / "results" / "tiny.json").read_text())
    assert all(0 <= one["test"] <= 1 and one["up_bytes"] > 0 for one in results.values())
    report = told("--report")
    assert "| fedavg | 0.001 |" in report
    assert (tmp_path / "results" / "tiny.png").stat().st_size > 10_000
