"""The model of a job: its weights, its inputs, its folder."""
