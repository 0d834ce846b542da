"""What every process has: settings, logs, TLS, fault points, a Redis server of its own."""
