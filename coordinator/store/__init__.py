"""Where state and files are kept: Redis and blobs."""
