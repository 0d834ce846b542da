"""Models and examples of a job: what is trained, what a batch holds, and what is refused with which words."""

import json
import shutil
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import transformers

from fedgalore.plan import Dense, Target
from fedgalore.tasks import IGNORED, TaskError, TaskModel, batches, check_examples, label_index
from tests.builders import a_spec
from tests.fedgalore.conftest import CLASSES, configure, questions, sentences


def classifier(**sections):
    return a_spec(**{"model": {"source": "m", "num_labels": 3}, "method": {"rank": 4}, **sections})


def language_model(**sections):
    model = {"source": "m", "task": "causal-lm", "num_labels": None}
    return a_spec(**{"model": model, "method": {"rank": 4}, **sections})


def refused(spec, folder: Path) -> str:
    with pytest.raises(TaskError) as caught:
        TaskModel.load(spec, folder)
    return str(caught.value)


# --- what is trained -----------------------------------------------------------------------------------------


def test_linear_layers_of_the_backbone_are_targets_and_the_head_is_dense(tiny_bert):
    plan = TaskModel.load(classifier(), tiny_bert).plan
    assert len(plan.targets) == 2 * 6 + 1
    assert Target("bert.encoder.layer.1.intermediate.dense.weight", (64, 32), 4) in plan.targets
    assert plan.dense == (Dense("classifier.weight", (3, 32)), Dense("classifier.bias", (3,)))


def test_everything_else_is_frozen(tiny_bert):
    task = TaskModel.load(classifier(), tiny_bert)
    trained = {name for name, parameter in task.model.named_parameters() if parameter.requires_grad}
    assert trained == set(task.plan.weights()) == set(task.weights())
    task.loss(task.collate(sentences(4, 0)))[0].backward()
    with_gradient = {name for name, parameter in task.model.named_parameters() if parameter.grad is not None}
    assert with_gradient == trained


def test_matrices_of_gpt2_are_targets_and_its_head_is_not_trained(tiny_gpt2):
    task = TaskModel.load(language_model(), tiny_gpt2)
    assert task.model.lm_head.weight is task.model.transformer.wte.weight
    assert task.weights().keys() == task.plan.weights().keys()
    assert Target("transformer.h.0.attn.c_attn.weight", (32, 96), 4, fan_in_fan_out=True) in task.plan.targets
    assert len(task.plan.targets) == 2 * 4
    assert task.plan.dense == ()


def test_target_modules_choose_layers_by_the_end_of_their_names(tiny_bert):
    spec = classifier(method={"rank": 4, "target_modules": ["query", "output.dense"]})
    names = {target.name for target in TaskModel.load(spec, tiny_bert).plan.targets}
    assert len(names) == 2 * 3
    assert "bert.encoder.layer.0.attention.output.dense.weight" in names


def test_target_modules_without_a_match_are_refused(tiny_bert):
    message = refused(classifier(method={"rank": 4, "target_modules": ["q_proj", "uery"]}), tiny_bert)
    assert message == "method.target_modules: no linear layer of this model's backbone ends in q_proj, uery"


def test_a_rank_above_the_smaller_side_is_refused(tiny_bert):
    message = refused(classifier(method={"rank": 33}), tiny_bert)
    for words in ("method.rank: 33", "query.weight (32 x 32)", "at most 32", "method.target_modules"):
        assert words in message


def test_a_new_head_is_drawn_from_the_seed_of_the_job(tiny_bert):
    first, again, other = (TaskModel.load(classifier(seed=seed), tiny_bert).weights() for seed in (1, 1, 2))
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name])
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_class_names_go_into_the_model_and_a_head_for_other_classes_is_replaced(tiny_bert, tmp_path):
    named = {"source": "m", "num_labels": None, "label_names": list(CLASSES)}
    task = TaskModel.load(classifier(model=named), tiny_bert)
    assert task.model.config.id2label == dict(enumerate(CLASSES))
    task.save(tmp_path)
    assert TaskModel.load(classifier(model={"source": "m", "num_labels": 5}), tmp_path).plan.dense[0].shape == (5, 32)


