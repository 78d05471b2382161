"""serve(): answer a server that speaks the i-PI protocol."""

from collections.abc import Callable

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from numpy.typing import NDArray

from tumble.bridges.ase import Calculator
from tumble.bridges.ipi import Address, Ask, answer, connect
from tumble.potential import Potential
from tumble.results import Progress

Floats = NDArray[np.float64]


def serve(
    potential: Potential,
    atoms: Atoms,
    *,
    address: str = "localhost",
    port: int = 31415,
    unix: str | None = None,
    virial: bool = True,
    tell: Callable[[Progress], None] = lambda progress: None,
) -> int:
    """Answer a server that speaks the i-PI protocol, such as i-PI itself, until it says goodbye, or goes.

    The server decides where atoms are, and in which frame: i-PI wants a cell whose first vector lies along x and whose
    second lies in the xy plane, and a potential that is not symmetric answers about that.

    Args:
        potential: any Potential.
        atoms: elements in the order of the server, periodicity, charge; positions do not matter.
        address: name or number of the server's machine.
        port: of the server.
        unix: name of a UNIX socket, as the server's input has it, or its whole path; None: address and port count.
        virial: whether the server learns the virial where the structure repeats in three directions; without, it must
            keep the cell as it is.
        tell: called after every answer, with their number, and at the end with how the server went.

    Returns:
        How many answers were given.

    Raises:
        ValueError: the server has another number of atoms, or a virial is asked for and the potential gives no stress.
        RuntimeError: nobody listens, or the server is gone before it took an answer.
    """
    where = Address(address, port, unix)
    ended = answer(
        connect(where),
        _ask(potential, atoms, virial and bool(atoms.pbc.all())),
        len(atoms),
        tell=lambda n: tell(Progress(n, 0, f"answers to {where}")),
    )
    said = "said goodbye" if ended.farewell else "closed the connection without a goodbye"
    tell(Progress(ended.n, ended.n, f"{where} {said}"))
    return ended.n


def _ask(potential: Potential, atoms: Atoms, has_virial: bool) -> Ask:
    """Positions (N, 3) Å and cell (3, 3) Å to energy eV, forces (N, 3) eV/Å and virial (3, 3) eV."""
    asked = atoms.copy()
    asked.calc = Calculator(potential)

    def ask(positions: Floats, cell: Floats) -> tuple[float, Floats, Floats]:
        asked.positions = positions
        if asked.pbc.any():
            asked.cell = cell
        energy, forces = asked.get_potential_energy(), asked.get_forces()
        if not has_virial:
            return energy, forces, np.zeros((3, 3))
        try:
            return energy, forces, -asked.get_volume() * asked.get_stress(voigt=False)
        except PropertyNotImplementedError:
            raise ValueError(
                f"this {type(potential).__name__} gives no stress, and servers want a virial of what repeats in three "
                "directions. If the server keeps the cell as it is, leave the virial out (--no-virial)."
            ) from None

    return ask
