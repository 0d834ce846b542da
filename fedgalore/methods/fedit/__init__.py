"""FedIT: LoRA whose factors A and B are averaged apart. https://arxiv.org/abs/2305.05644."""
