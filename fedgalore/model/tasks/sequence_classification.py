"""Classes of texts, or of pairs of texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers

from fedgalore.data.examples import Example
from fedgalore.data.labels import label_index
from fedgalore.model.inputs import Batch
from fedgalore.model.tasks.classes import classes
from fedgalore.model.tasks.face import Classifying
from fedgalore.model.texts import TextInputs


class SequenceClassification(Classifying[TextInputs]):
    auto_model = transformers.AutoModelForSequenceClassification
    columns = ("text", "label")

    def load_inputs(self, folder: Path, model: Any) -> TextInputs:
        return TextInputs.load(self.spec, folder, model, writes=False)

    def check_example(self, example: Example) -> None:
        label_index(example, self.spec)

    def collate(self, examples: Sequence[Example], inputs: TextInputs) -> Batch:
        """Tokens `(batch, length)` and `labels` `(batch,)`, int64."""
        pairs = None if examples[0].get("text_pair") is None else [example["text_pair"] for example in examples]
        return inputs.tokens([example["text"] for example in examples], pairs) | {
            "labels": classes(examples, self.spec)
        }
