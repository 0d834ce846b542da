"""FLoRA: the clients' adapters stacked, so that the exact mean of B A goes into the weights; new adapters each round.

https://arxiv.org/abs/2409.05976. Clients may have different ranks.
"""
