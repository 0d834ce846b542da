"""Images as pixels, by the model's image processor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image

from fedgalore.data.examples import Example
from fedgalore.data.images import ImageError, decode
from fedgalore.model.inputs import Batch, TaskError


class ImageInputs:
    """Images by the model's image processor, which knows their size and their mean colours."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    @classmethod
    def load(cls, folder: Path, model: Any) -> ImageInputs:
        """Takes the image processor of a model's folder, and tries it out on the model.

        Raises:
            TaskError: the folder has none, or it makes other images than the model takes.
        """
        try:
            processor = transformers.AutoImageProcessor.from_pretrained(
                str(folder), backend="pil", local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, ImportError) as error:
            raise TaskError(
                f"model.source: the folder has no image processor that transformers loads ({error}); "
                "add the model's preprocessor_config.json"
            ) from error
        inputs = cls(processor)
        try:
            with torch.no_grad():
                model(**inputs._pixels([Image.new("RGB", (64, 48)), Image.new("RGB", (48, 64))]))
        except Exception as error:  # whatever the two come upon
            problem, *_ = str(error).split("\n")
            raise TaskError(
                f"model.source: the folder's image processor does not fit its model ({problem}); "
                "correct do_resize and the sizes in preprocessor_config.json"
            ) from error
        return inputs

    def shortening(self, asked: int) -> None:
        """Images have no length."""

    def save(self, folder: Path) -> None:
        """Writes the image processor as `from_pretrained` reads it."""
        self.processor.save_pretrained(folder)

    def pixels(self, examples: Sequence[Example]) -> Batch:
        """Decodes the examples' images: `pixel_values` `(batch, 3, height, width)`, float32.

        Raises:
            TaskError: a damaged image.
        """
        return self._pixels([_decoded(example) for example in examples])

    def _pixels(self, images: Sequence[Image.Image]) -> Batch:
        return dict(self.processor(images=images, return_tensors="pt"))


def _decoded(example: Example) -> Image.Image:
    try:
        return decode(Path(example["image"]))
    except ImageError as error:
        raise TaskError(f"row {example.get('row', '?')}: {error}") from error
