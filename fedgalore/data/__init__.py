"""Examples of a site: read, batched, split."""
