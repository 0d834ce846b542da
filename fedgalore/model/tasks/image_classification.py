"""Classes of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers

from fedgalore.data.examples import Example
from fedgalore.data.labels import label_index
from fedgalore.model.images import ImageInputs
from fedgalore.model.inputs import Batch
from fedgalore.model.tasks.classes import classes
from fedgalore.model.tasks.face import Classifying


class ImageClassification(Classifying[ImageInputs]):
    auto_model = transformers.AutoModelForImageClassification
    columns = ("image", "label")

    def load_inputs(self, folder: Path, model: Any) -> ImageInputs:
        return ImageInputs.load(folder, model)

    def check_example(self, example: Example) -> None:
        label_index(example, self.spec)

    def collate(self, examples: Sequence[Example], inputs: ImageInputs) -> Batch:
        """`pixel_values` `(batch, 3, height, width)`, float32; `labels` `(batch,)`, int64."""
        return inputs.pixels(examples) | {"labels": classes(examples, self.spec)}
