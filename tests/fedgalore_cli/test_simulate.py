"""`fedgalore simulate` on a tiny encoder: data of agents and data that are split, and each refusal."""

from __future__ import annotations

import json
import math
import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from fedgalore.measures.values import Measured
from fedgalore.records import RoundRecord
from fedgalore_cli.main import app
from fedgalore_cli.options import Format
from fedgalore_cli.simulate import line, without_value
from fedgalore_cli.simulate_records import Records
from tests.builders import job_document
from tests.fedgalore.conftest import CLASSES, sentences, tiny_bert  # noqa: F401  # a fixture


@pytest.fixture
def folder(tmp_path: Path, tiny_bert: Path) -> Path:  # noqa: F811
    """With a job for two clients or more, train.jsonl and test.jsonl with a column for the domain."""
    model = {"source": str(tiny_bert), "num_labels": 3}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job_document(model=model, rounds={"count": 1})))
    for name, count, seed in (("train", 60, 0), ("test", 30, 1)):
        rows = [example | {"from": CLASSES[example["label"]]} for example in sentences(count, seed)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def simulate(folder: Path, *options: str | Path) -> Result:
    arguments = [str(option) for option in ("simulate", folder / "job.yaml", "--threads", "1", *options)]
    return CliRunner().invoke(app, arguments)


def agent(folder: Path, name: str) -> Path:
    """Config of an agent that holds everything."""
    data = {"reviews": {"train": "train.jsonl", "test": "test.jsonl", "text": "text", "label": "label"}}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"name": name, "work_dir": "work", "data": data}))
    return path


def test_data_that_are_split_are_tested_once_for_all_clients(folder: Path) -> None:
    files = ("--train", folder / "train.jsonl", "--test", folder / "test.jsonl")
    split = ("--split", "quantity", "--alpha", "9", "--clients", "3", "--picture", folder / "picture.svg")
    done = simulate(folder, *files, *split, "--to", folder / "model")
    assert done.exit_code == 0, done.stderr
    first, last, census, saved = done.stdout.splitlines()
    assert re.fullmatch(r"[\d,]+ of [\d,]+ parameters trained \(\d+ %\): .* linear, .* head; not trained: .*", census)
    assert re.fullmatch(r"version   0  test \d+\.\d %  train loss \d\.\d{3}", first)
    assert re.fullmatch(r"version   1  test \d+\.\d %", last)
    assert saved == f"model: {folder / 'model'} (version 1)"
    assert (folder / "model" / "model.safetensors").exists()
    drawn = (folder / "picture.svg").read_text()
    assert "train.jsonl over 3 clients: quantity split, alpha 9, seed 0" in drawn.replace("\n", " ")


def test_clients_of_a_domain_are_tested_on_it(folder: Path) -> None:
    files = ("--train", folder / "train.jsonl", "--test", folder / "test.jsonl")
    done = simulate(folder, *files, "--split", "domain", "--domain", "from", "--clients", "3", "-o", "json")
    assert done.exit_code == 0, done.stderr
    job = json.loads(done.stdout.splitlines()[0])
    assert job["held_out"] == {}
    assert sum(site["test"] for site in job["sites"].values()) == 30
    assert all(site["test"] > 0 for site in job["sites"].values())


def test_every_record_is_a_json_object_a_line(folder: Path) -> None:
    files = ("--train", folder / "train.jsonl", "--test", folder / "test.jsonl", "--split", "iid", "--clients", "2")
    done = simulate(folder, *files, "-o", "json", "--to", folder / "model")
    assert done.exit_code == 0, done.stderr
    job, first, last, result = (json.loads(line) for line in done.stdout.splitlines())
    assert [each["type"] for each in (job, first, last, result)] == ["job", "round", "round", "result"]
    assert (job["job"]["method"]["rank"], job["job"]["evaluation"]["every"]) == (2, 1)
    assert job["sites"] == {f"client-{number}": {"train": 30, "test": 0} for number in (1, 2)}
    assert job["held_out"] == {"test": 30}
    assert {field.name for field in fields(RoundRecord)} <= first.keys()
    assert set(first["training"]) == {"client-1", "client-2"}
    assert first["up_bytes"] > 0
    assert result["held_out"] == last["held_out"]
    assert result["held_out"]["test"].keys() == {"metrics", "per_class", "confusion_matrix", "undefined"}
    assert (result["model_version"], result["best"], result["no_best"]) == (1, None, None)
    assert (result["folder"], result["folder_version"]) == (str(folder / "model"), 1)
    assert done.stderr.startswith("version   0  test ")


