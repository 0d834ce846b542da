"""What a paper would name: projection, second moments, AJIVE, means, optimizer. Imports torch and numpy alone."""
