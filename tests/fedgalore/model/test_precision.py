"""bfloat16 without bfloat16 arithmetic, against torch's own autocast."""

import pytest
import torch
from torch.nn import functional as F

from fedgalore.model import precision
from fedgalore.model.precision import RoundedProducts, passes_in
from fedgalore.model.task import TaskModel
from tests.fedgalore.conftest import classifier, sentences

CPU = torch.device("cpu")


def inputs(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]


def with_gradients(product, tensors):
    """The result of a product and the gradients of its operands."""
    result = product(*tensors)
    result.float().square().sum().backward()
    gradients = [tensor.grad for tensor in tensors]
    for tensor in tensors:
        tensor.grad = None
    return [result, *gradients]


@pytest.mark.parametrize(
    ("product", "shapes"),
    [
        (F.linear, [(4, 5, 16), (8, 16), (8,)]),
        (torch.matmul, [(3, 4, 16), (3, 16, 5)]),
        (lambda a, b: a @ b, [(3, 4, 16), (16, 5)]),
        (torch.bmm, [(3, 4, 16), (3, 16, 5)]),
        (torch.addmm, [(5,), (4, 16), (16, 5)]),
        (F.conv2d, [(2, 3, 8, 8), (4, 3, 2, 2)]),
        (F.scaled_dot_product_attention, [(2, 2, 6, 8), (2, 2, 6, 8), (2, 2, 6, 8)]),
    ],
    ids=["linear", "matmul", "@", "bmm", "addmm", "conv2d", "attention"],
)
def test_rounded_products_are_those_of_autocast_but_for_the_order_of_sums(product, shapes):
    tensors = inputs(*shapes)
    exact = with_gradients(product, tensors)
    with torch.autocast("cpu", torch.bfloat16):
        expected = with_gradients(product, tensors)
        with RoundedProducts():
            results = with_gradients(product, tensors)
    assert [tensor.dtype for tensor in results] == [tensor.dtype for tensor in expected]
    for result, other, true in zip(results, expected, exact, strict=True):
        scale = true.abs().max()
        assert (result.float() - other.float()).abs().max() <= 2**-6 * scale
        assert not torch.equal(result.float(), true.float())
    assert results[0].dtype == torch.bfloat16


def test_products_outside_autocast_stay_exact():
    a, b = inputs((4, 8), (8, 4))
    with RoundedProducts():
        assert torch.equal(a @ b, torch.matmul(a, b))
        assert (a @ b).dtype == torch.float32
        with torch.autocast("cpu", torch.bfloat16), torch.autocast("cpu", enabled=False):
            assert (a @ b).dtype == torch.float32


def test_a_cpu_without_bfloat16_trains_in_rounded_products(tiny_bert, monkeypatch):
    """Loss and gradients of a whole model, on either kind of CPU: far nearer to each other than to float32."""

    def passes(kind, multiplies):
        monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: multiplies)
        task = TaskModel.load(classifier(local={"precision": kind}), tiny_bert)
        loss, _, _ = task.loss(task.collate(sentences(8, 0)))
        loss.backward()
        return torch.cat([parameter.grad.flatten() for parameter, _ in task.targets().values()])

    fast, rounded, exact = passes("bfloat16", True), passes("bfloat16", False), passes("float32", False)
    assert (rounded - fast).norm() < 0.5 * (exact - fast).norm()


def test_float32_changes_nothing():
    a, b = inputs((4, 8), (8, 4))
    with passes_in("float32", CPU):
        assert (a @ b).dtype == torch.float32
    with passes_in("bfloat16", CPU):
        assert (a @ b).dtype == torch.bfloat16
