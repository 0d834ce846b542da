"""Running the whole system on one machine, and what ships with it: containers, manifests, the demo's data."""