def test_weights_saved_are_the_weights_loaded(tiny_bert, tmp_path):
    task = TaskModel.load(classifier(), tiny_bert)
    task.load_weights({name: tensor + 1 for name, tensor in task.weights().items()})
    task.save(tmp_path)
    again = TaskModel.load(classifier(), tmp_path)
    for name, tensor in task.weights().items():
        assert torch.equal(again.weights()[name], tensor)


def test_weights_are_copies_and_must_fit(tiny_bert):
    task = TaskModel.load(classifier(), tiny_bert)
    weights = task.weights()
    weights["classifier.bias"] += 1
    assert not torch.equal(task.weights()["classifier.bias"], weights["classifier.bias"])
    task.load_weights(weights)
    assert torch.equal(task.weights()["classifier.bias"], weights["classifier.bias"])
    for wrong in ({}, weights | {"classifier.bias": torch.zeros(4)}):
        with pytest.raises(TaskError, match="missing or not of shape"):
            task.load_weights(wrong)


# --- folders that are no model -------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_refused(own_bert, missing):
    (own_bert / missing).unlink()
    message = refused(classifier(), own_bert)
    assert message.startswith("model.source: not a folder that transformers loads for sequence-classification")


def test_a_folder_that_is_not_there_or_empty_is_refused(tmp_path):
    assert "model.source" in refused(classifier(), tmp_path)
    assert "model.source" in refused(classifier(), tmp_path / "absent")


@pytest.mark.parametrize("cut", [3, 5000])
def test_damaged_weights_are_refused(own_bert, cut):
    path = own_bert / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    assert "model.source" in refused(classifier(), own_bert)


def test_an_unknown_architecture_is_refused(own_bert):
    configure(own_bert, model_type="nope")
    assert "model.source" in refused(classifier(), own_bert)


def test_weights_of_another_size_are_refused_instead_of_drawn_anew(own_bert):
    configure(own_bert, hidden_size=16)
    assert "of another shape" in refused(classifier(), own_bert)


def test_weights_of_another_model_are_refused(own_bert, tiny_gpt2):
    shutil.copy(tiny_gpt2 / "model.safetensors", own_bert / "model.safetensors")
    assert "are not in the folder" in refused(classifier(), own_bert)


def test_a_folder_without_tokenizer_is_refused(own_bert):
    for path in own_bert.glob("token*"):
        path.unlink()
    assert "tokenizer" in refused(classifier(), own_bert)


def test_a_language_model_needs_an_end_token(tiny_gpt2, tmp_path):
    folder = Path(shutil.copytree(tiny_gpt2, tmp_path / "gpt2"))
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "eos_token"}))
    assert "eos_token" in refused(language_model(), folder)


# --- examples ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [3, -1, "7"])
def test_a_label_outside_the_range_is_named_with_its_row(tiny_bert, label):
    examples = [*sentences(3, 0), {"row": 17, "text": "rain", "text_pair": None, "label": label}]
    task = TaskModel.load(classifier(), tiny_bert)
    for check in (lambda: check_examples(examples, task.spec), lambda: task.collate(examples)):
        with pytest.raises(TaskError, match=rf"row 17: label {label} is outside the range 0 to 2; .*model\.num_labels"):
            check()


def test_a_name_where_numbers_are_expected_is_refused():
    with pytest.raises(TaskError, match=r"row 4: label 'music' is not a class .* number from 0 to 2.*label_names"):
        label_index({"row": 4, "label": "music"}, classifier())


def test_labels_may_be_names_or_numbers_and_names_win():
    named = classifier(model={"source": "m", "num_labels": None, "label_names": ["no", "yes", "0"]})
    assert [label_index({"label": label}, named) for label in ("yes", 1, "1", "0", 0)] == [1, 1, 1, 2, 0]
    with pytest.raises(TaskError, match=r"row 2: label 'maybe' is not a class of this job; expected one of no, yes, 0"):
        label_index({"row": 2, "label": "maybe"}, named)


