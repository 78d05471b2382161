"""conductivity(): the thermal conductivity of a crystal, with each repair of broken symmetry side by side."""

from collections.abc import Callable

from ase import Atoms

from tumble.checkpoint.subject import subject
from tumble.crystal import ideal, space_group
from tumble.descent import check_rest, rest_of
from tumble.jacobian import precise
from tumble.jobs.conductivity.engine import engine_of, irreducible, read_nac
from tumble.jobs.conductivity.finding import Crystal
from tumble.jobs.conductivity.reference import check_modes, compare, read_reference
from tumble.jobs.conductivity.result import ConductivityResult
from tumble.jobs.conductivity.settings import ConductivitySettings
from tumble.jobs.conductivity.work import Work
from tumble.potential import Potential, check_species, collate_for
from tumble.results import Progress


def conductivity(
    potential: Potential,
    atoms: Atoms,
    settings: ConductivitySettings | None = None,
    *,
    name: str = "",
    tell: Callable[[Progress], None] = lambda progress: None,
) -> ConductivityResult:
    """Lattice thermal conductivity by phono3py, raw and repaired, with what each repair costs.

    All displaced supercells are asked about in one packed prediction for each potential. A crystal with imaginary modes
    has no conductivity here: the result says so, which is no error.

    Args:
        potential: any Potential with forces.
        atoms: a crystal at rest, best in its conventional cell. It is made exactly symmetric within the symprec first.
        settings: None: the defaults. `PHONONDB_V1` is what the phonondb benchmark of matbench-discovery computes.
        name: what cards and certificates call the potential; by default what it is made of.
        tell: called as the work goes on.

    Raises:
        ImportError: phono3py, symfc or what they need is not installed.
        ValueError: not periodic in three directions, not at rest, a potential without forces, a supercell too small for
            the cutoff or too large, a mesh without the symmetry of the crystal, a bad reference or BORN file.
        RuntimeError: a force on a displaced supercell is not finite.

    Source: A. Togo, L. Chaput, I. Tanaka, Phys. Rev. B 91, 094306 (2015), doi:10.1103/PhysRevB.91.094306.
    """
    settings = settings or ConductivitySettings()
    used = precise(potential) if settings.dtype == "float64" else potential
    if not atoms.pbc.all():
        raise ValueError(
            f"pbc is {atoms.pbc.tolist()}, and thermal conductivity is that of a crystal that repeats in three "
            "directions. Set pbc to True in all of them, or take the bulk crystal."
        )
    check_species(used.species, collate_for(used, [atoms]))
    group = space_group(atoms, settings.symprec)
    exact = ideal(atoms, group)
    exact.set_constraint()
    exact.calc = None
    reference = None if settings.reference is None else read_reference(settings.reference)
    engine = engine_of(exact, used.cutoff, settings)
    read_nac(engine, settings.nac)
    if reference is not None:
        check_modes(reference, *irreducible(engine))
    rest = rest_of(used, exact, group)
    check_rest(rest, settings.fmax, verb="conductivity", **({"name": name} if name else {}))
    found = Work.of(engine, group, settings, tell).finding(used)
    crystal = Crystal(exact, group, rest, engine)
    compared = {} if reference is None else {one.name: compare(one.transport, reference) for one in found.routes}
    return ConductivityResult.of(settings, subject(potential, name), crystal, found, compared)
