"""Examples that share a row: to the gradient of rows of their own, in models that can, and refused in others."""

import pytest
import torch
import transformers

from fedgalore.model.inputs import IGNORED, TaskError
from fedgalore.model.packing import in_rows, rows_of
from fedgalore.model.probe import probe
from fedgalore.model.task import TaskModel
from fedgalore.rounds import Start
from tests.fedgalore.conftest import language_model, questions
from tests.fedgalore.rounds import an_update
from tests.fedgalore.test_gradients import gradients_of

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
OF_OPT = {"ffn_dim": 32, "word_embed_proj_dim": 16, "init_std": 0.3}
CAN = {
    "Llama": (transformers.LlamaConfig, SIZES),
    "a sliding window": (transformers.Gemma2Config, {**SIZES, "head_dim": 8, "sliding_window": 4}),
    "experts": (transformers.MixtralConfig, {**SIZES, "num_local_experts": 2}),
}
CANNOT = {
    "positions of the mask": (transformers.OPTConfig, SIZES | OF_OPT),
    "biases for positions": (transformers.BloomConfig, SIZES),
    "a convolution": (transformers.Lfm2Config, {**SIZES, "layer_types": ["conv", "full_attention"]}),
    "a state": (transformers.MambaConfig, {"hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}),
}


def decoder(kind, request, tmp_path):
    """A folder with a model of this kind, and the tokenizer of the GPT-2."""
    source = request.getfixturevalue("tiny_gpt2")
    if kind == "GPT-2":
        return source
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    made, sizes = (CAN | CANNOT)[kind]
    ids = {"pad_token_id": 3, "bos_token_id": 3, "eos_token_id": 3}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(made(vocab_size=len(tokenizer), **ids, **sizes))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def unequal(count):
    """Prompts of one to many words."""
    return [example | {"prompt": f"{example['prompt']} " * (1 + example["row"] % 3)} for example in questions(count, 3)]


@pytest.mark.parametrize("kind", ["GPT-2", *CAN])
def test_packed_examples_have_the_gradient_of_rows_of_their_own(kind, request, tmp_path):
    spec = language_model(method={"kind": "fedavg"}, local={"packing": True, "learning_rate": 1e-3})
    task = TaskModel.load(spec, decoder(kind, request, tmp_path))
    probe(task)
    examples = unequal(7)
    apart, together = (task.collate(examples, trains=trains)["input_ids"] for trains in (False, True))
    assert len(together) < len(apart)
    assert together.numel() < 0.8 * apart.numel()
    whole, expected = gradients_of(task, examples, packing=False)
    for size in (None, 3):
        passed, found = gradients_of(task, examples, micro_batch_size=size)
        assert (passed.predictions, passed.right) == (whole.predictions, whole.right)
        assert passed.loss == pytest.approx(whole.loss, rel=1e-5)
        assert found.keys() == expected.keys()
        for name, gradient in found.items():
            scale = float(expected[name].abs().max())
            assert float((gradient - expected[name]).abs().max()) <= 1e-4 * scale + 1e-7, name


@pytest.mark.parametrize("kind", CANNOT)
def test_a_model_that_mixes_examples_is_refused_before_any_round(kind, request, tmp_path):
    spec = language_model(method={"kind": "fedavg"}, local={"packing": True, "learning_rate": 1e-3})
    with pytest.raises(
        TaskError, match=r"^local\.packing: \w+ of transformers does not keep examples apart .*; leave it out, or"
    ):
        probe(TaskModel.load(spec, decoder(kind, request, tmp_path)))


def test_a_round_packs_the_examples_that_it_would_take_anyway(tiny_gpt2):
    local = {"steps": 3, "batch_size": 5, "learning_rate": 1e-2}
    shapes, updates = [], []
    for packing in (False, True):
        spec = language_model(local={**local, "packing": packing})
        task = TaskModel.load(spec, tiny_gpt2)
        task.model.register_forward_pre_hook(lambda *call: shapes.append(call[2]["input_ids"].shape), with_kwargs=True)
        for module in task.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        updates.append(an_update(task, spec, unequal(12), "a", 1, Start(task.weights())))
    assert updates[1].metrics == pytest.approx(updates[0].metrics, rel=1e-3)
    assert len(shapes) == 6
    assert all(packed[0] < 5 == apart[0] for apart, packed in zip(shapes[:3], shapes[3:], strict=True))


def test_rows_hold_each_example_once_within_the_limit():
    lengths = [9, 30, 4, 4, 12, 1, 20, 30]
    for most in (30, 45, 1000):
        rows = rows_of(lengths, most)
        assert sorted(example for row in rows for example in row) == list(range(8))
        assert max(sum(lengths[example] for example in row) for row in rows) <= most
    assert rows_of([30, 30, 30], 30) == [[0], [1], [2]]  # nothing to save
    assert rows_of([7], 5) == [[0]]
    assert len(rows_of([4000, 3000, 3000, 3000], 100_000)) > 1  # attention over one row costs more than the padding


def test_a_row_restarts_positions_and_predicts_no_beginning():
    batch = {
        "input_ids": torch.tensor([[5, 6, 7], [8, 9, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]]),
        "labels": torch.tensor([[5, 6, 7], [8, 9, IGNORED]]),
    }
    row = in_rows(batch, [[1, 0]])
    assert row["input_ids"].tolist() == [[8, 9, 5, 6, 7]]
    assert row["position_ids"].tolist() == [[0, 1, 0, 1, 2]]
    assert row["labels"].tolist() == [[IGNORED, 9, IGNORED, 6, 7]]
