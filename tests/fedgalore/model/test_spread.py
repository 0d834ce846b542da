"""Which layer lies on which device: arithmetic on models without numbers, and devices that nobody has."""

import pytest
import torch
import transformers
from torch import nn

from fedgalore.model.inputs import TaskError
from fedgalore.model.spread import Spread, device_map, parts_of, runs

CARDS = [torch.device("cuda", index) for index in range(3)]


def llama(tied=False, layers=6):
    config = transformers.LlamaConfig(
        vocab_size=600,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=layers,
        tie_word_embeddings=tied,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    with torch.device("meta"):
        return transformers.LlamaForCausalLM(config)


@pytest.mark.parametrize(
    ("sizes", "rooms", "chosen"),
    [
        ([1, 1, 1, 1], [5, 5], [0, 0, 1, 1]),
        ([5, 1, 1, 1], [9, 9], [0, 1, 1, 1]),
        ([1, 1, 1, 1], [3, 1], [0, 0, 0, 1]),
        ([1, 6, 1], [2, 8], [0, 1, 1]),
        ([6, 1], [1, 9], [1, 1]),
        ([2], [1, 1, 1], [0]),
        ([0, 0], [1, 1], [0, 0]),
        ([4, 4], [0, 9], [1, 1]),
    ],
)
def test_runs_take_the_least_share_of_the_fullest_room(sizes, rooms, chosen):
    assert runs(sizes, rooms) == chosen


@pytest.mark.parametrize("tied", [False, True])
def test_every_weight_has_one_device_blocks_are_whole_and_the_load_is_even(tied):
    model = llama(tied)
    parts = parts_of(model)
    where = device_map(parts, dict.fromkeys(CARDS, 10**9), 10**9)
    blocks = [where[f"model.layers.{index}"] for index in range(6)]
    assert blocks == sorted(blocks, key=CARDS.index) and set(where.values()) == set(CARDS)
    assert where.keys() == parts.keys()
    assert where["model.embed_tokens"] == CARDS[0]
    assert where["lm_head"] == (CARDS[0] if tied else CARDS[2])
    loads = dict.fromkeys(CARDS, 0)
    placed = {}
    for name, part in parts.items():
        for parameter in part.parameters():
            assert placed.setdefault(parameter, where[name]) == where[name]
    assert placed.keys() == set(model.parameters())
    for parameter, card in placed.items():
        loads[card] += parameter.numel()
    block = sum(parameter.numel() for parameter in parts["model.layers.0"].parameters())
    assert max(loads.values()) <= sum(loads.values()) / 3 + block


def test_a_larger_card_gets_more_layers():
    where = device_map(parts_of(llama()), {CARDS[0]: 10**9, CARDS[1]: 3 * 10**9}, 10**9)
    assert [where[f"model.layers.{index}"].index for index in range(6)].count(1) >= 4


def test_what_does_not_fit_or_cannot_be_spread_is_said_in_a_sentence():
    with pytest.raises(
        TaskError, match=r"device: layers on cuda:\d need about 5\d\.\d MB, and there are 40\.0 MB, with"
    ):
        device_map(parts_of(llama()), {CARDS[0]: 4 * 10**7, CARDS[1]: 4 * 10**7}, 10**8)
    plain = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(
        TaskError, match="device: Sequential cannot be spread over several devices, because transformers"
    ):
        Spread(dict.fromkeys(CARDS, 5), 6).over(plain)
    assert Spread({torch.device("meta"): 6}, 6).over(plain)[0].weight.is_meta
    between = llama()
    between.model.scale = nn.Parameter(torch.ones(1))
    with pytest.raises(TaskError, match="device: LlamaModel cannot be spread over several devices, because scale lies"):
        parts_of(between)
