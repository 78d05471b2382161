"""Colours of the page, each for light and for dark; a picture is drawn in the light ones and follows the page."""

import re

INK, SOFT, RULE, PAPER = "ink", "soft", "rule", "paper"
"""Text, secondary text, thin lines, background."""

BANDS = 15
"""Steps of the diverging scale d0 … d14, odd so that zero has a step of its own."""

STEPS = 12
"""Steps of the sequential scale q0 … q11."""

_PLAIN = {
    INK: ("#1f2328", "#e6e4df"),
    SOFT: ("#646b75", "#9aa1ab"),
    RULE: ("#dfddd7", "#33383f"),
    PAPER: ("#fdfcfa", "#16191d"),
    "panel": ("#f6f4ef", "#1d2126"),
    "edge": ("#23272d", "#69717c"),
    "yes": ("#2c7a51", "#6cc497"),
    "remedy": ("#9a6700", "#e0b252"),
    "no": ("#b23a2e", "#f08a7c"),
    "unknown": ("#6a7079", "#a3a9b3"),
    "c0": ("#2b5c8f", "#7db2e8"),
    "c1": ("#d67f2a", "#f0a65a"),
    "c2": ("#3f9481", "#6cc9b3"),
    "c3": ("#8c4a78", "#d393c0"),
    "c4": ("#b09a36", "#dccb73"),
    "c5": ("#7a8592", "#aeb7c2"),
}
_DIVERGING = (
    ("#1d4a80", "#4f86bd", "#a9c6df", "#f3f1ec", "#edb8a0", "#cc6b4e", "#8f2418"),
    ("#a4d0ff", "#5a96d6", "#325781", "#23272c", "#7d4232", "#d0694b", "#ffb59a"),
)
_SEQUENTIAL = (
    ("#e9e5da", "#ecc98c", "#de8d4a", "#b8442f", "#6d1830"),
    ("#3b4148", "#6b4b49", "#b3583f", "#ea9350", "#ffe3a3"),
)


def ramp(anchors: tuple[str, ...], count: int) -> list[str]:
    """A scale of `count` colours through the anchors, evenly in RGB."""
    points = [[int(anchor[k : k + 2], 16) for k in (1, 3, 5)] for anchor in anchors]
    colours = []
    for index in range(count):
        position = index / (count - 1) * (len(points) - 1)
        start = min(int(position), len(points) - 2)
        share = position - start
        mixed = [round(a + share * (b - a)) for a, b in zip(points[start], points[start + 1], strict=True)]
        colours.append("#{:02x}{:02x}{:02x}".format(*mixed))
    return colours


def _all() -> dict[str, tuple[str, str]]:
    scales = {"d": (_DIVERGING, BANDS), "q": (_SEQUENTIAL, STEPS)}
    stepped = {
        f"{letter}{step}": both
        for letter, (anchors, count) in scales.items()
        for step, both in enumerate(zip(ramp(anchors[0], count), ramp(anchors[1], count), strict=True))
    }
    return _PLAIN | stepped


COLOURS = _all()
"""Name of each colour → (light, dark)."""

LIGHT = {name: light for name, (light, _) in COLOURS.items()}
"""Name of each colour → what a picture is drawn with."""


def themed(svg: str) -> str:
    """The picture with the light colours of its styles replaced by the variables of the page."""
    names = {light: name for name, light in LIGHT.items()}

    def variable(colour: re.Match[str]) -> str:
        return f"var(--{names[colour[0]]})" if colour[0] in names else colour[0]

    return re.sub(r'style="[^"]*"', lambda style: re.sub("#[0-9a-f]{6}", variable, style[0]), svg)
