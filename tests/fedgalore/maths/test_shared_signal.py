"""AJIVE: planted spaces, algebraic identities, an independent implementation, and the laws of its random draws."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedgalore.maths import random_spaces, shared_signal
from fedgalore.maths.random_spaces import random_direction_bounds, random_orthonormal_rows, wishart
from fedgalore.maths.shared_signal import extract, row_spaces
from tests.fedgalore.maths import ajive_reference as reference

K = 120
ROWS = 8


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def planted(
    blocks: int, joint: int, individual: int, noise: float, seed: int = 0, rows: int = ROWS, k: int = K
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Blocks `(M, rows, k)` with `joint` common and `individual` separate row directions, strength 8 to 12, and noise.

    All row directions are orthogonal to each other. `noise` is the spectral norm of the noise, about, as a share of 10.

    Returns:
        The blocks, the joint rows `(joint, k)` and the individual rows `(M, individual, k)`.
    """
    generator = seeded(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    everything = torch.linalg.qr(draw(k, joint + blocks * individual))[0].T
    shared = everything[:joint]
    separate = everything[joint:].reshape(blocks, individual, k)
    family = []
    for separate_rows in separate:
        left = torch.linalg.qr(draw(rows, joint + individual))[0]
        strength = 8 + 4 * torch.rand(joint + individual, generator=generator, dtype=torch.float64)
        signal = (left * strength) @ torch.cat([shared, separate_rows])
        family.append(signal + 10 * noise * draw(rows, k) / (rows**0.5 + k**0.5))
    return torch.stack(family), shared, separate


def cosines(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Of the principal angles between two row spaces, rows orthonormal."""
    return torch.linalg.svdvals(first.double() @ second.double().mT)


def joint_rows(signal: shared_signal.SharedSignal, index: int = 0) -> torch.Tensor:
    basis = signal.basis[index]
    return basis[basis.norm(dim=1) > 0.5]


def ranks(blocks: int, rank: int) -> torch.Tensor:
    return torch.full((1, blocks), rank)


# --- planted spaces ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("noise", "angle"), [(0.0, 0.001), (0.01, 0.6), (0.1, 6.0), (0.25, 18.0)])
@pytest.mark.parametrize(("blocks", "joint", "individual"), [(2, 1, 1), (4, 2, 2), (6, 3, 2)])
def test_planted_joint_and_individual_spaces_are_recovered(noise, angle, blocks, joint, individual):
    family, shared, separate = planted(blocks, joint, individual, noise, seed=blocks)
    signal = extract(family[None], signal_ranks=ranks(blocks, joint + individual))
    assert signal.joint_rank.tolist() == [joint]
    limit = np.cos(np.radians(angle))
    assert cosines(joint_rows(signal), shared).min() > limit
    _, parts, _ = signal.split(family[None])
    for part, rows in zip(parts[0], separate, strict=True):
        _, values, right = torch.linalg.svd(part, full_matrices=False)
        assert int((values > 1e-6).sum()) == individual
        assert cosines(right[:individual], rows).min() > limit


def test_recovery_gets_worse_with_noise_not_with_more_blocks():
    def angle(blocks: int, noise: float) -> float:
        family, shared, _ = planted(blocks, 2, 1, noise, seed=11)
        signal = extract(family[None], signal_ranks=ranks(blocks, 3))
        return float(torch.rad2deg(torch.arccos(cosines(joint_rows(signal), shared).min().clamp_max(1))))

    assert angle(4, 0.02) < angle(4, 0.1) < angle(4, 0.25)
    assert angle(16, 0.25) < angle(4, 0.25)


@pytest.mark.parametrize("noise", [0.02, 0.2])
def test_blocks_without_anything_in_common_share_nothing(noise):
    family, _, _ = planted(5, 0, 3, noise, seed=2)
    signal = extract(family[None], signal_ranks=ranks(5, 3))
    assert signal.joint_rank.tolist() == [0]
    assert signal.joint(family[None]).abs().max() == 0


def test_a_direction_that_a_block_lacks_is_not_joint():
    family, shared, _ = planted(5, 2, 1, 0.02, seed=3)
    family[4] -= family[4] @ shared[1:].T @ shared[1:]
    signal = extract(family[None], signal_ranks=torch.tensor([[3, 3, 3, 3, 2]]))
    assert signal.joint_rank.tolist() == [1]
    assert cosines(joint_rows(signal), shared[:1]).min() > 0.99


def test_directions_that_only_resemble_each_other_are_not_joint():
    """Without noise nothing but the same direction will do, though chance would never bring them so close."""
    shared, *offsets = torch.linalg.qr(torch.randn(K, 5, generator=seeded(6), dtype=torch.float64))[0].T
    family = torch.stack([torch.outer(torch.arange(1.0, 4.0).double(), shared + 0.3 * other) for other in offsets])
    family = family + 1e-3 * torch.randn(family.shape, generator=seeded(7), dtype=torch.float64)
    signal = extract(family[None], signal_ranks=ranks(4, 1))
    assert signal.random_bound < signal.squared_values[:, 0] < signal.wedin_bound
    assert signal.joint_rank.tolist() == [0]
    assert reference.ajive(list(family.numpy()), [1] * 4).joint_rank == 0


def test_random_row_spaces_share_a_direction_no_more_often_than_the_bound_allows():
    """Planes in five dimensions come close to each other, and in so much noise Wedin's bound would take them all."""
    draws, generator = 100, seeded(8)
    left, rows = torch.linalg.qr(torch.randn(2, draws, 3, 5, 2, generator=generator, dtype=torch.float64))[0]
    noise = torch.randn(draws, 3, 5, 5, generator=generator, dtype=torch.float64) / (2 * 5**0.5)
    signal = extract(10 * left @ rows.mT + 9 * noise, signal_ranks=torch.full((draws, 3), 2))
    assert (signal.squared_values[:, 0] > signal.wedin_bound).double().mean() > 0.6
    assert (signal.joint_rank > 0).double().mean() < 0.12


def test_a_direction_that_is_quiet_in_a_single_block_of_many_noisy_blocks_is_dropped():
    """Nine of ten blocks outvote the bounds, and the block's own noise threshold decides."""
    family, shared, _ = planted(10, 2, 1, 0.6, seed=9)
    family[7] -= 0.97 * family[7] @ shared[1:].T @ shared[1:]
    signal = extract(family[None], signal_ranks=torch.tensor([[3] * 7 + [2] + [3] * 2]))
    assert signal.squared_values[0, 1] > torch.maximum(signal.wedin_bound, signal.random_bound)
    assert signal.joint_rank.tolist() == [1]
    assert cosines(joint_rows(signal), shared[:1]).min() > 0.9


@pytest.mark.parametrize("noise", [0.02, 0.1])
def test_signal_ranks_are_estimated_where_blocks_disagree_by_noise_alone(noise):
    clean, shared, _ = planted(1, 3, 0, 0.0, seed=5)
    disturbance = torch.randn(6, ROWS, K, generator=seeded(1), dtype=torch.float64) / (ROWS**0.5 + K**0.5)
    family = clean + 10 * noise * disturbance
    signal = extract(family[None])
    assert signal.spaces.ranks.tolist() == [[3] * 6]
    assert signal.joint_rank.tolist() == [3]
    assert cosines(joint_rows(signal), shared).min() > 0.98


# --- identities ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [1, 2, 7])
@pytest.mark.parametrize("k", [ROWS, 11, 60])
@pytest.mark.parametrize("spread", [1.0, 1e2, 1e4])
def test_all_of_a_single_block_or_of_equal_blocks_is_joint(blocks, k, spread):
    generator = seeded(k)
    left, right = (torch.linalg.qr(torch.randn(n, ROWS, generator=generator))[0] for n in (ROWS, k))
    block = (left * torch.logspace(0, -np.log10(spread), ROWS)) @ right.T
    family = block.expand(1, blocks, ROWS, k)
    signal = extract(family)
    assert signal.joint_rank.tolist() == [ROWS]
    torch.testing.assert_close(signal.joint(family), family.double(), atol=1e-6, rtol=0)


@settings(max_examples=40, deadline=None)
@given(
    blocks=st.integers(1, 5),
    rows=st.integers(1, 6),
    more=st.integers(0, 20),
    depth=st.integers(0, 6),
    scale=st.sampled_from([1e-12, 1.0, 1e9]),
    noise=st.sampled_from([0.0, 0.1, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_blocks_are_the_sum_of_parts_with_orthogonal_row_spaces(blocks, rows, more, depth, scale, noise, seed):
    k, generator = rows + more, seeded(seed)
    shared = torch.randn(min(depth, rows), k, generator=generator, dtype=torch.float64)
    mix = torch.randn(1, blocks, rows, min(depth, rows), generator=generator, dtype=torch.float64)
    family = scale * (mix @ shared + noise * torch.randn(1, blocks, rows, k, generator=generator, dtype=torch.float64))
    signal = extract(family, seed)
    joint, individual, rest = signal.split(family)
    size = float(family.norm()) + 1e-300
    assert float((joint + individual + rest - family).norm()) <= 1e-12 * size
    for first, second in ((joint, individual), (joint, rest), (individual, rest)):
        assert float((first @ second.mT).norm()) <= 1e-9 * size**2
    joint_basis = joint_rows(signal)
    assert len(joint_basis) == int(signal.joint_rank) <= rows
    torch.testing.assert_close(joint_basis @ joint_basis.T, torch.eye(len(joint_basis)).double(), atol=1e-6, rtol=0)
    assert int((signal.basis.norm(dim=-1) == 0).sum()) == signal.basis.shape[1] - len(joint_basis)


@pytest.mark.parametrize("family", [torch.zeros(1, 3, 4, 20), torch.ones(1, 3, 4, 20)])
def test_blocks_of_zeros_and_of_rank_1_are_finite(family):
    joint, individual, rest = extract(family).split(family)
    torch.testing.assert_close(joint + individual + rest, family.double())


def test_a_family_is_decomposed_alike_alone_and_in_a_batch():
    families = torch.stack([planted(4, 2, 2, 0.1, seed=s)[0] for s in range(3)])
    together = extract(families, signal_ranks=torch.full((3, 4), 4))
    for index, family in enumerate(families):
        alone = extract(family[None], signal_ranks=ranks(4, 4))
        assert together.joint_rank[index] == alone.joint_rank[0]
        torch.testing.assert_close(together.joint(families)[index], alone.joint(family[None])[0])


def test_neither_the_order_nor_the_scale_of_blocks_matters():
    family, _, _ = planted(4, 2, 1, 0.05, seed=9)
    signal = extract(family[None], signal_ranks=ranks(4, 3))
    turned = family[[2, 0, 3, 1]] * torch.tensor([1.0, 50.0, 1.0, 0.01])[:, None, None]
    other = extract(turned[None], signal_ranks=ranks(4, 3))
    assert cosines(joint_rows(signal), joint_rows(other)).min() > 1 - 1e-9


def test_the_draws_are_seeded():
    family = planted(4, 2, 1, 0.2)[0][None]
    assert torch.equal(extract(family, 5).wedin_bound, extract(family, 5).wedin_bound)
    assert not torch.equal(extract(family, 5, ranks(4, 3)).wedin_bound, extract(family, 6, ranks(4, 3)).wedin_bound)


def test_many_blocks_give_the_joint_space_that_the_whole_stack_gives(monkeypatch):
    """Beyond `WHOLE` rows only the leading directions are looked for."""
    family, shared, _ = planted(40, 2, 1, 0.1, seed=4)
    assert family.shape[0] * ROWS > shared_signal.WHOLE
    few = extract(family[None], 3)
    monkeypatch.setattr(shared_signal, "WHOLE", 10_000)
    whole = extract(family[None], 3)
    assert few.joint_rank.tolist() == whole.joint_rank.tolist() == [2]
    assert cosines(joint_rows(few), joint_rows(whole)).min() > 1 - 1e-12
    assert cosines(joint_rows(few), shared).min() > 0.99
    torch.testing.assert_close(few.joint(family[None]), whole.joint(family[None]), atol=1e-9, rtol=0)
    joint = whole.squared_values >= whole.wedin_bound[:, None]
    torch.testing.assert_close(few.squared_values[joint], whole.squared_values[joint])


def test_estimated_ranks_leave_nothing_to_simulate_in_the_wedin_bound(monkeypatch):
    """Every direction below the estimated noise disturbs less than that noise does, however it is drawn."""
    family, _, _ = planted(5, 2, 1, 0.3, seed=4)
    spaces = row_spaces(family[None])
    assert (spaces.ranks < ROWS).all()
    bound = shared_signal.wedin_bounds(spaces, K, 0)
    worst = spaces.values.gather(-1, spaces.ranks[..., None]) / spaces.values.gather(-1, spaces.ranks[..., None] - 1)
    assert (worst[..., 0] <= spaces.noise / spaces.values.gather(-1, spaces.ranks[..., None] - 1)[..., 0]).all()
    monkeypatch.setattr(shared_signal, "random_orthonormal_rows", None)  # would raise if it were called
    assert torch.equal(shared_signal.wedin_bounds(spaces, K, 1), bound)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"blocks: expected shape \(B, M, r, k\)"):
        extract(torch.zeros(3, 4, 5))
    for wrong in (torch.tensor([1, 2]), torch.tensor([[1, 9]]), torch.tensor([[-1, 1]])):
        with pytest.raises(ValueError, match="signal_ranks: expected shape"):
            extract(torch.ones(1, 2, 4, 9), signal_ranks=wrong)


# --- an independent implementation ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.0, 0.05, 0.2, 0.4])
@pytest.mark.parametrize(("joint", "individual"), [(0, 3), (1, 2), (3, 0), (2, 3)])
def test_joint_rank_space_and_parts_agree_with_an_independent_implementation(noise, joint, individual):
    count, signal_rank = 4, joint + individual
    family, _, _ = planted(count, joint, individual, noise, seed=17 + joint)
    ours = extract(family[None], signal_ranks=ranks(count, signal_rank))
    theirs = reference.ajive(list(family.numpy()), [signal_rank] * count)
    assert int(ours.joint_rank) == theirs.joint_rank == joint
    if joint:
        assert cosines(joint_rows(ours), torch.from_numpy(theirs.basis)).min() > 1 - 1e-9
    for mine, other in zip(ours.split(family[None]), (theirs.joint, theirs.individual, theirs.noise), strict=True):
        np.testing.assert_allclose(mine[0].numpy(), np.stack(other), atol=1e-7)
    assert float(ours.random_bound) == pytest.approx(theirs.random_bound, rel=0.05)
    assert float(ours.wedin_bound) == pytest.approx(theirs.wedin_bound, rel=0.05, abs=0.02)


def test_unequal_signal_ranks_agree_with_an_independent_implementation():
    family, _, _ = planted(4, 2, 2, 0.1, seed=23)
    given_ranks = [4, 3, 4, 2]
    ours = extract(family[None], signal_ranks=torch.tensor([given_ranks]))
    theirs = reference.ajive(list(family.numpy()), given_ranks)
    assert int(ours.joint_rank) == theirs.joint_rank
    assert float(ours.random_bound) == pytest.approx(theirs.random_bound, rel=0.05)
    assert float(ours.wedin_bound) == pytest.approx(theirs.wedin_bound, rel=0.05, abs=0.02)


def test_row_spaces_are_those_of_the_svd():
    family = torch.randn(2, 3, 5, 40, generator=seeded(2), dtype=torch.float64)
    spaces = row_spaces(family, torch.full((2, 3), 3))
    torch.testing.assert_close(spaces.values, torch.linalg.svdvals(family))
    torch.testing.assert_close((spaces.left * spaces.values[..., None, :]) @ spaces.rows, family)
    torch.testing.assert_close(spaces.rows @ spaces.rows.mT, torch.eye(5).double().expand(2, 3, 5, 5))
    expected = (spaces.values[..., 2] + spaces.values[..., 3]) / 2
    torch.testing.assert_close(spaces.noise_thresholds(), expected)


# --- the laws of the draws -----------------------------------------------------------------------------------


def same_law(first: torch.Tensor | np.ndarray, second: torch.Tensor | np.ndarray) -> bool:
    return stats.ks_2samp(np.asarray(first), np.asarray(second)).pvalue > 0.01


@pytest.mark.parametrize(("size", "freedom"), [(3, 2), (4, 4), (4, 5), (3, 60)])
def test_wishart_draws_follow_the_law_of_gaussian_gram_matrices(size, freedom):
    drawn = wishart(2000, size, freedom, seeded(1))
    gaussian = torch.randn(2000, freedom, size, generator=seeded(2), dtype=torch.float64)
    brute = gaussian.mT @ gaussian
    assert same_law(torch.linalg.eigvalsh(drawn)[:, -1], torch.linalg.eigvalsh(brute)[:, -1])
    assert same_law(drawn[:, 0, 1], brute[:, 0, 1])
    assert same_law(drawn[:, -1, -1], brute[:, -1, -1])


@pytest.mark.parametrize(("ambient", "rows", "columns"), [(50, 5, 3), (5, 5, 3), (9, 2, 4), (6, 4, 6)])
def test_rows_of_random_orthonormal_matrices_follow_the_uniform_law(ambient, rows, columns):
    drawn = random_orthonormal_rows(1500, ambient, rows, columns, seeded(3))
    generator = np.random.default_rng(4)
    brute = np.stack([reference.orthonormal_columns(generator, ambient, columns)[:rows] for _ in range(1500)])
    assert same_law(drawn[:, 0, 0], brute[:, 0, 0])
    assert same_law(drawn[:, 0, 0] * drawn[:, 1, 1], brute[:, 0, 0] * brute[:, 1, 1])
    if ambient == rows:
        torch.testing.assert_close(drawn.mT @ drawn, torch.eye(columns).double().expand(1500, columns, columns))


@pytest.mark.slow
@pytest.mark.parametrize(("block_ranks", "k"), [((2, 2, 2), 40), ((1, 3), 10), ((4, 4, 2, 1), 300), ((3, 3), 4)])
def test_random_direction_bound_is_the_quantile_of_brute_force_draws(block_ranks, k, monkeypatch):
    monkeypatch.setattr(random_spaces, "DRAWS", 1500)
    random_spaces._random_direction_bound.cache_clear()
    bound = float(random_direction_bounds(torch.tensor([block_ranks]), k, seed=12345))
    random_spaces._random_direction_bound.cache_clear()
    draws = reference.random_direction_samples(list(block_ranks), k, 1500, np.random.default_rng(1))
    assert bound == pytest.approx(np.quantile(draws, 0.95), rel=0.02)


@pytest.mark.parametrize(("block_ranks", "k"), [((2,) * 16, 300), ((1, 3, 4) * 6, 200), ((8,) * 6, 64), ((20, 20), 40)])
def test_the_law_of_many_rows_goes_on_where_draws_end(block_ranks, k):
    draws = reference.random_direction_samples(list(block_ranks), k, 60, np.random.default_rng(1))
    assert float(random_direction_bounds(torch.tensor([block_ranks]), k, 0)) == pytest.approx(
        np.quantile(draws, 0.95), rel=0.04
    )


def test_spaces_that_fill_the_whole_share_everything():
    assert random_direction_bounds(torch.tensor([[40, 40], [40, 0], [30, 30]]), 40, 0).tolist() == pytest.approx(
        [2, 1, 2]
    )


@pytest.mark.slow
@pytest.mark.parametrize(("signal_rank", "rows", "k"), [(1, 8, K), (3, 8, K), (6, 8, K), (3, 4, 4), (4, 6, 7)])
def test_wedin_bound_is_the_quantile_of_brute_force_draws(signal_rank, rows, k, monkeypatch):
    """Each block is disturbed on its own. In the last two cases fewer directions lie outside the signal than inside."""
    monkeypatch.setattr(shared_signal, "DRAWS", 1000)
    family, _, _ = planted(3, 1, 5, 0.4, seed=31)
    if k < K:
        family = torch.randn(3, rows, k, generator=seeded(31), dtype=torch.float64)
        family[:, :signal_rank] *= 4
    spaces = row_spaces(family[None], ranks(3, signal_rank))
    bound = float(shared_signal.wedin_bounds(spaces, k, seed=7))
    draws = reference.wedin_samples(list(family.numpy()), [signal_rank] * 3, 1000, np.random.default_rng(2))
    assert bound == pytest.approx(np.quantile(draws, 0.05), rel=0.02, abs=0.03)
