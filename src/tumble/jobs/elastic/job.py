"""elastic(): all elastic constants of a crystal with their symmetry error, and its equation of state."""

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import spglib
from ase import Atoms
from numpy.typing import NDArray

from tumble.checkpoint.subject import subject
from tumble.crystal import Group, SpaceGroup, group_of, ideal, parse_rule, space_group
from tumble.descent import Descent, Walk, check_rest, descend, rest_of
from tumble.jacobian import precise
from tumble.jobs.elastic.finding import Finding, State, state_of
from tumble.jobs.elastic.result import ElasticResult
from tumble.jobs.elastic.settings import NONE, ElasticSettings
from tumble.jobs.elastic.strain import (
    Stiffness,
    Stresses,
    allowed,
    deformed,
    one_sided,
    strained_cells,
    stresses_of,
    two_sided,
    unrest_GPa,
)
from tumble.jobs.elastic.tensor import NAMES, independent
from tumble.packs import predict
from tumble.potential import Potential, collate_for
from tumble.results import Progress
from tumble.symmetry import Symmetrized
from tumble.units import EV_PER_A3_TO_GPa

Floats = NDArray[np.float64]


class _Resting(NamedTuple):
    """The crystal before it is strained: exactly symmetric, with its group and the answer about it."""

    atoms: Atoms
    group: SpaceGroup
    named: Group
    force: float
    forbidden_force: float
    residual_GPa: float


def elastic(
    potential: Potential,
    atoms: Atoms,
    settings: ElasticSettings | None = None,
    *,
    name: str = "",
    tell: Callable[[Progress], None] = lambda progress: None,
) -> ElasticResult:
    """Elastic constants of a crystal and its equation of state, ions relaxed in every strained cell.

        C_ij = dσ_i / dε_j,  i, j in the order xx yy zz yz xz xy, shear strains doubled

    as differences of the stress over strains of both signs; of one sign, projected on the point group and from the
    averaged potential beside them. All cells are relaxed in one batch. What the point group or an energy forbids of
    the constants is their error bar.

    Args:
        potential: any Potential with forces and stress.
        atoms: a crystal at rest. It is made exactly symmetric within the symprec first; constraints are left out.
        settings: None: the defaults.
        name: what cards and certificates call the potential; by default what it is made of.
        tell: called as the work goes on.

    Raises:
        ValueError: not periodic in three directions, not at rest, or a potential without forces or stress.
        RuntimeError: the stress of a strained cell is not finite.
    """
    settings = settings or ElasticSettings()
    exact = precise(potential) if settings.dtype == "float64" else potential
    resting = _at_rest(exact, atoms, settings, name)
    crystal, turns = resting.atoms, resting.group.turns
    cells = strained_cells(crystal, settings.strains)
    walks = _relax(exact, [*cells, *_scaled(crystal, settings)], settings, tell, "")
    strained, scaled = walks[: len(cells)], walks[len(cells) :]
    stresses = _relaxed_stresses(cells, strained, settings)
    measured = two_sided(stresses, turns)
    ways = (one_sided(stresses, turns), measured, allowed(measured))
    finding = Finding(
        atoms=crystal,
        group=resting.named,
        n_operations=resting.group.n_operations,
        axes=(axes := _standard_axes(crystal, settings.symprec)),
        independent=independent(axes @ turns @ axes.T),
        ways=ways,
        clamped=_clamped(exact, cells, settings, turns),
        state=_state(scaled),
        residual_GPa=resting.residual_GPa,
        force=resting.force,
        forbidden_force=resting.forbidden_force,
        lost=_lost(walks, _names(settings)),
        n_calls=1 + len(cells) + sum(walk.n_calls for walk in walks),
    )
    if settings.average != NONE:
        finding = _with_average(finding, exact, strained, settings, turns, tell)
    return ElasticResult.of(settings, subject(potential, name), finding)


def _at_rest(potential: Potential, atoms: Atoms, settings: ElasticSettings, name: str) -> _Resting:
    """The crystal made exactly symmetric, if it is one and at rest but for the forces that its symmetry forbids."""
    if not atoms.pbc.all():
        raise ValueError(
            f"pbc is {atoms.pbc.tolist()}, and elastic constants are those of a crystal that repeats in three "
            "directions. Set pbc to True in all of them, or take the bulk crystal."
        )
    group = space_group(atoms, settings.symprec)
    crystal = ideal(atoms, group)
    crystal.set_constraint()
    crystal.calc = None
    named = group_of(crystal, settings.symprec)
    rest = rest_of(potential, crystal, group)
    if rest.stress_GPa is None:
        kind = type(getattr(potential, "calculator", potential)).__name__
        raise ValueError(
            f"a {kind} gives no stress; forces to relax ions by and the stress of strained cells were expected. Use "
            "another potential."
        )
    check_rest(rest, settings.fmax, verb="elastic", **({"name": name} if name else {}))
    return _Resting(crystal, group, named, rest.force, rest.forbidden, rest.stress_GPa)


