"""Batches of a job: what they hold, and which examples are refused with which words."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from fedgalore.model.inputs import IGNORED, TaskError
from fedgalore.model.task import TaskModel
from fedgalore.model.tasks.registry import check_examples
from tests.fedgalore.conftest import (
    COLOURS,
    classifier,
    image_classifier,
    language_model,
    questions,
    sentences,
    squares,
)


@pytest.mark.parametrize("label", [3, -1, "7"])
def test_a_label_outside_the_range_is_named_with_its_row(tiny_bert, label):
    examples = [*sentences(3, 0), {"row": 17, "text": "rain", "text_pair": None, "label": label}]
    task = TaskModel.load(classifier(), tiny_bert)
    for check in (lambda: check_examples(examples, task.spec), lambda: task.collate(examples)):
        with pytest.raises(
            TaskError, match=rf"row 17: label {label!r} is outside the range 0 to 2; .*model\.num_labels"
        ):
            check()


@pytest.mark.parametrize(
    ("spec", "examples", "words"),
    [
        (classifier(), questions(2, 0), "text and label"),
        (language_model(), sentences(2, 0), "prompt and completion"),
        (classifier(), [], "no examples"),
        (image_classifier(), sentences(2, 0), "image and label; .*folder of images by class"),
        (classifier(), [{"row": 1, "image": "/a.png", "label": 0}], "text and label"),
    ],
)
def test_examples_of_another_task_and_none_at_all_are_refused(spec, examples, words):
    with pytest.raises(TaskError, match=f"data: .*{words}"):
        check_examples(examples, spec)


def test_batches_pad_and_pair_texts(tiny_bert):
    task = TaskModel.load(classifier(data={"max_length": 16}), tiny_bert)
    batch = task.collate(
        [{"text": "rain", "text_pair": "a song", "label": 0}, {"text": "sun wind", "text_pair": "the", "label": "1"}]
    )
    words = task.inputs.tokenizer.convert_ids_to_tokens(batch["input_ids"][0])
    assert words == ["[CLS]", "rain", "[SEP]", "a", "song", "[SEP]"]
    assert batch["labels"].tolist() == [0, 1]
    assert batch["token_type_ids"][0].tolist() == [0, 0, 0, 1, 1, 1]
    single = task.collate(
        [{"text": "rain", "text_pair": None, "label": 0}, {"text": "a b c", "text_pair": None, "label": 0}]
    )
    assert single["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]


@pytest.mark.parametrize(("asked", "length"), [(8, 8), (500, 32)])
def test_long_texts_are_cut_to_what_is_asked_for_and_to_what_the_model_takes(tiny_bert, tiny_gpt2, asked, length):
    bert = TaskModel.load(classifier(data={"max_length": asked}), tiny_bert)
    batch = bert.collate([{"text": "rain " * 90, "text_pair": None, "label": 0}])
    assert batch["input_ids"].shape == (1, length)
    assert torch.isfinite(bert.loss(batch)[0])
    gpt2 = TaskModel.load(language_model(data={"max_length": asked}), tiny_gpt2)
    batch = gpt2.collate([{"prompt": "rain " * 90, "completion": "music"}])
    assert batch["input_ids"].shape == (1, length)
    assert (batch["labels"] != IGNORED).sum() == 2
    assert torch.isfinite(gpt2.loss(batch)[0])


def test_only_the_answer_and_its_end_count(tiny_gpt2):
    task = TaskModel.load(language_model(), tiny_gpt2)
    batch = task.collate([{"prompt": "the rain", "completion": "music today"}, {"prompt": "a", "completion": "food"}])
    ids = task.inputs.tokenizer.convert_tokens_to_ids
    end = task.inputs.tokenizer.eos_token_id
    assert batch["input_ids"].tolist() == [
        [*ids(["the", "rain", "music", "today"]), end],
        [*ids(["a", "food"]), end, end, end],
    ]
    assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    assert batch["labels"].tolist() == [
        [IGNORED, IGNORED, *ids(["music", "today"]), end],
        [IGNORED, *ids(["food"]), end, IGNORED, IGNORED],
    ]
    task.model.eval()
    loss, count, _ = task.loss(batch)
    alone = [
        task.collate([e])
        for e in ({"prompt": "the rain", "completion": "music today"}, {"prompt": "a", "completion": "food"})
    ]
    terms = []
    for item, first in zip(alone, (2, 1), strict=True):
        logits = task.model(input_ids=item["input_ids"]).logits[0]
        terms += [
            F.cross_entropy(logits[i - 1], item["input_ids"][0, i]) for i in range(first, item["input_ids"].shape[1])
        ]
    assert count == len(terms) == 5
    torch.testing.assert_close(loss, torch.stack(terms).mean())


# --- images --------------------------------------------------------------------------------------------------


def test_pixels_are_those_of_the_image_processor(tiny_vit, tmp_path):
    examples = squares(tmp_path, 5, 0)
    task = TaskModel.load(image_classifier(), tiny_vit)
    batch = task.collate(examples)
    assert batch["labels"].tolist() == [list(COLOURS).index(e["label"]) for e in examples]
    assert (batch["pixel_values"].dtype, batch["pixel_values"].shape) == (torch.float32, (5, 3, 16, 16))
    for pixels, example in zip(batch["pixel_values"], examples, strict=True):
        resized = Image.open(example["image"]).resize((16, 16), Image.Resampling.BILINEAR)
        expected = torch.tensor(np.asarray(resized)).permute(2, 0, 1) / 127.5 - 1
        torch.testing.assert_close(pixels, expected)


def test_an_image_that_is_damaged_meanwhile_is_named_with_its_row(tiny_vit, tmp_path):
    examples = squares(tmp_path, 3, 0)
    task = TaskModel.load(image_classifier(), tiny_vit)
    path = Path(examples[1]["image"])
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(TaskError, match=rf"row 2: image '{path}' is damaged or cannot be read .*; copy it again"):
        task.collate(examples)
    path.unlink()
    with pytest.raises(TaskError, match=r"row 2: image .*No such file"):
        task.collate(examples)


def test_classes_of_a_folder_need_the_job_s_names(tmp_path):
    examples = squares(tmp_path, 3, 0)
    numbered = image_classifier(model={"label_names": None, "num_labels": 3})
    with pytest.raises(TaskError, match=r"row 1: label '\w+' is not a class .*, or set model\.label_names"):
        check_examples(examples, numbered)
    check_examples(examples, image_classifier())


@pytest.mark.parametrize("broken", [None, "{", '{"image_processor_type": "Nope"}'], ids=["missing", "cut", "unknown"])
def test_a_folder_without_image_processor_is_refused(tiny_vit, tmp_path, broken):
    folder = Path(shutil.copytree(tiny_vit, tmp_path / "vit"))
    path = folder / "preprocessor_config.json"
    path.unlink() if broken is None else path.write_text(broken)
    with pytest.raises(TaskError, match=r"model\.source: .*no image processor.*add the model's preprocessor_config"):
        TaskModel.load(image_classifier(), folder)


@pytest.mark.parametrize("wrong", [{"size": {"height": 32, "width": 32}}, {"do_resize": False}], ids=str)
def test_an_image_processor_of_another_size_is_refused(tiny_vit, tmp_path, wrong):
    folder = Path(shutil.copytree(tiny_vit, tmp_path / "vit"))
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | wrong))
    with pytest.raises(TaskError, match=r"model\.source: .* does not fit its model .*; correct do_resize and the"):
        TaskModel.load(image_classifier(), folder)
