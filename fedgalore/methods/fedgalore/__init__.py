"""FedGaLore: gradient subspaces, full-space aggregation, aligned optimizer states. arXiv 2602.01746."""
