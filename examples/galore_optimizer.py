"""GaLoreAdamW on a model of your own, in the place of torch.optim.AdamW: `python examples/galore_optimizer.py`."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from fedgalore import GaLoreAdamW

STEPS = 200

torch.manual_seed(0)
embedding, hidden, head = nn.Embedding(50, 64), nn.Linear(8 * 64, 256), nn.Linear(256, 3)
model = nn.Sequential(embedding, nn.Flatten(), hidden, nn.ReLU(), head)

# Matrices step in subspaces of their gradients, and biases as AdamW moves them. Few rows of an embedding see a gradient
# in a step: plain AdamW, with rank=None, suits it better.
groups: list[dict[str, Any]] = [
    {"params": embedding.parameters(), "rank": None},
    {"params": [*hidden.parameters(), *head.parameters()], "rank": 8, "update_proj_gap": 50},
]
optimizer = GaLoreAdamW(groups, lr=1e-2, weight_decay=0.01)
scheduler = OneCycleLR(optimizer, max_lr=1e-2, total_steps=STEPS)


def draw_batch() -> tuple[Tensor, Tensor]:
    """Rows of eight tokens; a row's class is the most frequent remainder of its tokens by three."""
    tokens = torch.randint(50, (128, 8))
    return tokens, nn.functional.one_hot(tokens % 3, 3).sum(1).argmax(1)


# Inside the block a weight moves as soon as its gradient is complete, and the gradient is freed: at most one is alive.
# Without the block the same loop gives the same bits, and gradients can be accumulated or clipped before the step.
with optimizer.step_in_backward():
    for step in range(1, STEPS + 1):
        tokens, labels = draw_batch()
        loss = nn.functional.cross_entropy(model(tokens), labels)
        loss.backward()
        optimizer.step()
        scheduler.step()
        if step % 40 == 0:
            print(f"step {step}: loss {loss.item():.3f}, learning rate {scheduler.get_last_lr()[0]:.4f}")

with torch.no_grad():
    tokens, labels = draw_batch()
    accuracy = (model(tokens).argmax(1) == labels).float().mean().item()
print(f"accuracy {accuracy:.3f}")

# What the largest matrix keeps between steps; torch.save(optimizer.state_dict(), path) writes the state of all.
state = [value for value in optimizer.state[hidden.weight].values() if isinstance(value, Tensor)]
kept = sum(value.numel() for value in state if value.is_floating_point())
print(f"state of the largest matrix: {kept:,} numbers, where AdamW keeps {2 * hidden.weight.numel():,}")
