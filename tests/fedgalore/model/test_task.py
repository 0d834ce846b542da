"""Models and examples of a job: what is trained, what the loss is, and what is refused with which words."""

import json
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
import transformers
from PIL import Image

from fedgalore.model.inputs import TaskError
from fedgalore.model.task import TaskModel
from fedgalore.spec.plan import Dense, Target
from tests.fedgalore.conftest import (
    CLASSES,
    COLOURS,
    classifier,
    configure,
    image_classifier,
    language_model,
    questions,
    sentences,
    squares,
)


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


def test_two_threads_that_load_leave_transformers_as_it_was(tiny_gpt2, monkeypatch):
    """Inside of `from_pretrained` no weights are tied; two at once would leave it so for the whole process."""
    inside, most = 0, 0
    load = transformers.AutoModelForCausalLM.from_pretrained

    def watched(*arguments, **options):
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.05)  # for another thread to come in, if it can
        try:
            return load(*arguments, **options)
        finally:
            inside -= 1

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", watched)
    tie = transformers.PreTrainedModel.tie_weights
    with ThreadPoolExecutor(4) as pool:
        tasks = list(pool.map(lambda _: TaskModel.load(language_model(), tiny_gpt2), range(4)))
    assert most == 1
    assert transformers.PreTrainedModel.tie_weights is tie
    assert all(task.model.lm_head.weight is task.model.transformer.wte.weight for task in tasks)


def test_target_modules_choose_layers_by_the_end_of_their_names(tiny_bert):
    spec = classifier(method={"rank": 4, "target_modules": ["query", "output.dense"]})
    names = {target.name for target in TaskModel.load(spec, tiny_bert).plan.targets}
    assert len(names) == 2 * 3
    assert "bert.encoder.layer.0.attention.output.dense.weight" in names


def test_target_modules_without_a_match_are_refused(tiny_bert):
    message = refused(classifier(method={"rank": 4, "target_modules": ["q_proj", "uery"]}), tiny_bert)
    assert message == "method.target_modules: no matrix of this model's backbone ends in q_proj, uery"


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


# --- vision transformers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "backbone"), [("tiny_vit", "vit.layers"), ("tiny_dinov2", "dinov2.encoder.layer")])
def test_a_vision_transformer_trains_its_linear_layers_and_its_head(request, tmp_path, source, backbone):
    task = TaskModel.load(image_classifier(), request.getfixturevalue(source))
    parts = ("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj", "mlp.fc1", "mlp.fc2")
    assert [target.name for target in task.plan.targets] == [
        f"{backbone}.{i}.{part}.weight" for i in (0, 1) for part in parts
    ]
    assert [item.name for item in task.plan.dense] == ["classifier.weight", "classifier.bias"]
    assert task.model.config.id2label == dict(enumerate(COLOURS))
    task.loss(task.collate(squares(tmp_path, 4, 0)))[0].backward()
    with_gradient = {name for name, parameter in task.model.named_parameters() if parameter.grad is not None}
    assert with_gradient == set(task.plan.weights())  # no patch embedding, no pooler


@pytest.mark.parametrize("source", ["tiny_vit", "tiny_dinov2"])
def test_a_vision_transformer_is_saved_by_the_names_of_its_plan(request, tmp_path, source):
    task = TaskModel.load(image_classifier(), request.getfixturevalue(source))
    task.save(tmp_path / "model")
    saved = safetensors.torch.load_file(tmp_path / "model" / "model.safetensors")
    assert task.plan.weights().keys() <= saved.keys()
    again = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "model")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "model")
    assert saved.keys() == task.model.state_dict().keys() == again.state_dict().keys()
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, task.model.state_dict()[name])
    examples = squares(tmp_path / "images", 4, 0)
    pixels = processor(images=[Image.open(e["image"]) for e in examples], return_tensors="pt")["pixel_values"]
    assert torch.equal(pixels, task.collate(examples)["pixel_values"])


def test_a_distilled_deit_trains_both_of_its_heads(tmp_path):
    config = transformers.DeiTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=16, patch_size=8
    )
    transformers.DeiTForImageClassificationWithTeacher(config).save_pretrained(tmp_path / "deit")
    processor = transformers.DeiTImageProcessorPil(
        size={"height": 18, "width": 18}, crop_size={"height": 16, "width": 16}
    )
    processor.save_pretrained(tmp_path / "deit")
    task = TaskModel.load(image_classifier(), tmp_path / "deit")
    assert len(task.plan.targets) == 2 * 6
    assert {item.name for item in task.plan.dense} == {
        f"{head}.{part}" for head in ("cls_classifier", "distillation_classifier") for part in ("weight", "bias")
    }
    assert torch.isfinite(task.loss(task.collate(squares(tmp_path / "images", 4, 0)))[0])