def test_an_error_is_the_last_json_line(folder: Path) -> None:
    for options in ((), ("--train", folder / "train.jsonl", "--clients", "2", "--to", "/proc/model")):
        refused = simulate(folder, "-o", "json", *options)
        assert refused.exit_code == 1
        (line,) = map(json.loads, refused.stdout.splitlines())
        assert line["type"] == "error"
        assert refused.stderr == f"error: {line['problem']}\n"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            ["simulate", "job.yaml", "--clients", "zero"],
            "--clients': 'zero' does not fit; give a whole number of at least 1",
        ),
        (["simulate", "job.yaml", "--nosuch"], "--nosuch"),
        (["simulate"], "JOB"),
        (["jobs", "list", "--limit", "0"], "--limit': '0' does not fit; give a whole number of at least 1"),
        (["simulate", "job.yaml", "--split", "x"], "'x' is not one of 'iid', 'dirichlet', 'quantity', 'domain'."),
        (["agents", "tokens", "--nosuch"], "--nosuch"),
    ],
)
def test_a_wrong_call_is_a_json_record_as_well(call: list[str], words: str) -> None:
    refused = CliRunner().invoke(app, [*call, "-o", "json"])
    assert refused.exit_code == 2
    record = json.loads(refused.stdout)
    assert record["type"] == "error" and words in record["problem"]
    assert CliRunner().invoke(app, call).stdout == ""


@pytest.mark.parametrize("option", ["--train", "--test"])
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.jsonl", None, "cannot be read (No such file or directory); name a file, or a folder"),
        ("empty.csv", "", "empty.csv"),
        ("heads.csv", "text,label\n", "holds no examples; fill it"),
        ("notes.docx", "x", "unknown kind of file '.docx'"),
        ("other.csv", "review,label\na,1\n", "the file has "),
        ("labels.csv", "text,label\na,1\nb,2\nc,7\n", "row 4: label '7' is outside"),
    ],
)
def test_a_file_that_does_not_do_is_named_with_its_option(
    folder: Path, option: str, name: str, content: str | None, words: str
) -> None:
    if content is not None:
        (folder / name).write_text(content)
    given = {"--train": folder / "train.jsonl", "--test": folder / "test.jsonl"} | {option: folder / name}
    refused = simulate(folder, *(part for pair in given.items() for part in pair), "--clients", "2", "--split", "iid")
    assert refused.exit_code == 1
    assert option in refused.stderr and str(folder / name) in refused.stderr and words in refused.stderr
    assert "config" not in refused.stderr


def test_numbers_that_json_lacks_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    Records(Format.JSON).round(RoundRecord(1, 0, {"a": {"loss": math.nan, "accuracy": 0.5}}))
    assert json.loads(capsys.readouterr().out)["evaluation"] == {"a": {"loss": None, "accuracy": 0.5}}


@pytest.mark.slow
@pytest.mark.parametrize("version", ["best", "last", None])
def test_the_best_version_is_written_unless_the_last_is_wanted(folder: Path, version: str | None) -> None:
    job = yaml.safe_load((folder / "job.yaml").read_text())
    job |= {"rounds": {"count": 2}, "local": {"steps": 2, "batch_size": 4, "learning_rate": 5.0}}  # far too high
    (folder / "job.yaml").write_text(yaml.safe_dump(job | {"evaluation": {"keep": {"metric": "loss"}}}))
    files = ("--train", folder / "train.jsonl", "--test", folder / "test.jsonl", "--clients", "2", "--split", "iid")
    done = simulate(folder, *files, "--to", folder / "model", *(("--version", version) if version else ()))
    assert done.exit_code == 0, done.stderr
    *_, best, saved = done.stdout.splitlines()
    assert best.startswith("version 0 is the best: loss ")
    assert saved == f"model: {folder / 'model'} (version {2 if version == 'last' else 0})"


def test_a_best_version_needs_test_data(folder: Path) -> None:
    job = yaml.safe_load((folder / "job.yaml").read_text())
    (folder / "job.yaml").write_text(yaml.safe_dump(job | {"evaluation": {"keep": {"metric": "loss"}}}))
    done = simulate(folder, "--train", folder / "train.jsonl", "--clients", "2", "--split", "iid")
    assert done.exit_code == 1
    assert "evaluation.keep: no client has test examples" in done.stderr


def test_a_job_that_keeps_no_best_version_cannot_write_it(folder: Path) -> None:
    done = simulate(folder, "--train", folder / "train.jsonl", "--version", "best")
    assert done.exit_code == 1
    assert "--version: the job keeps no best version; set evaluation.keep in it, or say last" in done.stderr


