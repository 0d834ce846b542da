"""The engine: loads a job, lets the pure machines advance it, saves it, wakes whoever waits."""
