"""Tables and texts of the commands, drawn with rich."""
