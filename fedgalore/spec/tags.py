"""Tags of words: which part of which kind of entity a word is, as `B-PER`, `I-PER` and `O` say it."""

from __future__ import annotations

from collections.abc import Sequence

OUTSIDE = "O"
BEGINS, ENDS, INSIDE = "BSU", "ELSU", "IM"  # of IOB, IOB2, BIOES and BILOU


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
