"""phonons(): of a crystal or a molecule, raw and repaired, with the symmetry error of each frequency."""

from collections.abc import Callable, Sequence

from ase import Atoms

from tumble.checkpoint.subject import subject
from tumble.crystal import ideal, space_group
from tumble.descent import check_rest, rest_of
from tumble.jacobian import precise
from tumble.jobs.phonons.constants import AVERAGED, BOTH
from tumble.jobs.phonons.crystal import crystal_of
from tumble.jobs.phonons.examined import Scanned, of_crystal, of_molecule
from tumble.jobs.phonons.molecule import molecule_of
from tumble.jobs.phonons.result import Found, PhononsResult
from tumble.jobs.phonons.settings import PhononsSettings
from tumble.potential import Potential, check_species, collate_for
from tumble.results import Progress
from tumble.symmetry import Symmetrized, symmetrize


def phonons(
    potential: Potential,
    atoms: Atoms,
    settings: PhononsSettings | None = None,
    *,
    name: str = "",
    tell: Callable[[Progress], None] = lambda progress: None,
) -> PhononsResult:
    """Phonons of a crystal at rest, or vibrations of a molecule at rest.

    The structure is made exactly symmetric first. Its force constants are computed without symmetry, so that what the
    potential breaks is seen, and stand side by side: raw (displaced forth only), ± (forth and back), projected on
    the space group with the acoustic sum rule, and of the potential averaged over rotations.

    Args:
        potential: any Potential with forces.
        atoms: one structure: a crystal that repeats in three directions, or a molecule.
        settings: None: the defaults.
        name: what cards and certificates call the potential; by default what it is made of.
        tell: called as the work goes on, with the displaced copies of the current potential.

    Raises:
        ImportError: an engine for crystals is not installed.
        ValueError: several structures, a layer or a wire, an unknown element, a structure that is not at rest, a
            supercell that is too small or too large, a path that cannot be read, or Born charges that make no sense.
        RuntimeError: forces that are not finite.
    """
    settings = settings or PhononsSettings()
    one = _only(atoms)
    check_species(potential.species, collate_for(potential, [one]))
    used = precise(potential) if settings.dtype == "float64" else potential
    group = space_group(one, settings.symprec)
    rest = rest_of(used, ideal(one, group), group)
    check_rest(rest, settings.fmax, verb="phonons", name=name or "MODEL")
    potentials = {BOTH: used}
    if settings.average != "none" and not isinstance(potential, Symmetrized):
        potentials[AVERAGED] = symmetrize(used, settings.average)
    scanned: Scanned
    found: Found
    if one.pbc.all():
        found = crystal_of(potentials, one, settings, tell)
        scanned = of_crystal(found, potential, potentials, settings, tell)
    else:
        found = molecule_of(potentials, one, settings, tell)
        scanned = of_molecule(found, potential, potentials, settings, tell)
    return PhononsResult.of(settings, subject(potential, name), found, scanned, rest)


def _only(atoms: Atoms | Sequence[Atoms]) -> Atoms:
    structures = [atoms] if isinstance(atoms, Atoms) else list(atoms)
    if len(structures) != 1:
        raise ValueError(
            f"phonons was given {len(structures)} structures; one was expected. Call it for each, or screen them."
        )
    one = structures[0]
    if one.pbc.any() and not one.pbc.all():
        raise ValueError(
            f"pbc is {one.pbc.tolist()}; phonons of crystals that repeat in three directions and vibrations of "
            "molecules that do not repeat are supported. For a layer or a wire, set pbc to True in all directions with "
            "enough vacuum between the images, and ask for one copy of the cell across it."
        )
    return one
