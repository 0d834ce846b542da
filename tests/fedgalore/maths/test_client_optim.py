"""A client's GaLoreAdamW against torch's AdamW, galore-torch, the papers' formulas written out, and its promises."""

import importlib.util
import io
import sys
import types
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import pairwise
from math import inf

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedgalore.maths.client_optim import ClientGaLoreAdamW, SharedBasis
from fedgalore.maths.optim import GaLoreAdamW
from fedgalore.maths.projector import orient
from fedgalore.maths.second_moment import SecondMomentSketch, carry
from fedgalore.maths.subspace_config import SubspaceConfig

SHAPES = [(6, 10), (10, 6)]
PLAIN = {"prior_steps": 0.0, "update_clip": None}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gradients_of(shape: tuple[int, int], steps: int, seed: int = 0) -> list[Tensor]:
    generator = seeded(seed)
    return [torch.randn(shape, generator=generator) * (0.1 + 3 * step / steps) for step in range(steps)]


def carried_sketch(shape: tuple[int, int], rank: int, seed: int = 3) -> SecondMomentSketch:
    d, k = min(shape), max(shape)
    generator = seeded(seed)
    basis, _ = torch.linalg.qr(torch.randn(d, rank, generator=generator))
    return SecondMomentSketch(
        basis, torch.rand(rank, k, generator=generator) + 0.1, torch.rand(1, k, generator=generator) * 0.1
    )


class Trained:
    """One matrix after some steps along given gradients."""

    def __init__(self, gradients, rank, carried=None, start=None, seed=0, **config):
        shape = tuple(gradients[0].shape)
        self.start = torch.randn(shape, generator=seeded(99)) if start is None else start
        weight = nn.Parameter(self.start.clone())
        sketches = {} if carried is None else {"w": carried}
        self.path = [self.start.clone()]
        self.bases: list[Tensor] = []
        self.optimizer = ClientGaLoreAdamW({"w": (weight, rank)}, SubspaceConfig(**config), sketches, seed)
        with self.optimizer.step_in_backward():
            for gradient in gradients:
                (weight * gradient).sum().backward()
                self.optimizer.step()
                self.path.append(weight.detach().clone())
                basis = self.optimizer.sketch("w").basis
                if not self.bases or basis is not self.bases[-1]:
                    self.bases.append(basis)
        self.weight = self.path[-1]
        self.factors = [] if config.get("complement") else self.optimizer.factors("w")
        self.sketch = self.optimizer.sketch("w")

    def from_factors(self) -> Tensor:
        total = self.optimizer.decay * orient(self.start).double()
        for factor in self.factors:
            total = total + factor.basis.double() @ factor.factor.double()
        return total


# --- oracles -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("gap", [200, 7])
def test_at_full_rank_without_carried_state_it_is_torch_adamw(shape, gap):
    generator = seeded(1)
    inputs, wanted = torch.randn(30, shape[1], generator=generator), torch.randn(30, shape[0], generator=generator)
    start = torch.randn(shape, generator=generator)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    config = SubspaceConfig(lr=0.02, weight_decay=0.1, update_proj_gap=gap, prior_steps=2, update_clip=None)
    reference = torch.optim.AdamW([theirs], lr=0.02, weight_decay=0.1)
    optimizer = ClientGaLoreAdamW({"w": (ours, min(shape))}, config)
    with optimizer.step_in_backward():
        for _ in range(20):
            for weight, stepper in ((ours, optimizer), (theirs, reference)):
                (torch.tanh(inputs @ weight.T) - wanted).square().mean().backward()
                stepper.step()
            reference.zero_grad()
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert (ours - start).abs().max() > 0.1


