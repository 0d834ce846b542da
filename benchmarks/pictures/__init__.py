"""The pictures of docs/CONCEPTS.md, from real computations: `python -m benchmarks.pictures`."""
