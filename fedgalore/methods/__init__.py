"""The methods that a job can name: a folder each, with `face`, `spec` and `layout` (no torch), `client` and `server`.

`fedgalore.spec.registry` lists them; `fedgalore.methods.halves` says what a client half and a server half are.
"""
