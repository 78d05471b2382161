"""Spec: the short text that names a rule and the frame it is in."""

import difflib
import re
from collections.abc import Mapping
from typing import Final, NamedTuple

GRAMMAR: Final = (
    "RULE or RULE@FRAME; RULE none, i, T, O, I, Th, Oh, Ih, so3:L, o3:L, euler:L, euler:Li, random:n, random:n:seed or "
    "crystal; FRAME lab, generic, random:n, random:n:seed or crystal; L, n and seed integers"
)
"""What names a rule. `Rotations.parse` knows no structure; what is named after its crystal needs
`tumble.crystal.parse_rule`."""

GROUPS: Final = ("T", "O", "I", "Th", "Oh", "Ih")

_NUMBER: Final = r":(?P<number>\d+)"
_RANDOM: Final = _NUMBER + r"(:(?P<seed>\d+))?"
_RULES: Final = {
    **dict.fromkeys(("none", "i", *GROUPS, "crystal"), ""),
    **{"so3": _NUMBER, "o3": _NUMBER, "euler": _NUMBER + "(?P<inversion>i?)", "random": _RANDOM},
}
_FRAMES: Final = {"lab": "", "generic": "", "random": _RANDOM, "crystal": ""}
_USUAL: Final = {"so3": 7, "o3": 7, "euler": 3, "random": 10}


class Part(NamedTuple):
    """A rule or a frame as it was written.

    head:      the word before the first colon.
    number:    the L or n behind it.
    seed:      of random turns.
    inversion: whether an Euler rule has an i at its end.
    """

    head: str
    number: int = 0
    seed: int = 0
    inversion: bool = False


def read(spec: str) -> tuple[Part, Part]:
    """The rule and the frame of a spec; the frame is the lab where none is given.

    Raises:
        ValueError: the rule or the frame is not in the grammar, with the nearest that is; more than one frame; or one
            that needs a structure.
    """
    rule, *frames = spec.strip().split("@")
    if len(frames) > 1:
        raise ValueError(
            f'rotations "{spec}" name {len(frames)} frames; one at most was expected. Leave out all but one of '
            f"{', '.join('@' + frame for frame in frames)}."
        )
    frame = frames[0] if frames else "lab"
    found, within = _matched(rule, _RULES), _matched(frame, _FRAMES)
    if found is None or within is None:
        wrong = f'the rule "{rule}"' if found is None else f'the frame "{frame}"'
        nearest = rule if found else _nearest(rule, _RULES)
        if frames:
            nearest += "@" + (frame if within else _nearest(frame, _FRAMES))
        raise ValueError(f'{wrong} is not in the grammar: {GRAMMAR}. Did you mean "{nearest}"?')
    if "crystal" in (found.head, within.head):
        raise ValueError(
            f'rotations "{spec}" are made for one structure, by its point group; Rotations.parse knows no structure. '
            f'Use tumble.crystal.parse_rule("{spec}").'
        )
    return found, within


def _matched(text: str, forms: Mapping[str, str]) -> Part | None:
    head = text.partition(":")[0]
    found = re.fullmatch(head + forms[head], text) if head in forms else None
    if found is None:
        return None
    given = found.groupdict()
    return Part(head, int(given.get("number") or 0), int(given.get("seed") or 0), bool(given.get("inversion")))


def _nearest(text: str, forms: Mapping[str, str]) -> str:
    head, _, tail = text.partition(":")
    close = difflib.get_close_matches(head.lower(), [form.lower() for form in forms], n=1, cutoff=0)[0]
    nearest = next(form for form in forms if form.lower() == close)
    if not forms[nearest]:
        return nearest
    digits = "".join(c for c in tail.partition(":")[0] if c.isdecimal())
    return f"{nearest}:{digits or _USUAL[nearest]}"
