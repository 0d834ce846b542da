"""The benchmark's rule for learning rates, its resumption and its report, with real but tiny runs."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import fedgalore.evaluation
import fedgalore.simulation
from benchmarks import accuracy, datasets, models, suites
from benchmarks.accuracy import Store
from benchmarks.perform import perform
from benchmarks.report import write
from benchmarks.suites import chosen_runs, entries_of, job_of, key_of, merged, walk, wanted

ROOT = Path(__file__).resolve().parents[2]
GRID = [0.5, 1, 2, 4, 8]


def an_entry(**more):
    common = {"model": "m", "data": {"name": "d"}, "grid": GRID, "seeds": [0, 1], "job": {"local": {"steps": 1}}}
    (entry,) = entries_of({"defaults": common, "suites": {"s": {"entries": {"e": {}}, **more}}})
    return entry


def a_result(run, accuracy):
    metrics = None if accuracy is None else {"accuracy": accuracy, "loss": 1 - accuracy}
    curve = [] if accuracy is None else [{"version": 1, "validation": metrics, "up_bytes": 1, "down_bytes": 1}]
    return {"run": run, "test": metrics, "curve": curve, "up_bytes": 1, "down_bytes": 1, "cpu_s": 1, "statistics": {}}


def fulfilled(entry, accuracy, results=None):
    """Performs what is wanted until nothing is. Returns the results, and rates and seeds in the order of the runs."""
    results, order = dict(results or {}), []
    while runs := wanted(entry, results):
        for run in runs:
            rate = run["job"]["local"]["learning_rate"]
            order.append((rate, run["job"]["seed"]))
            value = accuracy(rate)
            results[key_of(run)] = a_result(run, value)
    return results, order


@pytest.mark.parametrize("start", [0.5, 2, 8])
@pytest.mark.parametrize("peak", GRID)
def test_the_walk_ends_at_the_peak_with_both_neighbours_seen(peak, start):
    entry = an_entry(start=start)
    results, order = fulfilled(entry, lambda rate: 1 / (1 + abs(GRID.index(rate) - GRID.index(peak))))
    assert walk(entry, results) == ([], peak)
    near = [rate for rate in GRID if abs(GRID.index(rate) - GRID.index(start)) <= 1]
    assert {rate for rate, seed in order if seed == 0} >= set(near)
    assert [rate for rate, seed in order if seed == 1] == [peak]
    assert [run["run"]["job"]["seed"] for run in chosen_runs(entry, results)] == [0, 1]


def test_a_rate_that_diverges_is_never_chosen():
    results, _ = fulfilled(an_entry(), lambda rate: None if rate > 2 else 0.1 * rate)
    assert walk(an_entry(), results)[1] == 2


def test_every_rate_is_run_where_asked_for_and_the_other_seeds_at_the_best():
    _, order = fulfilled(an_entry(every_rate=True), lambda rate: rate / 100)
    assert sorted(order) == sorted([(rate, 0) for rate in GRID] + [(max(GRID), 1)])


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


def test_a_language_model_is_judged_by_its_answers_loss():
    entry = an_entry(job={"local": {"steps": 1}, "model": {"task": "causal-lm"}})
    results, _ = fulfilled(entry, lambda rate: 0.9 if rate == 2 else 0.5)
    for result in results.values():
        assert key_of(result["run"]) in results
    assert walk(entry, results) == ([], 2)
    for result in results.values():
        result["curve"][0]["validation"] = {"accuracy": 0.5, "loss": result["run"]["job"]["local"]["learning_rate"]}
    assert walk(entry, results) == ([0.5], 1)


def test_a_key_is_of_the_whole_job_and_its_methods_revision(monkeypatch):
    run = an_entry().run(1, 0)
    spelt_out = merged(run, {"job": {"method": {"kind": "fedgalore", "rank": 8}, "rounds": {"deadline_s": 7}}})
    assert key_of(spelt_out) == key_of(run)  # defaults and what no result depends on
    assert key_of(merged(run, {"job": {"method": {"kind": "fedgalore", "rank": 4}}})) != key_of(run)
    before = key_of(run)
    monkeypatch.setitem(suites.NEUTRAL, "method.update_clip", 1.0)
    assert key_of(run) != before  # as it was before the field came
    monkeypatch.setitem(suites.REVISIONS, "fedgalore", 99)
    assert key_of(run) != before


def test_committed_results_are_of_the_jobs_that_they_are_known_by():
    """When a default changes, old results must not pass for results of the new default."""
    files = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    assert files
    for path in files:
        for key, result in json.loads(path.read_text()).items():
            assert key_of(result["run"]) == key, (path.name, result["run"]["job"])


def test_second_moments_that_are_not_combined_have_no_scale():
    run = an_entry().run(1, 0)
    for sync, differs in (("reset", False), ("local", False), ("ajive", True), ("average", True)):
        keys = {
            key_of(merged(run, {"job": {"method": {"kind": "fedgalore", "state_sync": sync, "state_scale": how}}}))
            for how in ("median", "own")
        }
        assert len(keys) == 1 + differs


def test_a_run_that_another_suite_has_done_counts(tmp_path):
    store = Store(tmp_path)
    run = an_entry().run(1, 0)
    store.add("one", a_result(run, 0.5))
    assert key_of(run) in Store(tmp_path).results
    assert len(wanted(an_entry(seeds=[0], grid=[1]), Store(tmp_path).results)) == 0


def test_entries_by_name_and_what_the_file_may_not_say():
    defaults = {"model": "m", "data": {"name": "d"}, "grid": GRID, "seeds": [0], "job": {}, "entries": {"e": {}}}
    (entry,) = entries_of({"defaults": defaults, "suites": {"s": {"entries": ["e"]}}})
    assert (entry.name, entry.start) == ("e", 2)
    with pytest.raises(ValueError, match=r"suites\.s\.entries: defaults\.entries lacks f"):
        list(entries_of({"defaults": defaults, "suites": {"s": {"entries": ["e", "f"]}}}))
    with pytest.raises(ValueError, match="start 3 is not in the grid"):
        list(entries_of({"defaults": defaults, "suites": {"s": {"start": 3}}}))


def test_a_run_that_fails_is_named_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    class Pool(accuracy.ProcessPoolExecutor):
        def __init__(self, jobs, mp_context):
            super().__init__(jobs)  # forked: it knows the function below

    monkeypatch.setattr(accuracy, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(accuracy, "perform", _fails_at_rate_2)
    entry = an_entry(every_rate=True, grid=[1, 2], seeds=[0])
    store = Store(tmp_path)
    assert accuracy.run_all([entry], store, tmp_path, tmp_path, 1, 60) == 1
    output = capsys.readouterr().out
    assert "s / e: rate 2, seed 0: failed: RuntimeError: no memory" in output
    assert "s / e: rate 1, seed 0: test accuracy 0.500" in output
    assert len(store.results) == 1


def _fails_at_rate_2(run, data_folder, cache):
    if run["job"]["local"]["learning_rate"] == 2:
        raise RuntimeError("no memory")
    return a_result(run, 0.5) | {"wall_s": 1}


@pytest.mark.slow
def test_the_report_counts_rounds_and_compares_seed_by_seed(tmp_path, capsys):
    methods = {"fedgalore r8": "fedgalore", "fedit r8": "fedit", "fedavg": "fedavg"}
    entries = {name: {"job": {"method": {"kind": kind}}} for name, kind in methods.items()}
    entries["flora r8, momentum"] = {"job": {"method": {"kind": "flora", "global_momentum": 0.6}}}  # no published one
    entries["fedgalore r8, no rate"] = {"grid": [None], "job": {"method": {"kind": "fedgalore"}}}
    common = {"model": "m", "data": {"name": "d"}, "grid": [1], "seeds": [0, 1], "job": {"local": {}}}
    mine = list(entries_of({"suites": {"s": common | {"entries": entries}}}))
    results = {}
    for entry, value in zip(mine, (0.8, 0.7, 0.9, 0.75, 0.78), strict=True):
        for seed in (0, 1):
            result = a_result(entry.run(entry.grid[0], seed), value + 0.02 * seed)
            early = {"version": 0, "validation": {"accuracy": 0.1, "loss": 1}, "up_bytes": 0, "down_bytes": 0}
            results[key_of(result["run"])] = result | {"curve": [early, result["curve"][0] | {"version": 10}]}
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- generated: summary -->\nold\n<!-- end: summary -->\nb\n")
    write(mine, results, tmp_path, page)
    output = capsys.readouterr().out
    # 90 % of 91 % is reached by a straight line from 10 % at round 0 to 91 % at round 10
    assert "| fedavg | 1 | 91.0 ± 1.4 | 9 |" in output
    assert "| fedit r8 | 1 | 71.0 ± 1.4 | never |" in output
    compared = "| s | accuracy, % | 79.0 ± 1.4 | 81.0 ± 1.4 | fedit r8 | +8.0 ± 0.0 | +3.0 ± 0.0 | -12.0 ± 0.0 |"
    assert compared in page.read_text()
    assert page.read_text().startswith("a\n<!-- generated")
    assert (tmp_path / "s.png").stat().st_size > 10_000


@pytest.mark.slow
def test_less_answer_loss_is_better(tmp_path):
    common = {"model": "m", "data": {"name": "d"}, "grid": [1], "seeds": [0]}
    methods = {"fedgalore r8": "fedgalore", "fedit r8": "fedit", "flora r8": "flora"}
    entries = {name: {"job": {"method": {"kind": kind}}} for name, kind in methods.items()}
    job = {"local": {}, "model": {"task": "causal-lm"}}
    mine = list(entries_of({"suites": {"s": common | {"job": job, "entries": entries}}}))
    results = {}
    for entry, loss in zip(mine, (1.0, 1.25, 1.5), strict=True):
        result = a_result(entry.run(1, 0), 0.5)
        result["test"] = {"loss": loss, "exact_match": 0.1}
        results[key_of(result["run"])] = result | {"curve": [result["curve"][0] | {"version": 0}, *result["curve"]]}
    page = tmp_path / "page.md"
    page.write_text("<!-- generated: summary -->\n<!-- end: summary -->\n")
    write(mine, results, tmp_path, page)
    assert "| s | answer loss |  | 1.000 (one seed) | fedit r8 | -0.250 (one seed) |  |  |" in page.read_text()


def test_every_entry_of_the_shipped_file_is_a_valid_job():
    entries = list(entries_of(yaml.safe_load((ROOT / "benchmarks" / "accuracy.yaml").read_text())))
    assert len({entry.suite for entry in entries}) > 5
    for entry in entries:
        method = job_of(entry.run(entry.grid[0], 0)).method
        assert method.kind in entry.name or method.state_sync in entry.name


def test_the_excerpt_is_cut_into_parts_that_do_not_overlap(tmp_path):
    data = datasets.load("sentiment", Path("nowhere"), tmp_path, max_train=300, max_test=100)
    assert (len(data.train), len(data.test), data.num_labels) == (300, 100, 2)
    rows = {example["row"] for example in data.train}
    assert not rows & {example["row"] for example in data.validation}
    assert set(data.keys("domain")) == {"amazon", "movie", "nyt", "tweets"}
    for name in ("banking77", "pacs", "gsm8k", "fdu_mtl"):
        with pytest.raises(datasets.Missing, match=name):
            datasets.load(name, Path("nowhere"), tmp_path)


def test_results_are_kept_whole(tmp_path):
    store = Store(tmp_path)
    run = an_entry().run(1, 0)
    store.add("s", a_result(run, 0.5))
    assert json.loads((tmp_path / "s.json").read_text()) == Store(tmp_path).results
    assert [path.name for path in tmp_path.iterdir()] == ["s.json"]


def test_answers_are_generated_for_test_examples_only(tmp_path, monkeypatch):
    looked_for = []

    def simulate(spec, *_, **__):
        looked_for.append(spec.evaluation.exact_match)
        return SimpleNamespace(task=SimpleNamespace(under=lambda spec: SimpleNamespace(spec=spec)))

    def evaluate(task, examples):
        looked_for.append(task.spec.evaluation.exact_match)
        return SimpleNamespace(metrics={"loss": 1.0})

    monkeypatch.setattr(datasets, "load", lambda *_, **__: datasets.DataSet([{}] * 8, [], [], None))
    monkeypatch.setattr(models, "prepared", lambda *_: tmp_path)
    monkeypatch.setattr(fedgalore.simulation, "simulate", simulate)
    monkeypatch.setattr(fedgalore.evaluation, "evaluate", evaluate)
    data = {"name": "d", "split": "iid", "clients": 2, "least": 1}
    job = {"model": {"task": "causal-lm"}, "evaluation": {"exact_match": "number"}}
    perform(an_entry(data=data, job=job).run(1, 0), tmp_path, tmp_path)
    assert looked_for == [None, "number"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_real_suite_runs_resumes_and_reports(tmp_path, monkeypatch, capsys):
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
    script = ["accuracy", "--config", str(config), "--jobs", "1"]
    script += ["--results", str(tmp_path / "results"), "--cache", str(tmp_path / "cache"), "--data", str(tmp_path)]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def output_of(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", [*script, *words])
        accuracy.main()
        return capsys.readouterr().out

    first = output_of()
    assert first.count("seed 0: test") == 2
    assert "left out: data set banking77 lacks" in first
    assert "seed 0" not in output_of()
    results = json.loads((tmp_path / "results" / "tiny.json").read_text())
    assert all(0 <= result["test"]["accuracy"] <= 1 and result["up_bytes"] > 0 for result in results.values())
    page = (ROOT / "docs" / "RESULTS.md").read_bytes()
    report = output_of("--report")
    assert "| fedavg | 0.001 |" in report
    assert (ROOT / "docs" / "RESULTS.md").read_bytes() == page  # the page is about the shipped suites
    assert (tmp_path / "results" / "tiny.png").stat().st_size > 10_000
