"""What of a job can be downloaded, and where its model comes from. Without torch."""
