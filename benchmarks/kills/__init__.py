"""What a process that dies costs a federated job, on FedGaLore and on Flower: `python -m benchmarks.kills`."""