def galore_by_the_paper(start: Tensor, gradients: list[Tensor], basis: Tensor, rate: float, scale: float) -> np.ndarray:
    """GaLore, algorithm 2 (arXiv 2403.03507), Adam inside a fixed basis `(d, r)`; `start` oriented, float64."""
    weight, P = start.numpy().astype(np.float64), basis.numpy().astype(np.float64)
    M = V = np.zeros((P.shape[1], weight.shape[1]))
    for t, gradient in enumerate(gradients, start=1):
        R = P.T @ gradient.numpy().astype(np.float64)
        M, V = 0.9 * M + 0.1 * R, 0.999 * V + 0.001 * R**2
        N = (M / (1 - 0.9**t)) / (np.sqrt(V / (1 - 0.999**t)) + 1e-12)
        weight = weight - rate * scale * (P @ N)
    return weight


@pytest.mark.parametrize("shape", SHAPES)
def test_with_a_state_of_zeros_it_takes_the_steps_of_the_galore_paper(shape):
    gradients = gradients_of(shape, 12)
    run = Trained(gradients, 3, lr=0.01, scale=0.25, eps=1e-12, **PLAIN)
    oriented = [orient(g) for g in gradients]
    expected = galore_by_the_paper(orient(run.start), oriented, run.factors[0].basis, 0.01, 0.25)
    np.testing.assert_allclose(orient(run.weight).numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def galore_torch() -> Iterator[types.SimpleNamespace]:
    """The two modules that matter, without the package's start, which needs bitsandbytes for an 8-bit variant."""
    installed = importlib.util.find_spec("galore_torch")
    if installed is None:
        pytest.skip("galore-torch is not installed (pip install --no-deps galore-torch)")
    package = types.ModuleType("galore_torch")
    package.__path__ = list(installed.submodule_search_locations or [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "galore_torch", package)
        yield types.SimpleNamespace(
            adamw=importlib.import_module("galore_torch.adamw").AdamW,
            projector=importlib.import_module("galore_torch.galore_projector").GaLoreProjector,
        )


@pytest.mark.parametrize("shape", SHAPES)
def test_with_a_state_of_zeros_it_takes_the_steps_of_galore_torch(galore_torch, shape):
    gradients = gradients_of(shape, 12)
    run = Trained(gradients, 3, lr=0.01, scale=0.25, eps=1e-12, **PLAIN)
    basis = run.factors[0].basis
    weight = nn.Parameter(run.start.clone())
    group = {"params": [weight], "rank": 3, "update_proj_gap": 200, "scale": 0.25, "proj_type": "std"}
    theirs = galore_torch.adamw([group], lr=0.01, eps=1e-12, no_deprecation_warning=True)
    projector = galore_torch.projector(3, scale=0.25)
    projector.get_orthogonal_matrix = lambda *_, **__: basis if shape[0] < shape[1] else basis.T
    theirs.state[weight]["projector"] = projector
    for gradient, expected in zip(gradients, run.path[1:], strict=True):
        weight.grad = gradient.clone()
        theirs.step()
        torch.testing.assert_close(weight.detach(), expected, rtol=1e-5, atol=1e-6)


def client_round_by_the_page(start, gradients, bases, gap, config: SubspaceConfig, carried):
    """ALGORITHM, "Client, one round", in float64, bases given: the weights after each step, the last `V` and `rho`.

    With complement, Fira's term: a column outside the basis scaled as AdamW scaled its norm inside.
    """
    weight = start.numpy().astype(np.float64)
    d, r = bases[0].shape
    beta1, beta2 = config.betas
    n0 = inf if config.prior_steps is None else config.prior_steps
    n0 = 0.0 if carried is None else n0

    def bias(t):
        return 1.0 if n0 == inf else 1 - beta2 ** (n0 + t)

    m = V = np.zeros((r, weight.shape[1]))
    rhos, path = [], []

    def moved(V, rho, C):
        return np.maximum(C**2 @ V + (1 - (C**2).sum(1, keepdims=True)) * rho, 0)

    for t, gradient in enumerate(gradients):
        G = gradient.numpy().astype(np.float64)
        P = bases[t // gap]
        if t == 0 and carried is not None:
            V = bias(0) * np.maximum(moved(carried[1], carried[2], P.T @ carried[0]), (P.T @ G) ** 2)
        elif t > 0 and t % gap == 0:
            C = P.T @ bases[t // gap - 1]
            V, m = bias(t) * moved(V / bias(t), np.mean(rhos, axis=0), C), C @ m
        R = P.T @ G
        rhos.append(((G**2).sum(0, keepdims=True) - (R**2).sum(0, keepdims=True)) / (d - r))
        m, V = beta1 * m + (1 - beta1) * R, beta2 * V + (1 - beta2) * R**2
        N = (m / (1 - beta1 ** (t + 1))) / (np.sqrt(V / bias(t + 1)) + config.eps)
        if config.update_clip is not None:
            N = N / max(1, np.sqrt(np.mean(N**2)) / config.update_clip)
        inside = np.maximum(np.linalg.norm(R, axis=0), np.sqrt(r * rhos[-1][0]))
        outside = (G - P @ R) * np.linalg.norm(N, axis=0) / np.maximum(inside, config.eps)
        step = P @ N + config.complement * outside
        weight = (1 - config.lr * config.weight_decay) * weight - config.lr * config.scale * step
        path.append(weight)
    return path, V / bias(len(gradients)), np.mean(rhos, axis=0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("prior", [0.0, 2.0, None])
@pytest.mark.parametrize(("clip", "gap"), [(None, 4), (1.0, 100), (0.3, 4)])
@pytest.mark.parametrize("complement", [0.0, 1.0, 0.4])
def test_a_round_is_as_the_algorithm_describes_it(shape, with_state, prior, clip, gap, complement):
    gradients = gradients_of(shape, 10, seed=5)
    carried = carried_sketch(shape, 3) if with_state else None
    choices = {"lr": 0.03, "weight_decay": 0.5, "scale": 0.7, "eps": 1e-6, "betas": (0.8, 0.95)}
    choices |= {"prior_steps": prior, "update_clip": clip, "update_proj_gap": gap, "complement": complement}
    run = Trained(gradients, 3, carried, **choices)
    bases = [basis.numpy().astype(np.float64) for basis in run.bases]
    assert len(bases) == -(-10 // gap)
    state = None
    if carried is not None:
        state = [t.numpy().astype(np.float64) for t in (carried.basis, carried.second_moment, carried.residual)]
    path, second, residual = client_round_by_the_page(
        orient(run.start), [orient(g) for g in gradients], bases, gap, SubspaceConfig(**choices), state
    )
    for got, expected in zip(run.path[1:], path, strict=True):
        np.testing.assert_allclose(orient(got).numpy(), expected, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(run.sketch.second_moment.numpy(), second, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(run.sketch.residual.numpy(), residual, rtol=1e-3, atol=1e-5)
    assert complement or all(f.basis is basis for f, basis in zip(run.factors, run.bases, strict=True))


# --- factors -------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(2, 12),
    columns=st.integers(2, 12),
    share=st.floats(0.01, 1),
    steps=st.integers(1, 9),
    gap=st.integers(1, 10),
    decay=st.sampled_from([0.0, 0.3, 5.0]),
    carried=st.booleans(),
)
def test_factors_and_decay_give_back_the_weights(rows, columns, share, steps, gap, decay, carried):
    shape = (rows, columns)
    rank = max(1, round(share * min(shape)))
    run = Trained(
        gradients_of(shape, steps),
        rank,
        carried_sketch(shape, rank) if carried else None,
        lr=0.05,
        weight_decay=decay,
        update_proj_gap=gap,
    )
    assert run.optimizer.decay == pytest.approx((1 - 0.05 * decay) ** steps)
    assert len(run.factors) == -(-steps // gap)
    torch.testing.assert_close(orient(run.weight).double(), run.from_factors(), rtol=1e-5, atol=1e-5)


def test_rank_limits_the_change_to_the_basis():
    run = Trained(gradients_of((8, 20), 5), 2, lr=0.1)
    assert torch.linalg.matrix_rank(run.weight - run.start, tol=1e-4) == 2


def test_with_complement_the_change_has_full_rank():
    run = Trained(gradients_of((8, 20), 5), 2, lr=0.1, complement=1.0)
    assert torch.linalg.matrix_rank(run.weight - run.start, tol=1e-4) == 8


@pytest.mark.parametrize("inside", [0.0, 1e-20, 1e-3])
def test_a_column_that_hardly_projects_does_not_explode(inside):
    """The gradient leaves the basis of the first step. AdamW must not divide its momentum by next to nothing."""
    first, second = torch.zeros(6, 10), torch.zeros(6, 10)
    first[:2] = torch.randn(2, 10, generator=seeded(1))
    second[2:] = torch.randn(4, 10, generator=seeded(2))
    second[:2] = inside * torch.randn(2, 10, generator=seeded(3))
    run = Trained([first, second], 2, lr=0.1, complement=1.0, basis_pool=1, update_proj_gap=9)
    step = (run.path[2] - run.path[1]).norm(dim=0)
    assert torch.isfinite(run.weight).all()
    assert 0 < step.max() < 0.1 * (2 + 6 - 2) ** 0.5 * 1.5


def test_a_target_without_gradients_only_decays():
    seen, unseen = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(4, 6))
    before = unseen.detach().clone()
    config = SubspaceConfig(lr=0.1, weight_decay=0.5)
    carried = carried_sketch((4, 6), 2)
    targets = {"seen": (seen, 2), "unseen": (unseen, 2)}
    optimizer = ClientGaLoreAdamW(targets, config, {"unseen": carried})
    with optimizer.step_in_backward():
        for _ in range(3):
            seen.square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(unseen.detach(), optimizer.decay * before)
    (factor,) = optimizer.factors("unseen")
    assert factor.factor.abs().max() == 0
    sketch = optimizer.sketch("unseen")
    assert torch.isfinite(sketch.second_moment).all()
    assert torch.equal(sketch.residual, carried.residual)


def test_a_gradient_of_zeros_moves_nothing():
    run = Trained([torch.zeros(4, 6)] * 2, 2)
    assert torch.equal(run.weight, run.start)
    assert torch.isfinite(run.sketch.second_moment).all()


# --- carried state -------------------------------------------------------------------------------------------


def test_no_prior_steps_is_a_reset():
    gradients = gradients_of((6, 10), 5)
    reset = Trained(gradients, 3, None, update_clip=None)
    without_trust = Trained(gradients, 3, carried_sketch((6, 10), 3), prior_steps=0.0, update_clip=None)
    assert torch.equal(reset.weight, without_trust.weight)


@pytest.mark.parametrize("prior", [0.5, 2.0, None])
def test_before_any_step_the_carried_state_counts_in_full(prior):
    """The first gradient is tiny beside the state, so the first `V` is the carried `V` times the weight it keeps."""
    carried = carried_sketch((6, 10), 3)
    run = Trained([1e-6 * g for g in gradients_of((6, 10), 1)], 3, carried, prior_steps=prior, update_clip=None)
    kept = 0.999 if prior is None else 0.999 * (1 - 0.999**prior) / (1 - 0.999 ** (prior + 1))
    torch.testing.assert_close(run.sketch.second_moment, kept * carry(carried, run.sketch.basis), rtol=1e-4, atol=0)


@pytest.mark.parametrize("prior", [2.0, None])
def test_a_carried_state_may_shorten_a_first_step_but_not_lengthen_it(prior):
    gradients = gradients_of((6, 10), 1)
    scale = torch.logspace(-6, 3, 10)[None]
    carried = SecondMomentSketch(torch.eye(6, 3), scale.expand(3, 10), scale)
    run = Trained(gradients, 3, carried, lr=0.1, prior_steps=prior, update_clip=None, eps=0.0)
    projected = run.factors[0].basis.T @ gradients[0]
    start = torch.maximum(carry(carried, run.factors[0].basis), projected.square())
    assert (start > projected.square()).any()
    assert (start == projected.square()).any()
    kept = 0.999 if prior is None else (1 - 0.999**prior) * 0.999 / (1 - 0.999 ** (prior + 1))
    new = 0.001 if prior is None else 0.001 / (1 - 0.999 ** (prior + 1))
    expected = -0.1 * projected / (kept * start + new * projected.square()).sqrt()
    torch.testing.assert_close(run.factors[0].factor, expected, rtol=1e-4, atol=1e-7)
    assert expected.abs().max() <= 0.1 + 1e-6


def test_more_prior_steps_keep_more_of_the_carried_state():
    gradients = gradients_of((6, 10), 6)
    carried = SecondMomentSketch(torch.eye(6, 3), torch.full((3, 10), 1e4), torch.full((1, 10), 1e4))
    left = [Trained(gradients, 3, carried, prior_steps=p).sketch.second_moment for p in (0.0, 1.0, 5.0, None)]
    for less, more in pairwise(left):
        assert (more > less).all()


# --- clip ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [1.0, 0.25])
def test_a_step_is_clipped_to_the_root_mean_square_asked_for(clip):
    tiny = SecondMomentSketch(torch.eye(6, 3), torch.full((3, 10), 1e-8), torch.full((1, 10), 1e-8))
    gradients = [
        torch.zeros(6, 10),
        1e3 * gradients_of((6, 10), 1)[0],
    ]  # a first gradient would show in the state
    clipped = Trained(gradients, 3, tiny, lr=0.1, prior_steps=None, update_clip=clip)
    rms = clipped.factors[0].factor.square().mean().sqrt()
    assert float(rms) == pytest.approx(0.1 * clip, rel=1e-4)
    giant = Trained(gradients, 3, tiny, lr=0.1, prior_steps=None, update_clip=None)
    assert giant.factors[0].factor.square().mean().sqrt() > 10 * rms
    ratio = giant.factors[0].factor / clipped.factors[0].factor
    torch.testing.assert_close(ratio, ratio[0, 0].expand_as(ratio), rtol=1e-3, atol=0)  # same direction


def test_the_clip_leaves_small_steps_alone():
    gradients = gradients_of((6, 10), 4)
    assert torch.equal(Trained(gradients, 3, update_clip=1e6).weight, Trained(gradients, 3, update_clip=None).weight)


# --- hooks ---------------------------------------------------------------------------------------------------


def test_hooks_free_each_gradient_before_the_next_gradient_and_go_at_the_end():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2))
    targets = {str(i): (model[i].weight, 2) for i in (0, 1)}
    alive: list[int] = []
    watches = [  # run before the optimizer's hooks: as many gradients as ever are alive
        weight.register_post_accumulate_grad_hook(
            lambda _: alive.append(sum(w.grad is not None for w, _ in targets.values()))
        )
        for weight, _ in targets.values()
    ]
    optimizer = ClientGaLoreAdamW(targets, SubspaceConfig())
    with optimizer.step_in_backward():
        for weight, _ in targets.values():
            assert len(weight._post_accumulate_grad_hooks) == 2  # the watch and the optimizer's hook
        before = [p.detach().clone() for p in (model[0].weight, model[1].weight)]
        model(torch.ones(3, 6)).sum().backward()
        assert model[0].weight.grad is None
        assert model[1].weight.grad is None
        optimizer.step()
        for old, new in zip(before, (model[0].weight, model[1].weight), strict=True):
            assert not torch.equal(old, new)
    assert alive == [1, 1]
    for watch in watches:
        watch.remove()
    for weight, _ in targets.values():
        assert not weight._post_accumulate_grad_hooks
    model(torch.ones(3, 6)).sum().backward()
    assert model[0].weight.grad is not None


def test_hooks_go_when_training_fails():
    weight = nn.Parameter(torch.randn(4, 6))

    def fail() -> None:
        with ClientGaLoreAdamW({"w": (weight, 2)}, SubspaceConfig()).step_in_backward():
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert not weight._post_accumulate_grad_hooks


def test_bases_hang_on_seed_and_name_alone():
    gradients = gradients_of((20, 30), 1)
    first = Trained(gradients, 3, seed=1).factors[0].basis
    assert torch.equal(first, Trained(gradients, 3, seed=1).factors[0].basis)
    assert not torch.equal(first, Trained(gradients, 3, seed=2).factors[0].basis)


# --- beside a user's optimizer -------------------------------------------------------------------------------


@pytest.mark.parametrize("complement", [0.0, 1.0])
@pytest.mark.parametrize("with_state", [False, True])
def test_it_takes_the_steps_of_a_user_s_optimizer_bit_for_bit(complement, with_state):
    gradients, carried = gradients_of((6, 10), 9), carried_sketch((6, 10), 3) if with_state else None
    choices = {"lr": 0.05, "weight_decay": 0.3, "update_proj_gap": 4, "complement": complement}
    run = Trained(gradients, 3, carried, seed=5, **choices)
    weight = nn.Parameter(run.start.clone())
    optimizer = GaLoreAdamW([("w", weight)], rank=3, seed=5, **choices)
    if carried is not None:
        optimizer.start_from(weight, carried)
    for gradient in gradients:
        weight.grad = gradient
        optimizer.step()
    assert torch.equal(weight.detach(), run.weight)
    assert torch.equal(optimizer.sketch_of(weight).second_moment, run.sketch.second_moment)


def shared_training(weights: dict[str, nn.Parameter], first_round: bool) -> ClientGaLoreAdamW:
    basis, _ = torch.linalg.qr(torch.randn(6, 2, generator=seeded(7)))
    shared = SharedBasis(None if first_round else basis, torch.randn(10, 4, generator=seeded(8)))
    config = SubspaceConfig(lr=0.05, weight_decay=0.3)
    targets = {name: (weight, 2) for name, weight in weights.items()}
    return ClientGaLoreAdamW(targets, config, shared=dict.fromkeys(weights, shared))


@pytest.mark.parametrize("first_round", [False, True])
def test_both_ways_to_step_report_the_same(first_round):
    reports = []
    for in_backward in (False, True):
        weights = {name: nn.Parameter(torch.randn(6, 10, generator=seeded(9))) for name in ("seen", "unseen")}
        optimizer = shared_training(weights, first_round)
        with optimizer.step_in_backward() if in_backward else nullcontext():
            for gradient in gradients_of((6, 10), 3):
                (weights["seen"] * gradient).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
        reports.append([w.detach() for w in weights.values()] + [optimizer.range_sketch(name) for name in weights])
        reports[-1] += [factor.factor for name in weights for factor in optimizer.factors(name)]
        assert optimizer.decay == pytest.approx((1 - 0.05 * 0.3) ** 3)
    assert all(torch.equal(a, b) for a, b in zip(*reports, strict=True))
    assert reports[0][2].any()
    start = torch.randn(6, 10, generator=seeded(9))
    torch.testing.assert_close(reports[0][1], optimizer.decay * start)
    assert torch.allclose(reports[0][0], optimizer.decay * start) == first_round


@pytest.mark.parametrize("steps", [2, 3])
def test_a_saved_round_goes_on_with_the_same_report(steps):
    gradients = gradients_of((6, 10), 8)
    choices = {"lr": 0.05, "weight_decay": 0.3, "update_proj_gap": 3}
    whole = Trained(gradients, 3, **choices)
    part = Trained(gradients[:steps], 3, **choices)
    file = io.BytesIO()
    torch.save(part.optimizer.state_dict(), file)
    file.seek(0)
    weight = nn.Parameter(part.weight.clone())
    resumed = ClientGaLoreAdamW({"w": (weight, 3)}, SubspaceConfig(**choices))
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for gradient in gradients[steps:]:
        weight.grad = gradient
        resumed.step()
    assert torch.equal(weight.detach(), whole.weight)
    assert resumed.decay == whole.optimizer.decay
    for ours, theirs in zip(resumed.factors("w"), whole.factors, strict=True):
        assert torch.equal(ours.basis, theirs.basis)
        assert torch.equal(ours.factor, theirs.factor)


def test_a_change_with_complement_has_no_factors():
    run = Trained(gradients_of((6, 10), 2), 3, complement=1.0)
    with pytest.raises(ValueError, match="complement has full rank"):
        run.optimizer.factors("w")
