"""Labels of texts, or of pairs of texts: classes or numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers

from fedgalore.data.examples import Example
from fedgalore.model.inputs import Batch
from fedgalore.model.tasks.face import LabelTask
from fedgalore.model.texts import TextInputs


class SequenceClassification(LabelTask[TextInputs]):
    auto_model = transformers.AutoModelForSequenceClassification
    columns = (("text", "label"),)

    def load_inputs(self, folder: Path, model: Any) -> TextInputs:
        return TextInputs.load(self.spec, folder, model, writes=False)

    def collate(self, examples: Sequence[Example], inputs: TextInputs) -> Batch:
        """Tokens `(batch, length)` and `labels` as `Problem.targets`."""
        pairs = None if examples[0].get("text_pair") is None else [example["text_pair"] for example in examples]
        return inputs.tokens([example["text"] for example in examples], pairs) | {
            "labels": self.problem.targets(examples)
        }
