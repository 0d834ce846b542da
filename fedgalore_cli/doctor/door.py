"""The coordinator that commands talk to: whether it answers, knows the key, and is of the same protocol."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fedgalore.version import OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION, common_protocol, protocols
from fedgalore_cli.doctor.finding import Findings, fail, ok, warn
from fedgalore_cli.doctor.machine import ending
from fedgalore_cli.errors import told
from fedgalore_cli.options import connect

if TYPE_CHECKING:
    from fedgalore.client import Client

LINE_S = 5.0


def door(url: str | None) -> Findings:
    """Each thing by itself, as far as it goes."""
    from fedgalore.client import ClientError, Unreachable

    try:
        with connect(url) as client:
            yield from _asked(client)
    except Unreachable as error:
        yield warn("coordinator", told(error))
    except ClientError as error:
        yield fail("coordinator", told(error))


def _asked(client: Client) -> Findings:
    found = client.version()
    yield ok("coordinator", f"{client.url} is fedgalore {found.version}")
    if common_protocol(found.protocol_version, found.oldest_protocol_version) is None:
        older = "this software" if found.protocol_version > PROTOCOL_VERSION else "the coordinator"
        theirs = protocols(found.protocol_version, found.oldest_protocol_version)
        ours = protocols(PROTOCOL_VERSION, OLDEST_PROTOCOL_VERSION)
        yield fail("protocol", f"it speaks protocol {theirs}, and this software {ours}; upgrade {older}")
    yield from _certificate(client.url)
    ready = client.readiness()
    for name, check in ready.checks.items():
        yield (ok if check.ok else fail)(f"its {name}", check.detail)
    yield from (warn("it says", words) for words in ready.warnings)
    yield ok("key", f"is taken: it shows {len(client.agents())} agents")


def _certificate(url: str) -> Findings:
    """When the one that the coordinator shows ends."""
    from fedgalore.process.tls import ends

    where = urlsplit(url)
    if where.scheme != "https" or where.hostname is None:
        return
    try:
        shown = ssl.get_server_certificate((where.hostname, where.port or 443), timeout=LINE_S)
    except OSError as error:
        yield warn("its certificate", f"cannot be seen ({error}); try again")
    else:
        yield ending("its certificate", "it", ends(shown.encode()))
