"""The `fedgalore` command."""
