"""FRLoRA: what the mean factors change goes into the weights; every round starts from the same principal factors.

Yan et al., "Federated Residual Low-Rank Adaption of Large Language Models", ICLR 2025, written from its abstract and
from the settings in its authors' scripts. With the leading singular triples `U S V^T` of a pretrained weight, every
round starts at every client from `B_0 = U sqrt(S / s)` and `A_0 = sqrt(S / s) V^T`, beside the weight without
`s B_0 A_0`. So the model is the same, and the steps begin along the weight's principal directions. The clients' A and B
are averaged apart, and `W <- W + s (mean(B) mean(A) - B_0 A_0)`: over the rounds the change gets a rank above r.
"""
