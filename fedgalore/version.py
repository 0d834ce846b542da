"""What this release is called, and what agents and coordinators of different releases must agree on."""

__version__ = "0.1.0"
PROTOCOL_VERSION = 4
