"""ROUGE: the package's numbers for English, and numbers at all for other scripts."""

from __future__ import annotations

import pytest
from rouge_score.rouge_scorer import RougeScorer

from fedgalore.measures.rouge import rouge
from fedgalore.measures.values import measured, pool

NAMES = ("rouge1", "rouge2", "rougeL")
PAIRS = [
    ("the cat sat on the mat", "The cat lay on a mat."),
    ("", "nothing was written"),
    ("it's 3.50 euros, isn't it?", "3.50 euros: it is"),
]


def test_english_is_judged_as_the_package_does() -> None:
    answers, right = zip(*PAIRS, strict=True)
    halves = [rouge(NAMES, answers[:1], right[:1]), rouge(NAMES, answers[1:], right[1:])]
    scorer = RougeScorer(list(NAMES))
    scores = [scorer.score(reference, answer) for answer, reference in PAIRS]
    expected = {name: sum(score[name].fmeasure for score in scores) / len(PAIRS) for name in NAMES}
    assert measured(pool(halves)).metrics == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [("Größe ändern", "die Größe ändern"), ("今天天气很好", "今天天气好"), ("мама мыла раму", "мама мыла окно")],
)
def test_other_scripts_have_words_too(answer: str, reference: str) -> None:
    assert 0.5 < rouge(["rouge1"], [answer], [reference])["rouge1"][0] < 1
