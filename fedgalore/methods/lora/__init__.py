"""What the methods with LoRA adapters share. Layers come from PEFT; LoRA: https://arxiv.org/abs/2106.09685.

Shapes: `A (r, in)`, `B (out, r)`; a weight `(out, in)` becomes `W + s B A` with `s` the job's `method.scale`, and one
that is kept as `(in, out)` becomes `W + s (B A)^T`. Global weights hold their adapters already: a client takes them out
before it trains.
"""
