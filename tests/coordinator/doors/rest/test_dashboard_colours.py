"""The lines of charts tell apart, and from their ground, with the three common deficiencies of colour vision too."""

from __future__ import annotations

import re
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest

from coordinator.doors.rest import dashboard

Colour = npt.NDArray[np.float64]  # red, green, blue from 0 to 1

# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
SIGHT = {
    name: np.array(rows).reshape(3, 3)
    for name, rows in {
        "common": (1, 0, 0, 0, 1, 0, 0, 0, 1),
        "protanopia": (0.152, 1.053, -0.205, 0.115, 0.786, 0.099, -0.004, -0.048, 1.052),
        "deuteranopia": (0.367, 0.861, -0.228, 0.280, 0.673, 0.047, -0.012, 0.043, 0.969),
        "tritanopia": (1.256, -0.077, -0.179, -0.078, 0.931, 0.148, 0.005, 0.691, 0.304),
    }.items()
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE = TO_XYZ.sum(1)
LEAST_DISTANCE = 18  # in CIELAB; 2.3 is what a careful eye sees
LEAST_CONTRAST = 3  # of graphics against their ground, WCAG 1.4.11
TEXT_CONTRAST = 4.5  # WCAG 1.4.3
WORDS = ("text", "dim", "accent", "good", "warn", "bad")


def themes() -> dict[str, dict[str, Colour]]:
    """The colours by name, of light and dark."""
    style = dashboard.content()["style.css"].decode()
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    assert len(blocks) == 2
    read = [dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", block)) for block in blocks]
    return {
        name: {key: np.array([int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)]) for key, code in found.items()}
        for name, found in zip(("light", "dark"), read, strict=True)
    }


def linear(colour: Colour) -> Colour:
    return np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)


def lab(light: Colour) -> Colour:
    """CIELAB of linear RGB."""
    share = TO_XYZ @ np.clip(light, 0, 1) / WHITE
    root = np.where(share > 216 / 24389, np.cbrt(share), (24389 / 27 * share + 16) / 116)
    return np.array([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])


def contrast(one: Colour, other: Colour) -> float:
    dark, bright = sorted(float((TO_XYZ @ linear(each))[1]) for each in (one, other))
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_two_lines_look_alike(theme: str) -> None:
    colours = {name: colour for name, colour in themes()[theme].items() if re.fullmatch(r"c\d|text", name)}
    assert len(colours) == 8
    for sight, seen in SIGHT.items():
        for (one, a), (other, b) in combinations(colours.items(), 2):
            distance = float(np.linalg.norm(lab(seen @ linear(a)) - lab(seen @ linear(b))))
            assert distance >= LEAST_DISTANCE, f"{theme}, {sight}: {one} and {other} are {distance:.1f} apart"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_what_is_drawn_and_written_stands_out(theme: str) -> None:
    colours = themes()[theme]
    for name, colour in colours.items():
        if re.fullmatch(r"c\d", name):
            assert contrast(colour, colours["card"]) >= LEAST_CONTRAST, (theme, name)
    for name in WORDS:
        for ground in ("card", "page", "hover"):
            assert contrast(colours[name], colours[ground]) >= TEXT_CONTRAST, (theme, name, ground)
    assert contrast(colours["on-accent"], colours["accent"]) >= TEXT_CONTRAST, theme
