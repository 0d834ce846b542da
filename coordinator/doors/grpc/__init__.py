"""The agents' door."""

import os

# gRPC writes a line of its own for each handshake that fails, past every limit of our log, and strangers cause those.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
