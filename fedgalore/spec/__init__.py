"""The job document, the training plan, and the layout of tensor files. Without torch."""
