"""What may travel in plaintext, and how long a certificate is good: the same at both ends of a line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

SOON = timedelta(days=30)


def is_loopback(host: str) -> bool:
    """Whether an address, or the name `localhost`, is of this machine alone; a wildcard address is not."""
    host = host.strip("[]").rstrip(".").lower()
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def expiry(certificate: Path) -> str | None:
    """What is to be said of a certificate's end: that it has come, or comes within 30 days; else None.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    end = ends(certificate.read_bytes())
    if end > datetime.now(UTC) + SOON:
        return None
    return f"{certificate} {'ends' if end > datetime.now(UTC) else 'ended'} on {end:%Y-%m-%d}; renew it"


def ends(certificate: bytes) -> datetime:
    """When a certificate in PEM ends, in UTC.

    Raises:
        ValueError: it is none.
    """
    from cryptography import x509

    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc
