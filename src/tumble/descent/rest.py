"""Whether a structure is at rest, which jobs that displace its atoms take for granted."""

import shlex
from typing import NamedTuple

import numpy as np
from ase import Atoms

from tumble.crystal import SpaceGroup
from tumble.packs import predict
from tumble.potential import Potential
from tumble.units import MEV, EV_PER_A3_TO_GPa


class Rest(NamedTuple):
    """How far a structure is from rest.

    force:      eV/Å, the norm of the force on the atom where it is largest, as far as symmetry allows it.
    atom:       index of that atom.
    stress_GPa: the largest component; None where there is no stress.
    forbidden:  eV/Å, the largest force that symmetry forbids: an error of the potential, which no relaxation that keeps
                the symmetry removes. 0 where no symmetry is known.
    """

    force: float
    atom: int
    stress_GPa: float | None
    forbidden: float = 0.0


def rest_of(potential: Potential, atoms: Atoms, group: SpaceGroup | None = None) -> Rest:
    """Largest force and stress of a structure, one call.

    Args:
        potential: any Potential.
        atoms: one structure.
        group: its space group, if what that forbids is to be told apart.

    Raises:
        ValueError: the potential gives no forces.
    """
    answer = predict(potential, atoms)[0]
    if answer.forces is None:
        raise ValueError(f"a {type(potential).__name__} gives no forces; forces were expected. Use another potential.")
    forces = answer.forces.double().numpy()
    kept, removed = (forces, np.zeros((1, 3))) if group is None else group.project_forces(forces)
    sizes = np.linalg.norm(kept, axis=1)
    stress = None if answer.stress is None else EV_PER_A3_TO_GPa * float(answer.stress.abs().max())
    return Rest(float(sizes.max()), int(sizes.argmax()), stress, float(np.linalg.norm(removed, axis=1).max()))


def check_rest(rest: Rest, limit: float, *, verb: str, name: str = "MODEL", file: str = "STRUCTURE") -> None:
    """Refuse a structure that is not at rest.

    Args:
        rest: what `rest_of` found.
        limit: eV/Å, the largest force that is allowed.
        verb: the job that needs it.
        name, file: what the command that is proposed calls the potential and the structure.

    Raises:
        ValueError: the largest force is above the limit; names it and the command to run first.
    """
    if rest.force > limit:
        command = f"tumble relax {shlex.quote(name)} {shlex.quote(file)} -o relaxed"
        raise ValueError(
            f"the structure is not relaxed: the force on atom {rest.atom} is {MEV * rest.force:.3g} meV/Å, and {verb} "
            f"expects at most {MEV * limit:.3g}. Run `{command}` first and use relaxed/atoms.extxyz, or allow it with "
            f"--fmax {rest.force:.2g}."
        )
