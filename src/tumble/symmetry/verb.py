"""symmetrize(): a potential averaged over rotations, projected on the space group, or both."""

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Final

from ase import Atoms

from tumble.crystal import Aligned, parse_rule
from tumble.potential import Potential
from tumble.rotations import Rotations
from tumble.symmetry.averaged import Symmetrized
from tumble.symmetry.choice import choose
from tumble.symmetry.projected import Projected

AUTO: Final = "auto"
"""The spec of the rule that is chosen by its error."""


def symmetrize(
    potential: Potential,
    rotations: str | Rotations | Aligned = "Ih",
    *,
    project: str | None = None,
    tolerance: str | None = None,
    on: Atoms | Sequence[Atoms] | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Potential:
    """A potential averaged over rotations, and projected on the space group if so asked.

    Args:
        potential: any Potential.
        rotations: a rule, or the spec of one: RULE or RULE@FRAME, see `tumble.crystal.parse_rule`; or "auto", the
            cheapest that leaves less than the tolerance, see `choose`.
        project: "crystal" to project forces and stress on the space group of each structure, see `Projected`; None not
            to.
        tolerance: with "auto", how large an error may remain: "1 meV/Å" (the force on the worst atom), "0.2 meV/atom",
            "10 meV" (of the total energy), "0.05 GPa".
        on: with "auto", structures such as the potential will be used for.
        tell: with "auto", told of the progress and of what was chosen.

    Returns:
        A Symmetrized potential; with project a Projected one around it, or, if the rule is "none", around the
        potential itself.

    Raises:
        ValueError: an unknown spec, projection or unit; a tolerance or structures without "auto", or "auto" without.
        RuntimeError: no rule is as good as the tolerance.
    """
    if project not in (None, "crystal"):
        near = get_close_matches(str(project), ["crystal"], 1, cutoff=0.3)
        raise ValueError(
            f"project is {project!r}; None or 'crystal' was expected. "
            + ("Did you mean 'crystal'?" if near else "Leave it out to average only.")
        )
    if rotations == AUTO:
        rule: Rotations | Aligned = _chosen(potential, tolerance, on, tell)
    elif tolerance is not None or on is not None:
        raise ValueError(
            f"symmetrize was given tolerance={tolerance!r}{'' if on is None else ' and structures'} with the rule "
            f'{getattr(rotations, "name", rotations)}; they are for the rule "auto", which is chosen by its error. '
            'Leave them out, or say rotations="auto".'
        )
    else:
        rule = parse_rule(rotations) if isinstance(rotations, str) else rotations
    if project is None:
        return Symmetrized(potential, rule)
    return Projected(potential if rule.name == "none" else Symmetrized(potential, rule))


def _chosen(
    potential: Potential, tolerance: str | None, on: Atoms | Sequence[Atoms] | None, tell: Callable[[str], None]
) -> Rotations:
    if tolerance is None or on is None:
        raise ValueError(
            f'the rule "auto" is chosen by its error on some structures; tolerance={tolerance!r} and '
            f"{'no' if on is None else 'some'} structures were given. "
            'Give both, such as tolerance="1 meV/Å" and on=[atoms].'
        )
    choice = choose(potential, on, tolerance, tell=tell)
    tell(str(choice))
    return choice.rule
