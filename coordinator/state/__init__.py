"""Jobs and rounds as pure values and state machines, and what can go wrong in words of the domain."""
