"""Which buffers training changes: those of known layers, and those that move when the model is tried."""

import pytest
import torch
import transformers
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from fedgalore.model.buffers import UnsavedStateError, moving_buffers
from fedgalore.spec.plan import Buffer


class Texts(nn.Module):
    """The least of a model: token ids in, numbers out, through the layer under test."""

    main_input_name = "input_ids"

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.config = transformers.PretrainedConfig(vocab_size=8)
        self.embedding = nn.Embedding(8, 4)
        self.layer = layer

    def forward(self, input_ids):
        return self.layer(self.embedding(input_ids))


class Range(nn.Module):
    """A moving maximum that each pass replaces, beside a constant and a mask."""

    def __init__(self, persistent: bool = True) -> None:
        super().__init__()
        self.register_buffer("largest", torch.zeros(1), persistent)
        self.register_buffer("table", torch.ones(3))
        self.register_buffer("mask", torch.full((2, 2), -torch.inf))

    def forward(self, values):
        if self.training:
            self.largest = 0.9 * self.largest + 0.1 * values.max()
        return values


class Cache(nn.Module):
    """Fills at the first pass, and stays."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filled", torch.zeros(1), persistent=False)

    def forward(self, values):
        self.filled = torch.ones(1)
        return values


class Refusing(Range):
    def forward(self, values):
        raise ValueError("four tokens are too few")


def names(model):
    return [buffer.name for buffer in moving_buffers(model)]


def test_statistics_of_a_normalisation_are_known_by_its_class():
    assert moving_buffers(Texts(nn.BatchNorm1d(4))) == [
        Buffer("layer.running_mean", (4,)),
        Buffer("layer.running_var", (4,), not_negative=True),
        Buffer("layer.num_batches_tracked", (), not_negative=True),
    ]
    assert names(Texts(nn.BatchNorm1d(4, track_running_stats=False))) == []
    assert len(names(Texts(nn.InstanceNorm1d(4, track_running_stats=True)))) == 3


def test_vectors_of_a_spectral_norm_move():
    kept = "layer.parametrizations.weight.0."
    assert names(Texts(spectral_norm(nn.Linear(4, 4)))) == [f"{kept}_u", f"{kept}_v"]


def test_a_buffer_of_an_unknown_layer_is_tried():
    assert names(Texts(Range())) == ["layer.largest"]
    assert names(Texts(nn.Linear(4, 4))) == []


def test_a_model_that_cannot_be_tried_sends_what_could_move():
    assert names(Texts(Refusing())) == ["layer.largest", "layer.table"]


def test_state_that_is_not_saved_is_refused_and_a_cache_is_not():
    with pytest.raises(UnsavedStateError, match=r"^layer\.largest$"):
        moving_buffers(Texts(Range(persistent=False)))
    assert names(Texts(Cache())) == []


def test_the_trial_leaves_no_trace():
    model = Texts(nn.Sequential(Range(), nn.Dropout(0.5))).eval()
    held, seed = model.layer[0].largest, torch.get_rng_state()
    moving_buffers(model)
    assert model.layer[0].largest is held and held == 0
    assert torch.equal(torch.get_rng_state(), seed)
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_ranges_of_i_bert_move_without_being_quantized():
    config = transformers.IBertConfig(
        vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    moving = names(transformers.IBertForSequenceClassification(config))
    assert moving and {name.rpartition(".")[2] for name in moving} == {"x_min", "x_max"}


def test_constants_of_a_vision_model_do_not_move():
    config = transformers.Swinv2Config(
        image_size=16, patch_size=4, embed_dim=8, depths=[1], num_heads=[2], window_size=2
    )
    assert names(transformers.Swinv2ForImageClassification(config)) == []