@pytest.mark.parametrize("source", ["tiny_bert", "tiny_gpt2"])
def test_names_of_other_models_are_saved_as_transformers_does(request, tmp_path, source):
    spec = classifier() if source == "tiny_bert" else language_model()
    task = TaskModel.load(spec, request.getfixturevalue(source))
    task.save(tmp_path / "ours")
    task.model.save_pretrained(tmp_path / "theirs")
    for path in (tmp_path / "theirs").iterdir():
        assert (tmp_path / "ours" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_a_model_of_texts_is_no_model_of_images(tiny_bert, tiny_vit):
    assert "loads for image-classification" in refused(image_classifier(), tiny_bert)
    assert "loads for sequence-classification" in refused(classifier(), tiny_vit)


# --- folders that are no model -------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_refused(bert_copy, missing):
    (bert_copy / missing).unlink()
    message = refused(classifier(), bert_copy)
    assert message.startswith("model.source: not a folder that transformers loads for sequence-classification")


def test_a_folder_that_is_not_there_or_empty_is_refused(tmp_path):
    assert "model.source" in refused(classifier(), tmp_path)
    assert "model.source" in refused(classifier(), tmp_path / "absent")


@pytest.mark.parametrize("cut", [3, 5000])
def test_damaged_weights_are_refused(bert_copy, cut):
    path = bert_copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    assert "model.source" in refused(classifier(), bert_copy)


def test_an_unknown_architecture_is_refused(bert_copy):
    configure(bert_copy, model_type="nope")
    assert "model.source" in refused(classifier(), bert_copy)


@pytest.mark.parametrize(
    ("field", "value"),
    [("pad_token_id", 999), ("hidden_act", 7), ("vocab_size", -1), ("dtype", "x"), ("model_type", [])],
)
def test_a_false_value_in_the_configuration_is_refused_in_words(bert_copy, field, value):
    configure(bert_copy, **{field: value})
    words = refused(classifier(), bert_copy)
    assert words.startswith("model.source: not a folder that transformers loads for sequence-classification: ")
    assert "\n" not in words


def test_a_false_setting_of_generation_is_refused_in_words(tiny_gpt2, tmp_path):
    folder = Path(shutil.copytree(tiny_gpt2, tmp_path / "gpt2"))
    (folder / "generation_config.json").write_text(json.dumps({"pad_token_id": [], "suppress_tokens": 999}))
    assert "model.source: not a folder that transformers loads for causal-lm: TypeError" in (
        refused(language_model(), folder)
    )


def test_weights_of_another_size_are_refused_instead_of_drawn_anew(bert_copy):
    configure(bert_copy, hidden_size=16)
    assert "of another shape" in refused(classifier(), bert_copy)


def test_weights_of_another_model_are_refused(bert_copy, tiny_gpt2):
    shutil.copy(tiny_gpt2 / "model.safetensors", bert_copy / "model.safetensors")
    assert "are not in the folder" in refused(classifier(), bert_copy)


def of_shallow_models():
    """A config, the class of the checkpoint, and that of what a classifier's folder may lack the head of."""
    small = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    small |= {"intermediate_size": 32, "max_position_embeddings": 32, "pad_token_id": 0}
    albert = transformers.AlbertConfig(**small, embedding_size=16)
    modern = {"global_attn_every_n_layers": 1, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2}
    modern = transformers.ModernBertConfig(**small, **modern, sep_token_id=3)
    eurobert = transformers.EuroBertConfig(**small, num_key_value_heads=2, bos_token_id=2, eos_token_id=3)
    return [
        pytest.param(config, auto, id=f"{config.model_type}-{auto.__name__}")
        for config in (albert, modern, eurobert)
        for auto in (transformers.AutoModelForMaskedLM, transformers.AutoModel)
    ]


@pytest.mark.parametrize(("config", "auto"), of_shallow_models())
def test_only_a_head_may_be_new_however_few_the_layers_are(tiny_bert, tmp_path, config, auto):
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "model", ignore=shutil.ignore_patterns("model.*", "config.*")))
    with torch.random.fork_rng():
        model = auto.from_config(config)
    model.save_pretrained(folder)
    TaskModel.load(classifier(), folder)
    path = folder / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    lost = next(name for name in weights if "layers" in name)
    del weights[lost]
    safetensors.torch.save_file(weights, path, {"format": "pt"})
    assert re.search(rf"tensors of \w+ are not in the folder.*{re.escape(lost)}; take", refused(classifier(), folder))


def test_a_language_model_s_head_is_never_drawn_anew(tiny_gpt2, tmp_path):
    folder = Path(shutil.copytree(tiny_gpt2, tmp_path / "gpt2"))
    TaskModel.load(language_model(), folder)
    configure(folder, tie_word_embeddings=False)
    assert "are not in the folder, or of another shape there: lm_head.weight; take a folder that holds all of it" in (
        refused(language_model(), folder)
    )


def test_layers_that_would_be_left_out_are_refused(bert_copy):
    configure(bert_copy, num_hidden_layers=1)
    message = refused(classifier(), bert_copy)
    assert "more layers than its config.json says: 16 tensors such as encoder.layer.1.attention" in message


