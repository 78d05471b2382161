"""Whether a structure is at rest, which jobs that displace its atoms take for granted."""

import shlex
from typing import NamedTuple

import numpy as np
from ase import Atoms

from tumble.packs import predict
from tumble.potential import Potential
from tumble.units import MEV, EV_PER_A3_TO_GPa


class Rest(NamedTuple):
    """How far a structure is from rest.

    force:  eV/Å, the norm of the force on the atom where it is largest.
    atom:   index of that atom.
    stress: GPa, the largest component; None where there is no stress.
    """

    force: float
    atom: int
    stress_GPa: float | None


def rest_of(potential: Potential, atoms: Atoms) -> Rest:
    """Largest force and stress of a structure, one call.

    Raises:
        ValueError: the potential gives no forces.
    """
    answer = predict(potential, atoms)[0]
    if answer.forces is None:
        raise ValueError(f"a {type(potential).__name__} gives no forces; forces were expected. Use another potential.")
    sizes = np.linalg.norm(answer.forces.double().numpy(), axis=1)
    stress = None if answer.stress is None else EV_PER_A3_TO_GPa * float(answer.stress.abs().max())
    return Rest(float(sizes.max()), int(sizes.argmax()), stress)


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
