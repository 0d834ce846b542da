"""GaLoreAdamW as a user of torch's optimizers knows it: groups, schedulers, saved state, closures, both ways to step.

What its steps are is tested in `test_client_optim.py`, with an optimizer that takes the same ones.
"""

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR, ReduceLROnPlateau

from fedgalore.maths.optim import GaLoreAdamW
from fedgalore.maths.second_moment import SecondMomentSketch

FULL_RANK = {"rank": 99, "update_clip": None}


class Model(nn.Module):
    """An embedding, tall and wide matrices, one of which is used twice, and vectors."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 8)
        self.widen = nn.Linear(8, 20)
        self.norm = nn.LayerNorm(20)
        self.mix = nn.Linear(20, 20)
        self.head = nn.Linear(20, 3)
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.norm(self.widen(self.embedding(tokens).mean(1)))
        return self.head(self.mix(torch.tanh(self.mix(hidden))))


def loss_of(model: nn.Module, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    tokens = torch.randint(12, (6, 4), generator=generator)
    return nn.functional.cross_entropy(model(tokens).float(), tokens.sum(1) % 3)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range, scheduler: Any = None) -> None:
    for step in steps:
        loss_of(model, step).backward()
        optimizer.step()
        optimizer.zero_grad()
        if scheduler is not None:
            scheduler.step()


def groups_of(model: Model) -> list[dict[str, Any]]:
    """Embeddings by plain AdamW, the rest at ranks and rates of their own."""
    return [
        {"params": model.embedding.parameters(), "rank": None, "lr": 0.02},
        {"params": [*model.widen.parameters(), *model.norm.parameters()], "complement": 1.0, "weight_decay": 0.1},
        {"params": [*model.mix.parameters(), *model.head.parameters()], "rank": 2, "update_proj_gap": 3, "eps": 1e-6},
    ]


def grouped(model: Model, **arguments: Any) -> GaLoreAdamW:
    return GaLoreAdamW(groups_of(model), **{"lr": 0.01, "rank": 3, "update_proj_gap": 4, **arguments})


def saved_and_loaded(document: Any) -> Any:
    file = io.BytesIO()
    torch.save(document, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_same(left: nn.Module, right: nn.Module) -> None:
    for (name, ours), theirs in zip(left.named_parameters(), right.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            yield from tensors_in(value[key])
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors_in(part)


def assert_same_state(left: Any, right: Any) -> None:
    ours, theirs = list(tensors_in(left)), list(tensors_in(right))
    assert len(ours) == len(theirs) > 0
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(ours, theirs, strict=True))


# --- oracles -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_at_full_rank_a_model_takes_the_steps_of_torch_adamw(decay):
    ours, theirs = Model(), Model()
    train(ours, GaLoreAdamW(ours.parameters(), lr=0.01, weight_decay=decay, **FULL_RANK), range(20))
    train(theirs, torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=decay), range(20))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert (ours.mix.weight - Model().mix.weight).abs().max() > 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_is_no_matrix_takes_the_steps_of_torch_adamw_bit_for_bit(dtype):
    shapes = [(5,), (), (2, 3, 4), (0, 3)]
    ours, theirs = ([nn.Parameter(torch.ones(shape, dtype=dtype)) for shape in shapes] for _ in range(2))
    arguments = {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}
    pair = (GaLoreAdamW(ours, **arguments), ours), (torch.optim.AdamW(theirs, **arguments), theirs)
    for step in range(10):
        for optimizer, parameters in pair:
            generator = torch.Generator().manual_seed(step)
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, generator=generator).to(dtype)
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not torch.equal(ours[0], torch.ones(5, dtype=dtype))


def test_without_rank_a_matrix_takes_the_steps_of_torch_adamw_bit_for_bit():
    ours, theirs = Model(), Model()
    train(ours, GaLoreAdamW(ours.parameters(), lr=0.01, rank=None, weight_decay=0.1), range(10))
    train(theirs, torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=0.1), range(10))
    assert_same(ours, theirs)


def test_a_user_s_few_lines_bring_the_loss_down():
    model = Model()
    before = sum(loss_of(model, step).item() for step in range(20))
    train(model, GaLoreAdamW(model.named_parameters(), lr=0.02, rank=4), range(60))
    assert sum(loss_of(model, step).item() for step in range(20)) < 0.6 * before


def test_the_state_of_a_matrix_is_that_of_its_rank():
    weight = nn.Parameter(torch.randn(30, 40))
    optimizer = GaLoreAdamW([weight], rank=2)
    weight.grad = torch.randn(30, 40)
    optimizer.step()
    state = optimizer.state[weight]
    floats = sum(tensor.numel() for tensor in tensors_in(state) if tensor.dtype == torch.float32)
    assert floats == 30 * 2 + 2 * 2 * 40 + 40
    assert {tensor.dtype for tensor in tensors_in(state)} == {torch.float32, torch.uint8}


@pytest.mark.parametrize("rank", [6, 7, 1000])
def test_a_rank_beyond_the_smaller_side_is_full_rank(rank):
    weight = nn.Parameter(torch.randn(6, 9))
    optimizer = GaLoreAdamW([weight], rank=rank)
    weight.grad = torch.randn(6, 9)
    optimizer.step()
    assert torch.equal(optimizer.state[weight]["basis"], torch.eye(6))


# --- two ways to step ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduled", [False, True])
def test_stepping_in_the_backward_pass_gives_the_same_bits(scheduled):
    models, states = [], []
    for in_backward in (False, True):
        model = Model()
        optimizer = grouped(model)
        scheduler = CosineAnnealingLR(optimizer, T_max=6) if scheduled else None
        with optimizer.step_in_backward() if in_backward else nullcontext():
            train(model, optimizer, range(12), scheduler)
        models.append(model)
        states.append(optimizer.state_dict())
    assert_same(*models)
    assert_same_state(*states)
    assert not torch.equal(models[0].mix.weight, Model().mix.weight)


def test_stepping_in_the_backward_pass_frees_each_gradient_before_the_next():
    model, alive = Model(), []
    for parameter in model.parameters():  # runs before the optimizer's hooks: as many gradients as ever are alive
        parameter.register_post_accumulate_grad_hook(
            lambda _: alive.append(sum(p.grad is not None for p in model.parameters()))
        )
    optimizer = grouped(model)
    with optimizer.step_in_backward():
        loss_of(model, 0).backward()
        assert all(p.grad is None for p in model.parameters())
        after = copy.deepcopy(model.state_dict())
        optimizer.step()
    assert alive == [1] * len(list(model.parameters()))
    assert all(torch.equal(value, after[name]) for name, value in model.state_dict().items())


def test_the_hooks_go_with_the_block_even_where_it_fails():
    model = Model()
    optimizer = grouped(model)
    with pytest.raises(RuntimeError, match="stop"), optimizer.step_in_backward():
        raise RuntimeError("stop")
    loss_of(model, 0).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert_same(model, Model())


def test_frozen_weights_stay_as_they_are_in_both_ways():
    for in_backward in (False, True):
        model = Model()
        model.mix.requires_grad_(False)
        optimizer = GaLoreAdamW(model.parameters(), weight_decay=0.5)
        with optimizer.step_in_backward() if in_backward else nullcontext():
            train(model, optimizer, range(2))
        assert torch.equal(model.mix.weight, Model().mix.weight)
        assert not torch.equal(model.widen.weight, Model().widen.weight)


# --- groups --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("lr", 0.05),
        ("betas", (0.5, 0.9)),
        ("eps", 0.1),
        ("weight_decay", 0.5),
        ("rank", 5),
        ("rank", None),
        ("scale", 0.25),
        ("complement", 1.0),
        ("basis_pool", 1),
        ("update_proj_gap", 2),
        ("update_clip", 0.2),
        ("seed", 7),
    ],
)
def test_a_group_has_separate_values(argument, value):
    """What a group sets, it moves by as if it were set for all; the other group does not notice."""
    weights: dict[str, list[Tensor]] = {}
    cases = {"neither": ({}, {}), "group": ({}, {argument: value}), "all": ({argument: value}, {})}  # defaults, group
    for case, (defaults, group) in cases.items():
        first, second = (nn.Parameter(torch.ones(10, 12)) for _ in range(2))
        optimizer = GaLoreAdamW([{"params": [first]}, {"params": [second], **group}], **{"rank": 2, **defaults})
        for step in range(5):
            for parameter in (first, second):
                parameter.grad = torch.randn(10, 12, generator=torch.Generator().manual_seed(step))
            optimizer.step()
        weights[case] = [first.detach(), second.detach()]
    assert torch.equal(weights["group"][0], weights["neither"][0])
    assert torch.equal(weights["group"][1], weights["all"][1])
    assert not torch.equal(weights["group"][1], weights["neither"][1])


def test_a_group_added_later_starts_then_with_the_defaults():
    model = Model()
    optimizer = GaLoreAdamW(model.head.parameters(), rank=2)
    train(model, optimizer, range(3))
    model.zero_grad()
    optimizer.add_param_group({"params": model.mix.parameters(), "lr": 0.05})
    assert optimizer.param_groups[1]["rank"] == 2
    train(model, optimizer, range(3, 5))
    assert optimizer.state[model.mix.weight]["step"] == 2
    assert optimizer.state[model.head.weight]["step"] == 5
    assert torch.equal(model.widen.weight, Model().widen.weight)


def test_a_group_that_is_refused_does_not_stay():
    model = Model()
    optimizer = GaLoreAdamW(model.head.parameters())
    for wrong in ({"rank": 0}, {"params": [torch.ones(3, dtype=torch.int64)]}):
        with pytest.raises(ValueError, match=r"rank|floating-point"):
            optimizer.add_param_group({"params": model.mix.parameters(), **wrong})
        assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(
    ("argument", "values"),
    [
        ("lr", [-1e-3, "fast", None, float("nan"), float("inf")]),
        ("betas", [(0.9, 1.0), (-0.1, 0.9), (0.9,), 0.9, None]),
        ("eps", [-1e-8]),
        ("weight_decay", [-0.1]),
        ("rank", [0, -1, 2.5, "8"]),
        ("scale", [0, -1, float("nan")]),
        ("complement", [-0.5]),
        ("basis_pool", [0, 1.5]),
        ("update_proj_gap", [0, None]),
        ("prior_steps", [-1, "2"]),
        ("update_clip", [0, -1]),
        ("seed", [0.5, "seed"]),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(argument, values):
    weight = nn.Parameter(torch.ones(4, 6))
    for value in values:
        with pytest.raises(ValueError, match=f"^{argument} must be "):
            GaLoreAdamW([weight], **{argument: value})
        with pytest.raises(ValueError, match=f"^{argument} must be "):
            GaLoreAdamW([{"params": [weight], argument: value}])


@pytest.mark.parametrize(("argument", "value"), [("rank", None), ("prior_steps", None), ("update_clip", None)])
def test_none_switches_off(argument, value):
    GaLoreAdamW([nn.Parameter(torch.ones(4, 6))], **{argument: value})


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_parameters_without_real_numbers_are_refused(dtype):
    with pytest.raises(ValueError, match=f"not {dtype}"):
        GaLoreAdamW([torch.zeros(3, 4, dtype=dtype)])


def test_a_sparse_gradient_is_refused():
    embedding = nn.Embedding(5, 4, sparse=True)
    optimizer = GaLoreAdamW(embedding.named_parameters(), rank=None)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="parameter weight is sparse"):
        optimizer.step()


# --- schedulers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schedule",
    [
        lambda optimizer: LambdaLR(optimizer, lambda step: min(1, (step + 1) / 5)),
        lambda optimizer: CosineAnnealingLR(optimizer, T_max=12),
        lambda optimizer: OneCycleLR(optimizer, max_lr=0.02, total_steps=12),  # moves betas as well
    ],
)
def test_a_scheduler_moves_the_steps_as_it_moves_those_of_torch_adamw(schedule: Callable[[Any], Any]):
    ours, theirs = Model(), Model()
    mine = GaLoreAdamW(ours.parameters(), lr=0.01, weight_decay=0.1, **FULL_RANK)
    train(ours, mine, range(12), schedule(mine))
    other = torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=0.1)
    train(theirs, other, range(12), schedule(other))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_learning_rate_is_read_at_each_step():
    model = Model()
    optimizer = GaLoreAdamW(model.parameters(), lr=0.01)
    scheduler = ReduceLROnPlateau(optimizer, factor=0.0, patience=0, threshold=0.0)
    train(model, optimizer, range(2))
    for _ in range(3):
        scheduler.step(1.0)
    before = copy.deepcopy(model)
    train(model, optimizer, range(2, 4))
    assert_same(model, before)


def test_a_learning_rate_may_be_a_tensor():
    ours, theirs = Model(), Model()
    train(ours, GaLoreAdamW(ours.parameters(), lr=torch.tensor(0.25)), range(3))
    train(theirs, GaLoreAdamW(theirs.parameters(), lr=0.25), range(3))
    assert_same(ours, theirs)


# --- saved state ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 1, 4, 7])  # between two bases, and at the step that draws the next
@pytest.mark.parametrize("way", ["file", "live", "copy", "pickle"])
def test_training_goes_on_with_the_same_bits(steps, way):
    whole = Model()
    train(whole, grouped(whole), range(12))
    first = Model()
    optimizer = grouped(first)
    train(first, optimizer, range(steps))
    second = Model(seed=1)
    second.load_state_dict(first.state_dict())
    if way in ("file", "live"):
        document = saved_and_loaded(optimizer.state_dict()) if way == "file" else optimizer.state_dict()
        resumed = grouped(second, lr=9.0, rank=1)  # the saved groups' values hold
        resumed.load_state_dict(document)
    else:
        second, resumed = (
            copy.deepcopy((first, optimizer)) if way == "copy" else pickle.loads(pickle.dumps((first, optimizer)))
        )
    train(second, resumed, range(steps, 12))
    assert_same(second, whole)
    train(first, optimizer, range(steps, 12))  # which the other has not disturbed
    assert_same(first, whole)


def test_a_scheduler_and_its_optimizer_go_on_together():
    whole, first, second = Model(), Model(), Model()
    optimizer = grouped(whole)
    train(whole, optimizer, range(10), CosineAnnealingLR(optimizer, T_max=10))
    optimizer = grouped(first)
    scheduler = CosineAnnealingLR(optimizer, T_max=10)
    train(first, optimizer, range(6), scheduler)
    document = saved_and_loaded(
        {"model": first.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    )
    resumed = grouped(second)
    scheduler = CosineAnnealingLR(resumed, T_max=10)
    second.load_state_dict(document["model"])
    resumed.load_state_dict(document["optimizer"])
    scheduler.load_state_dict(document["scheduler"])
    train(second, resumed, range(6, 10), scheduler)
    assert_same(second, whole)


def test_state_may_be_loaded_while_steps_are_taken_in_the_backward_pass():
    whole, first = Model(), Model()
    train(whole, grouped(whole), range(8))
    saved = grouped(first)
    train(first, saved, range(5))
    resumed = grouped(first, lr=9.0)
    with resumed.step_in_backward():
        resumed.load_state_dict(saved.state_dict())
        train(first, resumed, range(5, 8))
    assert_same(first, whole)


def test_the_state_of_a_narrow_weight_keeps_its_width():
    first = Model().to(torch.bfloat16)
    optimizer = grouped(first)
    train(first, optimizer, range(3))
    assert optimizer.state[first.mix.weight]["exp_avg_sq"].dtype == torch.float32
    assert first.mix.weight.dtype == torch.bfloat16
    second = copy.deepcopy(first)
    resumed = grouped(second)
    resumed.load_state_dict(saved_and_loaded(optimizer.state_dict()))
    assert_same_state(resumed.state_dict(), optimizer.state_dict())
    for model, stepper in ((first, optimizer), (second, resumed)):
        train(model, stepper, range(3, 9))
    assert_same(first, second)


def test_what_is_loaded_is_a_copy():
    model = Model()
    optimizer = grouped(model)
    train(model, optimizer, range(3))
    document = copy.deepcopy(optimizer.state_dict())
    kept = copy.deepcopy(document)
    optimizer.load_state_dict(document)
    train(model, optimizer, range(3, 6))
    assert_same_state(document, kept)


def test_hooks_of_the_user_see_what_is_loaded():
    model = Model()
    optimizer = grouped(model)
    train(model, optimizer, range(3))
    document = optimizer.state_dict()
    other = grouped(Model())
    other.register_load_state_dict_pre_hook(lambda _, wrapped: wrapped["wrapped"])
    other.load_state_dict({"wrapped": document})
    assert_same_state(other.state_dict(), document)


def test_a_look_at_the_state_of_a_parameter_that_never_stepped_does_no_harm():
    model = Model()
    optimizer = grouped(model)
    assert all(not optimizer.state[parameter] for parameter in model.parameters())  # torch leaves empty entries behind
    optimizer.load_state_dict(saved_and_loaded(optimizer.state_dict()))
    train(model, optimizer, range(3))
    expected = Model()
    train(expected, grouped(expected), range(3))
    assert_same(model, expected)


def test_the_state_of_another_optimizer_or_model_is_refused():
    model, small = Model(), nn.Linear(20, 4)
    optimizer, other = GaLoreAdamW(model.mix.parameters()), GaLoreAdamW(small.parameters())
    train(model, optimizer, range(2))
    before = optimizer.state_dict()
    theirs, fresh = torch.optim.AdamW(model.mix.parameters()), torch.optim.AdamW(model.mix.parameters())
    train(model, theirs, range(2))
    small(torch.ones(1, 20)).sum().backward()
    other.step()
    refused = (theirs, "another optimizer's"), (fresh, "another optimizer's"), (other, "parameter 0 has the shape")
    for wrong, words in refused:
        with pytest.raises(ValueError, match=f"^state_dict.*{words}"):
            optimizer.load_state_dict(wrong.state_dict())
        assert_same_state(optimizer.state_dict(), before)
    with pytest.raises(ValueError, match="different number of parameter groups"):
        optimizer.load_state_dict(grouped(model).state_dict())


# --- what else users expect ----------------------------------------------------------------------------------


@pytest.mark.parametrize("in_backward", [False, True])
def test_a_closure_computes_the_loss_and_its_value_comes_back(in_backward):
    ours, theirs = Model(), Model()
    optimizer, reference = grouped(ours), grouped(theirs)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(ours, 0)
        loss.backward()
        return loss

    with optimizer.step_in_backward() if in_backward else nullcontext():
        for _ in range(4):
            expected = loss_of(theirs, 0)
            assert torch.equal(optimizer.step(closure), expected)
            train(theirs, reference, range(1))
    assert_same(ours, theirs)


def test_zero_grad_frees_or_clears_the_gradients():
    model = Model()
    optimizer = grouped(model)
    loss_of(model, 0).backward()
    optimizer.zero_grad(set_to_none=False)
    assert all(not p.grad.any() for p in model.parameters())
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_gradients_add_up_and_may_be_clipped_before_a_step():
    whole, halves = Model(), Model()
    for model, parts in ((whole, 1), (halves, 2)):
        optimizer = GaLoreAdamW(model.parameters(), rank=3, lr=0.01)
        for step in range(3):
            for _ in range(parts):
                (loss_of(model, step) / parts).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
    for a, b in zip(whole.parameters(), halves.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_gradient_scaler_steps_it_and_skips_what_overflowed():
    model = Model()
    optimizer = grouped(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(loss_of(model, 0)).backward()
    scaler.step(optimizer)
    scaler.update()
    assert optimizer.state[model.mix.weight]["step"] == 1
    before = copy.deepcopy(model)
    model.mix.weight.grad.fill_(float("inf"))
    scaler.step(optimizer)
    assert_same(model, before)


def test_a_parameter_without_a_gradient_is_left_alone():
    model = Model()
    optimizer = GaLoreAdamW(model.parameters(), weight_decay=0.5)
    model.mix.weight.sum().backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, dict(Model().named_parameters())[name]) == (name != "mix.weight")


def test_step_hooks_run_once_a_step():
    model, calls = Model(), []
    optimizer = grouped(model)
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    train(model, optimizer, range(3))
    assert calls == [1, 1, 1]


# --- names and seeds -----------------------------------------------------------------------------------------


def bases_of(optimizer: GaLoreAdamW, weights: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(20, 30, generator=generator)
    for weight in weights.values():
        weight.grad = gradient.clone()
    optimizer.step()
    return {name: optimizer.state[weight]["basis"] for name, weight in weights.items()}


def two_weights() -> dict[str, nn.Parameter]:
    return {name: nn.Parameter(torch.zeros(20, 30)) for name in ("a", "b")}


def test_bases_hang_on_seed_and_name():
    forth, back, other = two_weights(), two_weights(), two_weights()
    first = bases_of(GaLoreAdamW(forth.items(), rank=3), forth)
    second = bases_of(GaLoreAdamW(reversed(back.items()), rank=3), back)
    third = bases_of(GaLoreAdamW(other.items(), rank=3, seed=1), other)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["a"], first["b"])
    assert not torch.equal(first["a"], third["a"])


def test_without_names_bases_hang_on_the_place_over_all_groups():
    weights, apart, named = two_weights(), two_weights(), two_weights()
    first = bases_of(GaLoreAdamW(weights.values(), rank=3), weights)
    groups = [{"params": [weight]} for weight in apart.values()]
    second = bases_of(GaLoreAdamW(groups, rank=3), apart)
    third = bases_of(GaLoreAdamW([("0", named["a"]), ("1", named["b"])], rank=3), named)
    assert all(torch.equal(first[name], second[name]) and torch.equal(first[name], third[name]) for name in first)
    assert not torch.equal(first["a"], first["b"])


# --- a second moment from elsewhere --------------------------------------------------------------------------


def test_a_second_moment_is_carried_from_a_training_into_another():
    first = Model()
    optimizer = GaLoreAdamW(first.parameters(), rank=3)
    train(first, optimizer, range(5))
    sketch = optimizer.sketch_of(first.mix.weight)
    assert sketch.basis.shape == (20, 3)
    weights = []
    for prior, carried in ((2.0, True), (0.0, True), (2.0, False)):
        second = Model()
        resumed = GaLoreAdamW(second.parameters(), rank=3, prior_steps=prior)
        if carried:
            resumed.start_from(second.mix.weight, sketch)
            other = GaLoreAdamW(second.parameters(), rank=3, prior_steps=prior)
            other.load_state_dict(saved_and_loaded(resumed.state_dict()))  # before its first step
            resumed = other
            assert torch.equal(resumed.sketch_of(second.mix.weight).residual, sketch.residual)
        train(second, resumed, range(2))
        weights.append(second.mix.weight.detach())
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(weights[1], weights[2])


def test_a_second_moment_that_does_not_fit_is_refused():
    model = Model()
    optimizer = GaLoreAdamW(model.named_parameters(), rank=3)
    sketch = SecondMomentSketch(torch.eye(20, 3), torch.ones(3, 20), torch.ones(1, 20))
    with pytest.raises(ValueError, match="parameter head.bias has no subspace"):
        optimizer.start_from(model.head.bias, sketch)
    with pytest.raises(
        ValueError, match=r"parameter widen.weight needs a sketch of the shape \(8, 20\), not \(20, 20\)"
    ):
        optimizer.start_from(model.widen.weight, sketch)
    with pytest.raises(ValueError, match="not in this optimizer"):
        optimizer.start_from(nn.Parameter(torch.ones(20, 20)), sketch)
    optimizer.state_dict()  # no trace is left
    train(model, optimizer, range(1))
    with pytest.raises(ValueError, match="has taken 1 steps"):
        optimizer.start_from(model.mix.weight, sketch)
    with pytest.raises(ValueError, match="parameter head.bias has no subspace"):
        optimizer.sketch_of(model.head.bias)


# --- devices and dtypes --------------------------------------------------------------------------------------


def test_state_lies_where_the_parameter_lies():
    """`meta` stands in for a second device, with the choices that need no numbers back from it."""
    weights = {device: nn.Parameter(torch.ones(6, 9, device=device)) for device in ("cpu", "meta")}
    optimizer = GaLoreAdamW(weights.values(), rank=2, basis_pool=1, update_clip=None, update_proj_gap=2)
    for _ in range(5):
        for device, weight in weights.items():
            weight.grad = torch.ones(6, 9, device=device)
        optimizer.step()
    for device, weight in weights.items():
        assert {t.device.type for t in tensors_in(optimizer.state[weight]) if t.dtype == torch.float32} == {device}
    resumed = GaLoreAdamW(weights.values(), rank=2, basis_pool=1, update_clip=None, update_proj_gap=2)
    resumed.load_state_dict(optimizer.state_dict())
    for device, weight in weights.items():
        assert resumed.state[weight]["exp_avg"].device.type == device


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("in_backward", [False, True])
def test_a_model_on_two_devices_trains_and_goes_on(in_backward):
    model = Model()
    model.head.to("cuda")
    model.mix.to("cuda")
    model.head.register_forward_hook(lambda _module, _inputs, output: output.cpu())
    model.mix.register_forward_pre_hook(lambda _module, inputs: (inputs[0].to("cuda"),))
    optimizer = grouped(model)
    with optimizer.step_in_backward() if in_backward else nullcontext():
        train(model, optimizer, range(9))
    assert optimizer.state[model.mix.weight]["basis"].device.type == "cuda"
    assert optimizer.state[model.widen.weight]["basis"].device.type == "cpu"
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert not torch.equal(model.mix.weight.cpu(), Model().mix.weight)
    resumed, twin = grouped(model), copy.deepcopy(model)
    resumed.load_state_dict(saved_and_loaded(optimizer.state_dict()))
    other = grouped(twin)
    other.load_state_dict(optimizer.state_dict())
    train(model, resumed, range(9, 14))
    train(twin, other, range(9, 14))
    assert_same(model, twin)


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_a_process_default_dtype_does_not_matter(default):
    expected, model = Model(), Model()
    train(expected, grouped(expected), range(6))
    optimizer = grouped(model)
    torch.set_default_dtype(default)
    try:
        train(model, optimizer, range(6))
    finally:
        torch.set_default_dtype(torch.float32)
    assert_same(model, expected)


def test_a_process_default_device_does_not_matter():
    expected, weight = nn.Parameter(torch.ones(10, 12)), nn.Parameter(torch.ones(10, 12))
    gradient = torch.randn(10, 12, generator=torch.Generator().manual_seed(0))
    for parameter, device in ((expected, "cpu"), (weight, "meta")):
        with torch.device(device):
            optimizer = GaLoreAdamW([parameter], rank=2)
            parameter.grad = gradient.clone()
            optimizer.step()
    assert torch.equal(weight, expected)


def test_a_matrix_in_bfloat16_goes_where_float32_goes():
    """Down a slope whose steps are a tenth of what bfloat16 can tell."""
    wanted = 1 + 0.02 * torch.randn(24, 32, generator=torch.Generator().manual_seed(0))
    ends = {}
    for dtype in (torch.float32, torch.bfloat16):
        weight = torch.ones(24, 32, dtype=dtype, requires_grad=True)
        optimizer = GaLoreAdamW([("weight", weight)], lr=4e-4, rank=4, complement=1.0, update_proj_gap=10)
        for _ in range(60):
            (weight.float() - wanted).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        assert optimizer.state[weight]["exp_avg"].dtype is torch.float32
        ends[dtype] = float((weight.detach().float() - wanted).norm())
    assert ends[torch.float32] < 0.6 * float((1 - wanted).norm())
    assert ends[torch.bfloat16] == pytest.approx(ends[torch.float32], rel=0.25)
