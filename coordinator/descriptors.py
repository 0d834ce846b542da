"""File descriptors: the soft limit is raised at the start, and the doors leave some for the coordinator's own files."""

from __future__ import annotations

import resource

RESERVE = 1024  # for Redis, blobs and uploads, whatever the doors hold


def provide(wanted: int) -> int:
    """Raises this process' soft limit to `wanted` where the hard limit allows it; returns what there is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        return most
    return wanted if soft == resource.RLIM_INFINITY else soft


def for_a_door(connections: int, doors: int = 2) -> int:
    """How many of the wanted connections each door can have beside the reserve, after the soft limit was raised."""
    limit = provide(doors * connections + RESERVE)
    return min(connections, (limit - min(RESERVE, limit // 2)) // doors)