def test_a_tokenizer_whose_library_breaks_down_is_refused_in_words(bert_copy):
    path = bert_copy / "tokenizer.json"
    document = json.loads(path.read_text())
    document["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    path.write_text(json.dumps(document))
    config = json.loads((bert_copy / "tokenizer_config.json").read_text())
    (bert_copy / "tokenizer_config.json").write_text(
        json.dumps(config | {"tokenizer_class": "PreTrainedTokenizerFast"})
    )
    assert "has no tokenizer that transformers loads (a library broke down" in refused(classifier(), bert_copy)
    path.write_text("{}")
    assert "has no tokenizer that transformers loads" in refused(classifier(), bert_copy)


def test_a_folder_without_tokenizer_is_refused(bert_copy):
    for path in bert_copy.glob("token*"):
        path.unlink()
    assert "tokenizer" in refused(classifier(), bert_copy)


def test_a_language_model_needs_an_end_token(tiny_gpt2, tmp_path):
    folder = Path(shutil.copytree(tiny_gpt2, tmp_path / "gpt2"))
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "eos_token"}))
    assert "eos_token" in refused(language_model(), folder)


# --- loss and families of models ----------------------------------------------------------------------------


def test_loss_and_hits_of_a_classifier_are_those_of_its_logits(tiny_bert):
    task = TaskModel.load(classifier(), tiny_bert)
    task.model.eval()
    batch = task.collate(sentences(6, 3))
    loss, count, right = task.loss(batch)
    logits = task.model(**{name: tensor for name, tensor in batch.items() if name != "labels"}).logits
    torch.testing.assert_close(loss, F.cross_entropy(logits, batch["labels"]))
    assert (count, right) == (6, int((logits.argmax(1) == batch["labels"]).sum()))


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


@pytest.mark.parametrize(
    ("precision", "max_length", "attention"),
    [("bfloat16", 16, "eager"), ("bfloat16", 129, "sdpa"), ("float32", 16, "sdpa")],
)
def test_short_sequences_in_bfloat16_on_a_cpu_take_plain_attention(tiny_bert, precision, max_length, attention):
    spec = classifier(local={"precision": precision}, data={"name": "d", "max_length": max_length})
    assert TaskModel.load(spec, tiny_bert).model.config._attn_implementation == attention


def test_images_are_no_short_sequences(tiny_vit):
    task = TaskModel.load(image_classifier(local={"precision": "bfloat16"}), tiny_vit)
    assert task.model.config._attn_implementation == "sdpa"


def test_new_weights_are_evaluated_by_models_that_remember_what_they_computed(tiny_levit, tmp_path):
    """LeViT keeps its attention biases from one evaluation to the next."""
    spec = image_classifier(method={"kind": "fedavg"})
    examples = squares(tmp_path, 4, 0)
    remembers, fresh = TaskModel.load(spec, tiny_levit), TaskModel.load(spec, tiny_levit)
    weights = {
        name: torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) if "biases" in name else weight
        for name, weight in fresh.weights().items()
    }
    batch = remembers.task.model_inputs(remembers.collate(examples))
    remembers.model.eval()
    with torch.no_grad():
        before = remembers.model(**batch).logits
        remembers.load_weights(weights)
        after = remembers.model(**batch).logits
        fresh.model.train()
        fresh.load_weights(weights)
        expected = fresh.model.eval()(**batch).logits
    assert torch.equal(after, expected)
    assert not torch.equal(before, expected)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_a_narrow_model_holds_its_matrices_in_bfloat16_and_was_version_0(tiny_gpt2, tmp_path, stored):
    """GPT-2 ties its embeddings, and its linear layers are Conv1D."""
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_gpt2, dtype=stored)
    model.save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(tiny_gpt2).save_pretrained(tmp_path)
    spec = language_model(local={"weights": "bfloat16", "precision": "bfloat16"})
    task, whole = (TaskModel.load(spec, tmp_path, narrow=narrow) for narrow in (True, False))
    first = task.weights()
    assert all(torch.equal(first[name], tensor) for name, tensor in whole.weights().items())
    task.narrow()
    dtypes = {parameter.dim() > 1: parameter.dtype for parameter in task.model.parameters()}
    assert dtypes == {True: torch.bfloat16, False: torch.float32}
    assert task.model.lm_head.weight is task.model.transformer.wte.weight
    assert {name for name, parameter in task.model.named_parameters() if parameter.requires_grad} == {
        target.name for target in task.plan.targets
    }
    task.load_weights(first)
    assert all(torch.equal(tensor, first[name].bfloat16().float()) for name, tensor in task.weights().items())
    loss = task.loss(task.collate(questions(4, 0)))[0]
    loss.backward()
    assert all(matrix.grad.dtype is torch.bfloat16 for matrix, _ in task.targets().values())
    task.narrow()  # once is enough
    assert all(matrix.grad is not None for matrix, _ in task.targets().values())


def test_what_is_trained_whole_stays_float32_in_a_narrow_model(tiny_bert):
    task = TaskModel.load(classifier(local={"weights": "bfloat16", "precision": "bfloat16"}), tiny_bert, narrow=True)
    task.narrow()
    assert all(parameter.dtype is torch.float32 for parameter in task.dense().values())
    assert {matrix.dtype for matrix, _ in task.targets().values()} == {torch.bfloat16}
