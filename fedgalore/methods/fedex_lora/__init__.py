"""FedEx-LoRA: A and B averaged apart, and what mean(B A) is beyond their product folded into the weights.

https://arxiv.org/abs/2410.09432.
"""
