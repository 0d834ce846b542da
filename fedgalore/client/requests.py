"""What both clients make of a flow's request."""

from __future__ import annotations

import logging

import httpx

from fedgalore.client.flow import Ask

WEEK_S = 7 * 86400.0
trace = logging.getLogger("fedgalore.client")


def request(http: httpx.Client | httpx.AsyncClient, ask: Ask) -> httpx.Request:
    """The request of a flow."""
    return http.build_request(
        ask.method,
        ask.path,
        params=dict(ask.params),
        json=ask.json,
        content=ask.content,
        headers=dict(ask.headers),
        timeout=http.timeout if ask.timeout_s is None else ask.timeout_s,
    )
