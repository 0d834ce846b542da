"""One file a method: its client half (a local update) and its server half (what becomes of the updates)."""
