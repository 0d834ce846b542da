"""Addresses as people write them: each wrong form is refused in one sentence, with the right form of what was meant."""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

AGENTS_PORT = 50051
REST_PORT = 8080
_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_.])?")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/+")
_LAST_PORT = 65535
_NOT_OF_AGENTS = {"80", "443", str(REST_PORT)}


def check_target(text: str) -> str:
    """The address of an agents' door, `host:port`, as it is.

    Raises:
        ValueError: it has another form; the message names the right one.
    """
    parts = _parts(text)
    fault = parts.fault or (_port_fault(parts.port) if parts.port else "names no port")
    if not fault:
        return text
    meant = str(AGENTS_PORT) if parts.port in _NOT_OF_AGENTS else _port_or(parts.port, AGENTS_PORT)
    raise ValueError(f"{text!r} {fault}; write host:port of the agents' door, such as {_joined(parts.host, meant)}")


def targets(text: str) -> list[str]:
    """Addresses of agents' doors that stand in one text, with commas between them."""
    return [part.strip() for part in text.split(",")]


def check_targets(text: str) -> str:
    """One address of an agents' door or several with commas between them, as they are.

    Raises:
        ValueError: as `check_target`, of the first that is wrong; one stands there twice.
    """
    found = [check_target(each) for each in targets(text)]
    if twice := next((each for each in found if found.count(each) > 1), None):
        raise ValueError(f"{text!r} has {twice} twice; name each address once")
    return text


def check_host(text: str) -> str:
    """The address or name that a door listens on, as it is.

    Raises:
        ValueError: it has another form; the message names the right one.
    """
    if not _host_fault(text):
        return text
    parts = _parts(text)
    fault = parts.fault or ("names a port, which has a setting of its own" if parts.port else _host_fault(text))
    if not fault or text.startswith("["):
        fault = "has brackets, which belong where a port follows"
    raise ValueError(f"{text!r} {fault}; write an address or name alone, such as {_or_here(parts.host)}")


def check_url(text: str, schemes: tuple[str, ...], port: int) -> str:
    """A URL with one of the schemes, as it is.

    Args:
        port: where the right form needs one.

    Raises:
        ValueError: it has another form; the message names the right one. Credentials are not shown.
    """
    url = text.rpartition("@")[2] if "@" in text else text
    known = re.match(rf"({'|'.join(schemes)})://", text, re.IGNORECASE)
    parts = _parts(url.removeprefix(known[0]) if known else url, paths=True)
    fault = parts.fault or (_port_fault(parts.port) if parts.port else "")
    if known and not fault:
        return text
    if not known:
        fault = f"does not start with {' or '.join(f'{scheme}://' for scheme in schemes)}"
    scheme = known[1].lower() if known else schemes[0]
    right = f"{scheme}://{_joined(parts.host, _port_or(parts.port, port))}"
    raise ValueError(f"{url!r} {fault}; write it such as {right}")


class _Parts(NamedTuple):
    host: str  # without brackets
    port: str | None
    fault: str  # why this is not `host` or `host:port`; empty where it is


def _parts(text: str, paths: bool = False) -> _Parts:
    """What was meant as host and port, and what is wrong about the form."""
    fault = ""
    rest = text.strip()
    if re.search(r"\s", text):
        fault, rest = "has spaces in it", re.sub(r"\s", "", text)
    if scheme := _SCHEME.match(rest):
        fault, rest = fault or f"starts with {scheme[0]}", rest[scheme.end() :]
    place = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if place != rest and not paths:
        fault = fault or "has a path"
    if "@" in place:
        fault, place = fault or "has a user's name in it", place.rpartition("@")[2]
    host, port, own = _split(place)
    if not host.isascii():
        fault, host = fault or "has letters beyond ASCII", _to_ascii(host)
    return _Parts(host, port, fault or own or _host_fault(host))


def _split(place: str) -> tuple[str, str | None, str]:
    """Host, port and what is wrong about how they are joined."""
    if bracketed := re.fullmatch(r"\[([^]]*)](?::(.*))?", place):
        return bracketed[1], bracketed[2], ""
    if place.count(":") < 2:
        host, colon, port = place.partition(":")
        return host, port if colon else None, ""
    host, _, port = place.rpartition(":")
    host = host.strip("[]")
    if _is_v6(host) and _is_port(port):
        return host, port, "has an IPv6 address without brackets"
    return place.strip("[]"), None, "has an IPv6 address without brackets" if _is_v6(place.strip("[]")) else ""


def _host_fault(host: str) -> str:
    if not host:
        return "names no host"
    if ":" in host:
        return "" if _is_v6(host) else f"has {host!r} in it, which is no address"
    if re.fullmatch(r"[0-9.]+", host):
        try:
            ip_address(host)
        except ValueError:
            return f"has {host!r} in it, which is no address"
    return "" if _NAME.fullmatch(host) else f"has {host!r} in it, which is no name of a host"


def _port_fault(port: str) -> str:
    return "" if _is_port(port) else f"has the port {port!r}, and ports are numbers from 1 to {_LAST_PORT}"


def _is_port(port: str | None) -> bool:
    return port is not None and re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) is not None and 0 < int(port) <= _LAST_PORT


def _is_v6(host: str) -> bool:
    try:
        IPv6Address(host)
    except ValueError:
        return False
    return True


def _to_ascii(host: str) -> str:
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError:
        return ""


def _or_here(host: str) -> str:
    return "127.0.0.1" if _host_fault(host) else host


def _port_or(port: str | None, default: int) -> str:
    return port if port is not None and _is_port(port) else str(default)


def _joined(host: str, port: str) -> str:
    host = _or_here(host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
