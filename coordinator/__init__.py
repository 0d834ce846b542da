"""The coordinator: jobs and rounds, and the doors that agents and people come through."""
