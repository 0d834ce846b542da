"""Sign mean: the direction of each change and one length a matrix, averaged."""
