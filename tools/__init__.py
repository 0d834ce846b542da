"""What keeps the pages in step with the code; not part of the wheel."""
