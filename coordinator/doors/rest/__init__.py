"""The door for people: REST, the dashboard, metrics."""
