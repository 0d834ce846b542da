"""Some architectures of the sweep: each task once, and those that were trained well and downloaded otherwise."""

from __future__ import annotations

import pytest

from benchmarks import sweep

SOME = ("bart", "electra", "mixtral", "mt5", "vit", "bros")


def test_an_architecture_is_swept_once() -> None:
    every = [name for names in sweep.ARCHITECTURES.values() for name in names.split()]
    assert len(every) == len(set(every)) >= 76
    assert {*SOME, *sweep.MORE} <= set(every)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of transformers' own code, as its users see them
def test_some_architectures_come_back_as_they_were_trained() -> None:
    outcomes = list(sweep.sweep(SOME, ["fedavg"]))
    assert {outcome.architecture: outcome.outcome for outcome in outcomes} == {
        **dict.fromkeys(SOME, "same"),
        "bros": "refused",  # it wants boxes beside the texts
    }
    assert "You have to specify bbox" in next(each.words for each in outcomes if each.outcome == "refused")


def test_a_broken_architecture_fails_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = sweep.Outcome("bert", "sequence-classification", "fedavg", "differs", "its logits differ", 0.1)
    monkeypatch.setattr(sweep, "sweep", lambda *_: iter([outcome]))
    assert sweep.main([]) == 1
    monkeypatch.setattr(sweep, "sweep", lambda *_: iter([sweep.Outcome("bert", "x", "y", "refused", "no", 0.1)]))
    assert sweep.main([]) == 0
