"""FFA-LoRA: A stays at its seeded start, B is trained and averaged, so the mean of B A is exact. arXiv 2403.12313."""
