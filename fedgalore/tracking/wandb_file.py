"""Which steps a file of W&B's offline mode has. Its records are in LevelDB's log format, behind seven bytes of W&B."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEAD, MAGIC = 32768, 7, 7  # bytes of a block, of the head of a piece in it, and of what comes first
FULL, LAST = 1, 4  # kinds of pieces that end a record


def steps(path: Path, record: Any) -> dict[int, dict[str, Any]]:
    """By step the values that the file has whole.

    Args:
        record: W&B's class of a record.

    Raises:
        Exception: of whatever kind: the file has another form.
    """
    found: dict[int, dict[str, Any]] = {}
    for data in records(path.read_bytes()):
        items = record.FromString(data).history.item
        if items:
            values = {each.key or "/".join(each.nested_key): json.loads(each.value_json) for each in items}
            found[int(values["_step"])] = values
    return found


def records(data: bytes) -> Iterator[bytes]:
    """The records that are whole; W&B's process, where it was killed, leaves the last one in part."""
    at, record = MAGIC, b""
    while at + HEAD <= len(data):
        if BLOCK - at % BLOCK < HEAD:
            at += BLOCK - at % BLOCK
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        if at + HEAD + length > len(data):
            return
        record += data[at + HEAD : at + HEAD + length]
        at += HEAD + length
        if kind in (FULL, LAST):
            yield record
            record = b""
