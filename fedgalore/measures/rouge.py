"""ROUGE of written answers, by the package rouge-score, with words of any script."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

from fedgalore.measures.formulas import Array

# Han and kana are written without spaces: each sign is a word.
_SIGNS = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_SIGNS}]|[^\W_{_SIGNS}]+")


class _Words:
    """Of English text the same words as rouge-score's own tokenizer, which knows no other letters than a to z."""

    def tokenize(self, text: str) -> list[str]:
        return _WORD.findall(unicodedata.normalize("NFC", text).lower())


def rouge(names: Iterable[str], answers: Sequence[str], references: Sequence[str]) -> dict[str, Array]:
    """Sums of the F-measures of each answer against its reference, and how many.

    Args:
        names: of `rouge1`, `rouge2` (pairs of words) and `rougeL` (longest common subsequence).
    """
    from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]  # with nltk: half a second

    kinds = list(names)
    scorer = RougeScorer(kinds, tokenizer=_Words())
    sums = dict.fromkeys(kinds, 0.0)
    for answer, reference in zip(answers, references, strict=True):
        for kind, score in scorer.score(reference, answer).items():
            sums[kind] += score.fmeasure
    return {kind: np.array([total, len(answers)], np.float64) for kind, total in sums.items()}
