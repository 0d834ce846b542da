"""The aggregator: a process of its own that turns updates into model versions. Alone here torch is imported."""
