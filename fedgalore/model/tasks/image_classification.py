"""Labels of images: classes or numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers

from fedgalore.data.examples import Example
from fedgalore.model.images import ImageInputs
from fedgalore.model.inputs import Batch
from fedgalore.model.tasks.face import LabelTask


class ImageClassification(LabelTask[ImageInputs]):
    auto_model = transformers.AutoModelForImageClassification
    columns = (("image", "label"),)
    of_images = True

    def load_inputs(self, folder: Path, model: Any) -> ImageInputs:
        return ImageInputs.load(folder, model)

    def collate(self, examples: Sequence[Example], inputs: ImageInputs) -> Batch:
        """`pixel_values` `(batch, 3, height, width)`, float32; `labels` as `Problem.targets`."""
        return inputs.pixels(examples) | {"labels": self.problem.targets(examples)}
