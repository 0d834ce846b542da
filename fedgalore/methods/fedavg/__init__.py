"""Federated averaging: the target matrices are fine-tuned in full and sent whole. arXiv 1602.05629."""