def test_without_test_data_nothing_is_tested(folder: Path) -> None:
    done = simulate(folder, "--train", folder / "train.jsonl", "--split", "iid", "--clients", "2")
    assert done.exit_code == 0, done.stderr
    assert not any("%" in line for line in done.stdout.splitlines() if line.startswith("version"))


def test_each_agent_is_tested_on_the_data_it_holds(folder: Path) -> None:
    agents = ("--agent", agent(folder, "north"), "--agent", agent(folder, "south"))
    done = simulate(folder, *agents, "--picture", folder / "picture.svg")
    assert done.exit_code == 0, done.stderr
    assert re.match(r"version   0  all \d+\.\d %  north \d+\.\d %  south \d+\.\d %  train loss", done.stdout)
    drawn = (folder / "picture.svg").read_text()
    for text in ("reviews at 2 agents", "north", "south", "class"):
        assert f"<!-- {text} -->" in drawn


def test_exact_matches_are_shown_where_they_are_measured() -> None:
    held_out = {"test": Measured({"loss": 0.3, "accuracy": 0.831, "exact_match": 0.4})}
    evaluation = {"north": {"loss": 0.2, "accuracy": 0.5}}
    training = {"north": {"train_loss": 1.0}, "south": {"train_loss": 0.5}}
    pooled = Measured({"loss": 0.25, "accuracy": 0.5})
    assert without_value(RoundRecord(3, 2, pooled=pooled)) == []
    assert line(RoundRecord(3, 2, evaluation, training, held_out, pooled=pooled)) == (
        "version   2  test 83.1 % exact match 40.0 %  all 50.0 %  north 50.0 %  train loss 0.750"
    )


def test_a_metric_without_a_value_says_why() -> None:
    held_out = {"test": Measured({"loss": 0.3}, undefined={"mcc": "all are of one class"})}
    record = RoundRecord(3, 2, held_out=held_out, pooled=Measured(undefined={"auroc": "nothing was counted"}))
    assert without_value(record) == ["no mcc of test: all are of one class", "no auroc: nothing was counted"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ([], "--train: there is no data; name a file with training examples, or agents' configs by --agent"),
        (
            ["--train", "{0}/train.jsonl", "--clients", "1"],
            "--clients: 1 is less than the job's rounds.min_clients, 2",
        ),
        (["--train", "{0}/train.jsonl", "--split", "domain"], "--domain: --split domain needs a column"),
        (["--train", "{0}/train.jsonl", "--split", "iid", "--alpha", "1"], "--alpha: --split iid has no skew"),
        (["--train", "{0}/train.jsonl", "--clients", "61"], "--clients 61: 60 examples are too few"),
        (["--train", "{0}/train.jsonl", "--picture", "a.jpg"], "--picture: a.jpg ends in none of .png, .svg, .pdf"),
        (["--agent", "{0}/a.yaml", "--picture", "a.jpg"], "--picture: a.jpg ends in none of"),
        (["--agent", "{0}/a.yaml", "--train", "{0}/train.jsonl"], "--train: the data of --agent are split already"),
        (["--agent", "{0}/a.yaml", "--clients", "4"], "leave --clients or --agent out"),
        (["--agent", "{0}/a.yaml", "--split-seed", "0"], "--split-seed: the data of --agent"),
        (["--agent", "{0}/a.yaml"], "rounds.min_clients is 2, but there are 1 clients"),
        (["--agent", "{0}/none.yaml"], "none.yaml cannot be read"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_a_single_line(folder: Path, options: list[str], problem: str) -> None:
    agent(folder, "a")
    refused = simulate(folder, *(option.format(folder) for option in options))
    assert refused.exit_code == 1
    assert refused.stderr.startswith("error: ")
    assert problem in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_texts_that_the_model_has_no_room_for_are_cut_and_that_is_said(folder: Path) -> None:
    done = simulate(folder, "--train", folder / "train.jsonl", "--clients", "2")
    assert "texts are cut to 32 tokens, which is all that the model takes; data.max_length is 128" in done.stderr


def test_what_nobody_has_foreseen_is_a_sentence_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("rope_scaling")

    monkeypatch.setattr("fedgalore.simulation.simulate", broken)
    done = simulate(folder, "--train", folder / "train.jsonl", "--clients", "2")
    assert done.exit_code == 1
    assert "the code of its model failed (KeyError: 'rope_scaling'); take another model" in done.stderr.replace(
        "\n", " "
    )
    assert "Traceback" not in done.output
