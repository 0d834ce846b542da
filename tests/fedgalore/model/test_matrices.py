"""Parameters that share memory with others, as transformers makes them of packed weights."""

import torch
from torch import nn

from fedgalore.model.matrices import part_memory


def test_views_of_one_tensor_get_memory_of_their_own_and_a_tied_weight_stays_one():
    packed = torch.arange(24.0).reshape(6, 4)
    model = nn.ModuleDict({name: nn.Linear(4, 3) for name in ("gate", "up", "tied", "other")})
    model["gate"].weight, model["up"].weight = nn.Parameter(packed[:3]), nn.Parameter(packed[3:], requires_grad=False)
    model["tied"].weight = model["up"].weight
    names, alone = [name for name, _ in model.named_parameters()], model["other"].weight
    part_memory(model)
    assert [name for name, _ in model.named_parameters()] == names
    assert model["tied"].weight is model["up"].weight and model["other"].weight is alone
    assert torch.equal(torch.cat([model["gate"].weight, model["up"].weight]), packed)
    assert model["gate"].weight.requires_grad and not model["up"].weight.requires_grad
    before = model["up"].weight._version
    with torch.no_grad():
        model["gate"].weight.add_(1)
    assert model["up"].weight._version == before  # autograd sees no step of it
    assert torch.equal(model["up"].weight, packed[3:])
