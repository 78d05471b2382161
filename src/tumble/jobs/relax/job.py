"""relax(): structures at rest, and what became of their symmetry."""

from collections.abc import Callable, Sequence

import numpy as np
from ase import Atoms

from tumble.checkpoint.subject import subject
from tumble.crystal import space_group, standardised
from tumble.descent import Walk, descend
from tumble.jacobian import precise
from tumble.jobs.relax.finding import Finding, Walked
from tumble.jobs.relax.judgement import judged
from tumble.jobs.relax.noise import floor, gain, scatter
from tumble.jobs.relax.result import RelaxResult
from tumble.jobs.relax.settings import NO_TURNS, RelaxSettings
from tumble.jobs.relax.stairs import UNKNOWN, plateau_of, stairs
from tumble.potential import Potential
from tumble.results import Progress
from tumble.rotations import Rotations


def relax(
    potential: Potential,
    atoms_or_structures: Atoms | Sequence[Atoms],
    settings: RelaxSettings | None = None,
    *,
    name: str = "",
    tell: Callable[[Progress], None] = lambda progress: None,
) -> RelaxResult:
    """Relax atoms and cells of structures, all together, and say what became of their symmetry.

    Args:
        potential: any Potential.
        atoms_or_structures: one structure or many; they are not changed.
        settings: None: the defaults.
        name: what the result calls the potential; by default what it is made of.
        tell: called after every step, with the number of structures that have ended.

    Raises:
        ValueError: no structure, an unknown element, a cell that is to relax but does not repeat in three directions,
            a potential without forces or without the stress that the cell needs.
    """
    settings = settings or RelaxSettings()
    given = [atoms_or_structures] if isinstance(atoms_or_structures, Atoms) else list(atoms_or_structures)
    if not given:
        raise ValueError("there is no structure to relax; at least one was expected. Give Atoms, or a list of them.")
    used = precise(potential) if settings.dtype == "float64" else potential
    walked = _walk(used, given, settings, tell)
    rule = None if settings.turns == NO_TURNS else Rotations.parse(settings.turns)
    findings = []
    for index, one in enumerate(walked):
        called = one.start.get_chemical_formula() + (f" ({index})" if len(given) > 1 else "")
        findings.append(_finding(used, called, one, rule, settings))
        tell(Progress(index + 1, len(given), f"symmetry and noise: {called}"))
    return RelaxResult.of(settings, subject(potential, name), findings)


def _walk(
    potential: Potential, given: Sequence[Atoms], settings: RelaxSettings, tell: Callable[[Progress], None]
) -> list[Walked]:
    """All walks: of all structures together, then of those in which a group was found."""
    hows = [settings.symmetry_of(one) for one in given]
    groups = [
        space_group(one, settings.symprec) if how == "keep" else None for one, how in zip(given, hows, strict=True)
    ]
    walked: list[Walked] = []
    seeking, found = [], []
    for start, how, walk in zip(
        given, hows, descend(potential, given, settings, groups=groups, tell=tell), strict=True
    ):
        after = stairs(walk.atoms) if _is_finite(walk) else UNKNOWN
        plateau = plateau_of(after, settings.plateau) if how == "find" else None
        if plateau is not None:
            seeking.append(len(walked))
            found.append(space_group(walk.atoms, plateau.middle))
        walked.append(Walked(start, how, walk, after, plateau))

    def retell(progress: Progress) -> None:
        tell(progress._replace(message=f"in the group that was found, {progress.message}"))

    agains = descend(potential, [walked[k].walk.atoms for k in seeking], settings, groups=found, tell=retell)
    for k, again in zip(seeking, agains, strict=True):
        walked[k] = walked[k]._replace(again=again)
    return walked


def _finding(
    potential: Potential, name: str, walked: Walked, rule: Rotations | None, settings: RelaxSettings
) -> Finding:
    """What became of the symmetry of one structure, and what its forces mean."""
    walk, again = walked.walk, walked.again
    final, symmetry, why, gained, measured = walk, None, "", None, None
    ends = [one for one in (walk, again) if one is not None and _is_finite(one)]
    known = [scatter(potential, one.atoms, rule) for one in ends] if rule is not None else []
    if again is not None and len(ends) == 2:
        gained = gain(walk, again, (known[0], known[1]) if known else None, settings)
        symmetry, why = judged(walk, again, gained, settings)
        final = again if symmetry in ("symmetric", "artefact") else walk
    elif walked.how == "find":
        broken = walk if again is None else again
        symmetry, why = ("none", "no group lasts") if again is None and ends else ("undecided", broken.reason)
    if ends:
        in_group = final is again or walked.how == "keep"
        measured = floor(
            potential, final, (known[0] if final is walk else known[1]) if known else None, has_group=in_group
        )
    return Finding(
        name=name,
        walked=walked,
        final=final,
        symmetry=symmetry,
        why=why,
        gain=gained,
        floor=measured,
        before=stairs(walked.start),
        within=stairs(again.atoms) if again is not None and len(ends) == 2 else None,
        standard=_standard(final.atoms, settings.standard_A) if ends else None,
        n_calls=sum(one.n_calls for one in (walk, again) if one is not None) + len(rule or ()) * len(known),
    )


def _standard(atoms: Atoms, symprec: float) -> Atoms | None:
    """The standard cell; None where nothing repeats in three directions, or atoms are closer than the tolerance."""
    try:
        return standardised(atoms, symprec)
    except ValueError:
        return None


def _is_finite(walk: Walk) -> bool:
    """Whether the potential has answered with numbers at the end."""
    return bool(np.isfinite([walk.energies[-1], walk.forces[-1]]).all())
