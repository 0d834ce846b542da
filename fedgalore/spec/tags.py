"""Tags of words: which part of which kind of entity a word is, as `B-PER`, `I-PER` and `O` say it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

OUTSIDE = "O"
BEGINS, ENDS, INSIDE = "BSU", "ELSU", "IM"  # of IOB, IOB2, BIOES and BILOU

_PART = f"[{BEGINS}{ENDS}{INSIDE}{(BEGINS + ENDS + INSIDE).lower()}]"
_OTHERWISE = re.compile(rf"(?P<first>{_PART})[-_:.](?P<kind>.+)|(?P<same>.+)[-_:.](?P<last>{_PART})")


def split(tag: str) -> tuple[str, str]:
    """A tag's part and its type: `B-PER` is ("B", "PER"). A tag without a part goes on where its type does.

    The outside tag has neither.
    """
    if tag == OUTSIDE:
        return "", ""
    part, dash, kind = tag.partition("-")
    if len(part) == 1 and part in BEGINS + ENDS + INSIDE:
        return part, kind if dash else "entity"
    return "I", tag


def entity_types(tags: Sequence[str]) -> tuple[str, ...]:
    """The types of entities that tags are about, in the order in which they first come."""
    return tuple(dict.fromkeys(kind for _, kind in map(split, tags) if kind))


def misread(tags: Sequence[str]) -> tuple[str, ...]:
    """Tags of one type that `split` takes for several, as their parts are written otherwise: `PER-B`, `B_PER`, `b-per`.

    A letter may be of the type (`vitamin-B`): only tags that begin and go on where it differs are meant.
    """
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for tag in tags:
        written = _OTHERWISE.fullmatch(tag)
        if written is not None and split(tag) == ("I", tag):
            part = (written["first"] or written["last"]).upper()
            found[written["kind"] or written["same"]][part] = tag
    whole = (parts for parts in found.values() if "B" in parts and parts.keys() & set(INSIDE))
    return tuple(next(whole, {}).values())


def spans(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """The entities of one text: type, first word, word behind the last.

    As the CoNLL evaluation reads them: an entity begins with a B, S or U, after another type, after an O or after an
    entity's last word (E, L, S or U), whatever its own first tag says.
    """
    found: set[tuple[str, int, int]] = set()
    begun, current, is_over = 0, "", True
    for place, (part, kind) in enumerate(map(split, [*tags, OUTSIDE])):
        if is_over or part in BEGINS or kind != current:
            if current:
                found.add((current, begun, place))
            begun, current = place, kind
        is_over = part in ENDS
    return found
