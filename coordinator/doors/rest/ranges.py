"""Which part of an answer is asked for: preconditions and ranges of RFC 9110 (sections 13 and 14). Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

_RANGE = re.compile(r"bytes\s*=\s*(?P<first>\d{0,18})-(?P<last>\d{0,18})\s*", re.ASCII | re.IGNORECASE)
_TAG = re.compile(r'(?:W/)?"[^"]*"')


@dataclass(frozen=True)
class Part:
    """Bytes `start` to `stop`, of status 200 or 206; none where what the caller has will do (304), or where nothing is
    behind the start that it names (416)."""

    status: Literal[200, 206, 304, 416]
    start: int = 0
    stop: int = 0


def wanted(headers: Mapping[str, str], etag: str, size_bytes: int) -> Part:
    """What a GET with these headers is to be answered of a representation with a strong tag.

    What is no single range of bytes is no reason to refuse: the whole is sent then, as is to whom holds another
    representation (If-Range).
    """
    if knows(headers.get("if-none-match", ""), etag):
        return Part(304)
    whole = Part(200, 0, size_bytes)
    match = _RANGE.fullmatch(headers.get("range", ""))
    if match is None or match["first"] == match["last"] == "" or headers.get("if-range", etag).strip() != etag:
        return whole
    if match["first"] == "":  # the last so many
        start, stop = max(0, size_bytes - int(match["last"])), size_bytes
    else:
        start, stop = int(match["first"]), min(size_bytes, int(match["last"] or size_bytes) + 1)
        if stop <= start < size_bytes:  # it ends before it begins
            return whole
    return Part(206, start, stop) if start < size_bytes else Part(416)


def knows(if_none_match: str, etag: str) -> bool:
    """Whether a header If-None-Match names this tag, weak or strong."""
    bare = etag.removeprefix("W/")
    return if_none_match.strip() == "*" or bare in (tag.removeprefix("W/") for tag in _TAG.findall(if_none_match))
