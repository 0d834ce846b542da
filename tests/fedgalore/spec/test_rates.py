"""The learning rates of a round: those that a job names, and those that follow the model."""

import pytest
import torch
from transformers import get_scheduler

from fedgalore.spec.plan import Dense, Target, TrainingPlan
from fedgalore.spec.rates import highest_rates, rates_of, remedy
from tests.builders import a_spec


def a_plan(matrices=24, size=0.06, width=None, **named):
    targets = [Target(f"layer.{i}.weight", (6, 4), 2) for i in range(matrices)]
    return TrainingPlan((*targets, *named.get("more", ())), (Dense("head", (2, 4)),), size=size, new_head_width=width)


def rates(plan, behind=0, has_step=False, momentum=0.0, count=4, **local):
    method = {"kind": "fedgalore", "global_momentum": momentum}
    spec = a_spec(method=method, rounds={"count": count}, local={"learning_rate": None, **local})
    found = rates_of(spec, plan, behind, has_step)
    return found.targets, found.head


def test_rates_follow_the_matrices_size_and_number_and_the_new_head_s_width():
    assert rates(a_plan(width=16)) == pytest.approx((0.06 / 24, 1 / 16))
    assert rates(a_plan(size=0.12))[0] == pytest.approx(0.12 / 24)
    assert rates(a_plan(matrices=48))[0] == pytest.approx(0.06 / 48)
    assert rates(a_plan(width=384))[1] == pytest.approx(1 / 384)


def test_a_head_that_the_base_model_has_learns_like_its_matrices():
    assert rates(a_plan()) == pytest.approx((0.06 / 24, 0.06 / 24))


def test_few_matrices_take_no_giant_step_and_experts_of_a_layer_count_as_one():
    assert rates(a_plan(matrices=1)) == rates(a_plan(matrices=12))
    listed = [Target(f"layer.0.mlp.experts.{i}.w", (6, 4), 2) for i in range(30)]
    stacked = [Target(f"layer.1.mlp.w[{i}]", (6, 4), 2, part_of="layer.1.mlp.w") for i in range(30)]
    assert rates(a_plan(more=listed + stacked)) == rates(a_plan(matrices=26))
    assert rates(a_plan(size=1e9))[0] == 1  # so that weight decay leaves something of a weight


@pytest.mark.parametrize(("behind", "left"), [(0, 1), (1, 0.875), (3, 0.625), (4, 0.5), (9, 0.5)])
def test_they_fall_in_a_straight_line_towards_half_over_the_rounds(behind, left):
    assert rates(a_plan(width=16), behind) == pytest.approx((left * 0.06 / 24, left / 16))
    assert rates(a_plan(width=16), behind, head_learning_rate=0.3)[1] == 0.3


def test_momentum_warms_them_up_its_share_is_free_in_the_first_round_too():
    without = rates(a_plan())
    for has_step in (False, True):
        assert rates(a_plan(), momentum=0.6, has_step=has_step) == pytest.approx([0.4 * rate for rate in without])
    named = [rates(a_plan(), 0, has_step, 0.6, head_learning_rate=0.3)[1] for has_step in (False, True)]
    assert named == pytest.approx([0.3, 0.12])


@pytest.mark.parametrize("behind", [0, 3])
def test_rates_that_a_job_names_stay_as_they_are(behind):
    plan = TrainingPlan(a_plan().targets, (), size=None)
    for head, wanted in ((None, 2e-3), (5e-3, 5e-3)):
        spec = a_spec(method={"kind": "fedit"}, local={"learning_rate": 2e-3, "head_learning_rate": head})
        found = rates_of(spec, plan, behind, True)
        assert (found.targets, found.head) == (2e-3, wanted)
        assert found == highest_rates(spec, plan)


@pytest.mark.parametrize("local", [{}, {"learning_rate": 1e-3}, {"learning_rate": 1e-3, "head_learning_rate": 1e-2}])
@pytest.mark.parametrize("warm", [0, 3])
@pytest.mark.parametrize(
    ("given", "scheduler"),
    [
        ({"schedule": "constant"}, "constant_with_warmup"),
        ({"schedule": "linear"}, "linear"),
        ({"schedule": "cosine"}, "cosine"),
        ({"schedule": "cosine", "final_share": 0.1}, "cosine_with_min_lr"),
    ],
)
def test_a_schedule_is_that_of_transformers_with_rounds_for_steps(given, scheduler, warm, local):
    """But for the warm-up, in which a first round at a rate of 0 would be lost."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    kwargs = {"min_lr_rate": given["final_share"]} if "final_share" in given else {}
    steps = get_scheduler(scheduler, optimizer, warm, 10, scheduler_specific_kwargs=kwargs)
    plan = a_plan(width=16)
    highest = rates(plan, warm, count=10, warmup_rounds=warm, **given, **local)
    for behind in range(10):
        share = steps.get_last_lr()[0] if behind >= warm else (behind + 1) / (warm + 1)
        found = rates(plan, behind, count=10, warmup_rounds=warm, **given, **local)
        assert found == pytest.approx([share * rate for rate in highest])
        optimizer.step()
        steps.step()


def test_a_warm_up_rises_to_the_rate_and_the_schedule_begins_behind_it():
    found = [rates(a_plan(), behind, count=6, learning_rate=1.0, warmup_rounds=1)[0] for behind in (0, 1, 5)]
    assert found == [0.5, 1.0, 1.0]
    found = [rates(a_plan(), behind, count=6, warmup_rounds=2)[0] / (0.06 / 24) for behind in (0, 1, 2, 4, 6)]
    assert found == pytest.approx([1 / 3, 2 / 3, 1.0, 0.75, 0.5])


def test_a_job_that_diverges_is_told_a_rate_that_it_does_not_name():
    assert remedy(a_spec(), a_plan()) == "lower local.learning_rate"
    words = remedy(a_spec(local={"learning_rate": None}), a_plan())
    assert words == "name a local.learning_rate below 0.0025, the job's highest"
