"""FedGaLore's algorithm: low-rank gradient subspaces on the clients, spectral alignment on the server.

Importing this package costs nothing; its modules that need torch import it themselves.
"""

__version__ = "0.1.0"
PROTOCOL_VERSION = 3
