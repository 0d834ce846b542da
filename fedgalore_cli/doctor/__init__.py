"""`fedgalore doctor`: what a machine lacks for its part in a federation, and what to do."""
