"""FedSVD: B is trained and averaged as in FFA-LoRA; the server refactors B A, so that A is orthonormal and adapts.

https://arxiv.org/abs/2505.12805, written from its abstract and from the settings in its authors' scripts. Every round
ends with the singular value decomposition `B A = U S V^T`, and the next one starts with `B = U S` and `A = V^T`: the
product is the same, the rows of A are orthonormal and span what the clients have learned. The first A is drawn as PEFT
draws it, the first B is zero, and alpha equals the rank. Left out are clients that add noise to each gradient.
"""