@pytest.mark.parametrize(
    ("spec", "examples", "words"),
    [
        (classifier(), questions(2, 0), "text and label"),
        (language_model(), sentences(2, 0), "prompt and completion"),
        (classifier(), [], "no examples"),
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
    words = task.tokenizer.convert_ids_to_tokens(batch["input_ids"][0])
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
    ids = task.tokenizer.convert_tokens_to_ids
    end = task.tokenizer.eos_token_id
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


def test_loss_and_hits_of_a_classifier_are_those_of_its_logits(tiny_bert):
    task = TaskModel.load(classifier(), tiny_bert)
    task.model.eval()
    batch = task.collate(sentences(6, 3))
    loss, count, right = task.loss(batch)
    logits = task.model(**{name: tensor for name, tensor in batch.items() if name != "labels"}).logits
    torch.testing.assert_close(loss, F.cross_entropy(logits, batch["labels"]))
    assert (count, right) == (6, int((logits.argmax(1) == batch["labels"]).sum()))


def test_batches_pass_over_the_shard_in_new_orders():
    examples = sentences(10, 0)
    drawn = list(batches(examples, classifier(local={"steps": 6, "batch_size": 5}), "a", 0))
    rows = [e["row"] for e in chain(*drawn)]
    passes = [rows[i : i + 10] for i in (0, 10, 20)]
    assert all(sorted(p) == list(range(1, 11)) for p in passes)
    assert len({tuple(p) for p in passes}) == 3


def test_batches_hang_on_seed_client_and_round_alone():
    def rows(seed, client, number):
        spec = classifier(seed=seed, local={"steps": 3, "batch_size": 4})
        return [e["row"] for e in chain(*batches(sentences(30, 0), spec, client, number))]

    assert rows(0, "a", 0) == rows(0, "a", 0)
    different = [rows(0, "a", 0), rows(1, "a", 0), rows(0, "b", 0), rows(0, "a", 1)]
    assert len({tuple(r) for r in different}) == 4


def test_a_shard_smaller_than_a_batch_is_repeated():
    (batch,) = batches(sentences(3, 0), classifier(local={"steps": 1, "batch_size": 7}), "a", 0)
    assert len(batch) == 7
    assert max(Counter(e["row"] for e in batch).values()) == 3


def test_models_of_other_families_work(tmp_path, tiny_gpt2):
    """Llama names its parts otherwise and stores its matrices `(out, in)`."""
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=32,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(tiny_gpt2).save_pretrained(tmp_path)
    task = TaskModel.load(language_model(), tmp_path)
    assert Target("model.layers.0.self_attn.k_proj.weight", (16, 32), 4) in task.plan.targets
    assert len(task.plan.targets) == 7
    assert torch.isfinite(task.loss(task.collate(questions(4, 0)))[0])


def test_like_lengths_come_in_one_batch_and_every_example_once_a_pass():
    examples = [{"row": i, "text": "x" * (i * 7 % 40 + 1), "text_pair": None, "label": 0} for i in range(64)]
    local = {"steps": 8, "batch_size": 8}
    plain, grouped = (
        list(batches(examples, classifier(local={**local, "group_by_length": on}), "a", 1)) for on in (False, True)
    )
    for drawn in (plain, grouped):
        assert sorted(e["row"] for batch in drawn for e in batch) == list(range(64))

    def padding(drawn):
        return sum(max(len(e["text"]) for e in batch) * len(batch) for batch in drawn) - sum(
            len(e["text"]) for e in examples
        )

    assert padding(grouped) < 0.4 * padding(plain)
    lengths = [len(batch[0]["text"]) for batch in grouped]
    assert lengths != sorted(lengths)  # batches are mixed again
    assert grouped == list(batches(examples, classifier(local={**local, "group_by_length": True}), "a", 1))


def test_batches_larger_than_the_shard_take_several_passes():
    examples = sentences(5, 0)
    for on in (False, True):
        spec = classifier(local={"steps": 3, "batch_size": 8, "group_by_length": on})
        drawn = list(batches(examples, spec, "a", 1))
        assert [len(batch) for batch in drawn] == [8, 8, 8]
        counts = [sum(e["row"] == row for batch in drawn for e in batch) for row in range(1, 6)]
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(
    ("precision", "max_length", "attention"),
    [("bfloat16", 16, "eager"), ("bfloat16", 129, "sdpa"), ("float32", 16, "sdpa")],
)
def test_short_sequences_in_bfloat16_on_a_cpu_take_plain_attention(tiny_bert, precision, max_length, attention):
    spec = classifier(local={"precision": precision}, data={"name": "d", "max_length": max_length})
    assert TaskModel.load(spec, tiny_bert).model.config._attn_implementation == attention
