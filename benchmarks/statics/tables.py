"""The page: one section for each crystal."""

from collections.abc import Sequence

from statics.answers import REFERENCE
from statics.compare import Elastic
from statics.facts import KAPPA_SHARE, Found, IMAGINARY_THz, RMS_THz, Row, SPLIT_THz


def page(every: Sequence[Found], heading: str) -> str:
    """All of it in markdown."""
    bars = (
        f"Bold misses its bar: rms below {RMS_THz} THz on the path, κ within {100 * KAPPA_SHARE:.0f} %, no frequency "
        f"below {IMAGINARY_THz} THz, degenerate bands closer than {SPLIT_THz:g} THz when projected."
    )
    lines = [f"# {heading}", "", bars, ""]
    for found in every:
        lines += [f"## {found.title}, weights {found.weights}", ""]
        for size in found.rows:
            lines += [f"Second-order force constants of {size} atoms:", "", *rows(found, size), ""]
        lines += [*reference(found), "", *elasticity(found), ""]
    return "\n".join(lines).rstrip() + "\n"


def number(value: float | None, digits: int = 3) -> str:
    """So many decimals; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def share(value: float | None) -> str:
    """In per cent, with its sign."""
    return "–" if value is None else f"{100 * value:+.1f} %"


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table."""
    return ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *body)]


def met(text: str, is_met: bool) -> str:
    """A number, bold where it misses its bar."""
    return text if is_met else f"**{text}**"


def rows(found: Found, size: int) -> list[str]:
    """Every variant, against DFT with the same supercell."""
    head = ["", "rms THz", "largest THz", "Γ optical THz", "splitting THz", "lowest THz", "κ W/(m K)", "SRD", "SRME"]
    return table(head, [line(one) for one in found.rows[size]])


def line(one: Row) -> list[str]:
    """One variant."""
    of_crystal = [
        number(one.optical, 2),
        met(f"{one.splitting:.0e}", one.name != "projected" or one.splitting < SPLIT_THz),
        met(number(one.lowest), one.lowest > IMAGINARY_THz),
        number(one.kappa, 1),
    ]
    if one.name == REFERENCE:
        return [one.name, "", "", *of_crystal, "", ""]
    of_bands = [met(number(one.rms), one.rms < RMS_THz), number(one.worst)]
    is_near = one.srd is None or abs(one.srd) < KAPPA_SHARE
    return [one.name, *of_bands, *of_crystal, met(share(one.srd), is_near), number(one.srme)]


def reference(found: Found) -> list[str]:
    """Whether what was published with the data is found again."""
    lines = []
    for size, published in found.published.items():
        one = found.row(size, REFERENCE)
        if one is not None and one.kappa is not None:
            lines.append(
                f"DFT's κ with {size} atoms: {one.kappa:.2f} W/(m K) here; published {published} ({found.source})."
            )
    return lines


def elasticity(found: Found) -> list[str]:
    """Elastic constants from slow waves, and from strains at the potential's own lattice constant."""
    body = [
        [f"{one.name}, slow waves of {size} atoms", number(found.lattice, 4), *constants(one.elastic), "–"]
        for size in found.rows
        for one in found.rows[size]
        if one.name in (REFERENCE, "same")
    ]
    lines = []
    if (rest := found.rest) is not None:
        body.append(
            [
                "relaxed and strained",
                number(rest.lattice, 4),
                *constants(rest.elastic),
                number(rest.bulk_of_volumes_GPa, 1),
            ]
        )
        lines = ["", f"Of the strained crystal's constants, symmetry forbids {rest.forbidden_GPa:.2g} GPa at most."]
    return table(["", "a Å", "C11 GPa", "C12 GPa", "C44 GPa", "B GPa", "B of the volumes GPa"], body) + lines


def constants(elastic: Elastic) -> list[str]:
    """Three constants and the bulk modulus."""
    return [number(value, 1) for value in (*elastic, elastic.bulk)]