def _relax(
    potential: Potential,
    cells: Sequence[Atoms],
    settings: ElasticSettings,
    tell: Callable[[Progress], None],
    remark: str,
) -> list[Walk]:
    """Ions relaxed in cells that stay as they are."""
    descent = Descent(
        fmax=settings.ions_fmax,
        optimizer=settings.optimizer,
        steps=settings.steps,
        cell="fixed",
        net_force="remove",  # where the crystal is does not matter
        frames=2,
    )

    def passed_on(progress: Progress) -> None:
        tell(progress._replace(message=f"strained cells{remark}: {progress.message}"))

    return descend(potential, cells, descent, tell=passed_on)


def _clamped(potential: Potential, cells: Sequence[Atoms], settings: ElasticSettings, turns: Floats) -> Stiffness:
    """What symmetry leaves of the constants of ions that are carried along by the strain."""
    answers = [answer.stress for answer in predict(potential, cells)]
    tensors = np.stack([one.double().numpy() for one in answers if one is not None])
    return allowed(two_sided(stresses_of(settings.strains, tensors), turns))._replace(name="clamped")


def _with_average(
    finding: Finding,
    potential: Potential,
    strained: Sequence[Walk],
    settings: ElasticSettings,
    turns: Floats,
    tell: Callable[[Progress], None],
) -> Finding:
    """With ± of the averaged potential, from where the ions of the raw one came to rest."""
    mean = Symmetrized(potential, parse_rule(settings.average))
    walks = _relax(mean, [walk.atoms for walk in strained], settings, tell, f" over {settings.average}")
    calls = [mean.calls(collate_for(mean, [walk.atoms]))[0] for walk in walks]
    stresses = _relaxed_stresses(strained_cells(finding.atoms, settings.strains), walks, settings)
    return finding._replace(
        ways=(*finding.ways, two_sided(stresses, turns, "averaged")),
        lost=(*finding.lost, *_lost(walks, [f"{one}, averaged" for one in _names(settings)])),
        averaged_over=settings.average,
        n_calls_averaged=sum(walk.n_calls * each for walk, each in zip(walks, calls, strict=True)),
    )


def _relaxed_stresses(cells: Sequence[Atoms], walks: Sequence[Walk], settings: ElasticSettings) -> Stresses:
    """What strained cells are under once their ions are at rest."""
    unrest = unrest_GPa(settings.strains[0], cells, [walk.atoms for walk in walks])
    return stresses_of(settings.strains, _stresses(walks), unrest)


def _stresses(walks: Sequence[Walk]) -> Floats:
    """Of the last structure of each walk, (K, 3, 3) eV/Å³."""
    found = np.stack([walk.atoms.get_stress(voigt=False) for walk in walks])
    if broken := int((~np.isfinite(found).all(axis=(1, 2))).sum()):
        raise RuntimeError(
            f"the stress of {broken} of {len(found)} strained cells is not finite; numbers were expected. Predict one "
            "of them alone, and check the potential."
        )
    return found


def _scaled(atoms: Atoms, settings: ElasticSettings) -> list[Atoms]:
    """Cells of the equation of state, of volumes evenly apart."""
    changes = np.linspace(-settings.volume_change, settings.volume_change, settings.volumes)
    return [deformed(atoms, (1 + change) ** (1 / 3) * np.eye(3)) for change in changes]


def _state(walks: Sequence[Walk]) -> State | None:
    if not walks:
        return None
    pressures = -EV_PER_A3_TO_GPa * np.trace(_stresses(walks), axis1=1, axis2=2) / 3
    volumes = np.array([walk.atoms.cell.volume for walk in walks])
    return state_of(volumes, np.array([walk.energies[-1] for walk in walks]), pressures)


def _names(settings: ElasticSettings) -> list[str]:
    """What each cell is called, in the order in which they are relaxed."""
    strains = [f"{sign}{size:g} {one}" for size in settings.strains for one in NAMES for sign in "+-"]
    changes = np.linspace(-settings.volume_change, settings.volume_change, settings.volumes)
    return ["at rest", *strains, *(f"volume {change:+.3g}" for change in changes)]


def _lost(walks: Sequence[Walk], names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Names and reasons of the walks that have not arrived."""
    return tuple((called, walk.reason) for called, walk in zip(names, walks, strict=False) if not walk.is_converged)


def _standard_axes(atoms: Atoms, symprec: float) -> Floats:
    """The rotation (3, 3) into the standard orientation of the crystal's space group.

    Source: A. Togo, K. Shinohara, I. Tanaka, Sci. Technol. Adv. Mater.: Methods 4, 2384822 (2024).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        found = spglib.get_symmetry_dataset(
            (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), symprec=symprec
        )
    assert found is not None, "the space group has been found before"
    left, _, right = np.linalg.svd(np.asarray(found.std_rotation_matrix, dtype=np.float64))
    return np.asarray(left @ right)
