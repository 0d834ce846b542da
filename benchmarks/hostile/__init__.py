"""What one hostile client costs a coordinator, call by call."""
