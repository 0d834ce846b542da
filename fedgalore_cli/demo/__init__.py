"""The demo: its text, its sites, its job and what it shows at the end."""
