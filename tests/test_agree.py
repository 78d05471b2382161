"""The same energy, forces and stress through every engine that is installed, to 1e-6 in eV and Å."""

import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.socketio import IPIProtocol
from ase.units import fs
from torch import Tensor

import tumble
from tumble.batch import Properties, split
from tumble.models.pair import LennardJones
from tumble.models.pet import PET
from tumble.packs import predict
from tumble.potential import Direct, Gradient, Potential, collate_for
from tumble.symmetry import Symmetrized

pytestmark = pytest.mark.engine

TOLERANCE = 1e-6
SHEAR = np.array([[1.0, 0.0, 0.0], [0.25, 1.0, 0.0], [-0.15, 0.2, 1.0]])

Ask = Callable[[Atoms], Properties]


# ----------------------------------------------------------------------------------------------- structures, potentials


def water() -> Gradient:
    return tumble.load("water", dtype="float64")  # type: ignore[return-value]


def with_direct_heads() -> Direct:
    torch.manual_seed(0)
    width = {"d_pet": 16, "d_node": 32, "d_head": 16, "d_feedforward": 16, "num_heads": 2, "num_attention_layers": 1}
    heads = {"cutoff": 3.5, "direct_forces": True, "direct_stress": True}
    return Direct(PET((1, 8), width | heads).double())


POTENTIALS: dict[str, Callable[[], Potential]] = {
    "water": water,
    "water averaged over T": lambda: tumble.symmetrize(water(), "T"),
    "Lennard-Jones": lambda: Gradient(LennardJones(0.05, {"O-O": 2.6, "H-O": 0.9, "H-H": 1.3}, cutoff=5.0)),
    "PET with direct heads": with_direct_heads,
}


def placed(n: tuple[int, int, int], spacing: float, seed: int) -> Atoms:
    """Water molecules on a grid, each turned at random."""
    random, atoms = np.random.default_rng(seed), Atoms()
    for place in np.ndindex(*n):
        one = molecule("H2O")
        one.rattle(0.03, rng=random)
        one.euler_rotate(*random.uniform(0, 360, 3), center="COM")
        one.positions += np.array(place) * spacing + 0.05 * random.normal(size=3)
        atoms += one
    atoms.set_cell(np.array(n) * spacing)
    return atoms


def structures() -> dict[str, Atoms]:
    liquid, crystal, slab = placed((2, 2, 2), 3.1, 1), placed((2, 2, 1), 3.2, 2), placed((2, 2, 1), 3.1, 3)
    liquid.pbc = True
    crystal.pbc = True
    crystal.set_cell(crystal.cell.array @ SHEAR, scale_atoms=False)
    slab.cell[2] = [0.3, -0.4, 16.0]
    slab.pbc = (True, True, False)
    return {"molecule": placed((1, 1, 1), 0.0, 4), "liquid": liquid, "crystal": crystal, "slab": slab}


STRUCTURES = structures()


@cache
def expected(name: str) -> dict[str, Properties]:
    return dict(zip(STRUCTURES, predict(POTENTIALS[name](), list(STRUCTURES.values())), strict=True))


# -------------------------------------------------------------------------------------------------------------- engines


@contextmanager
def alone(potential: Potential, folder: Path) -> Iterator[Ask]:
    """One batch of one, nothing in between."""

    def ask(atoms: Atoms) -> Properties:
        batch = collate_for(potential, [atoms])
        return split(potential(batch), batch)[0]

    yield ask


@contextmanager
def ase(potential: Potential, folder: Path) -> Iterator[Ask]:
    calculator = tumble.Calculator(potential)

    def ask(atoms: Atoms) -> Properties:
        asked = atoms.copy()
        asked.calc = calculator
        return told(asked)

    yield ask


def told(atoms: Atoms) -> Properties:
    try:
        stress = torch.as_tensor(atoms.get_stress(voigt=False))
    except PropertyNotImplementedError:
        stress = None
    return Properties(number(atoms.get_potential_energy()), torch.as_tensor(atoms.get_forces()), stress)


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


@contextmanager
def torchsim(potential: Potential, folder: Path) -> Iterator[Ask]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`(torch\.jit\.\w+|vesin\.torch)` is deprecated")
        engine = pytest.importorskip("torch_sim", reason="needs torch-sim: pip install 'tumble[torchsim]'")
    from tumble.bridges.torchsim import Model

    model = Model(potential)

    def ask(atoms: Atoms) -> Properties:
        state = engine.io.atoms_to_state([atoms, atoms], torch.device("cpu"), torch.float64)
        state.pbc = torch.as_tensor(atoms.pbc)  # as later versions keep it
        answer = model(state)
        torch.testing.assert_close(answer["forces"][: len(atoms)], answer["forces"][len(atoms) :], rtol=0, atol=1e-9)
        stress = answer["stress"][0] if atoms.pbc.any() else None
        return Properties(answer["energy"][0], answer["forces"][: len(atoms)], stress)

    yield ask


@contextmanager
def metatomic(potential: Potential, folder: Path) -> Iterator[Ask]:
    """Exported, and run by the package of metatomic for ASE."""
    for name in ("metatomic", "metatomic_ase"):
        if find_spec(name) is None:
            pytest.skip(f"needs {name}: pip install 'tumble[metatomic]'")
    from tumble.bridges.metatomic.potential import quiet

    path = tumble.export(potential, folder / "exported.pt")
    with quiet():
        from metatomic_ase import MetatomicCalculator

        direct = not potential.is_conservative
        calculator = MetatomicCalculator(str(path), device="cpu", non_conservative=direct, uncertainty_threshold=None)

        def ask(atoms: Atoms) -> Properties:
            asked = atoms.copy()
            asked.calc = calculator
            if atoms.pbc.all():
                return told(asked)
            with np.errstate(invalid="ignore", divide="ignore"):  # it divides by the volume also where there is none
                forces = torch.as_tensor(asked.get_forces())
            return Properties(number(asked.get_potential_energy()), forces, None)

        yield ask


@contextmanager
def ipi(potential: Potential, folder: Path) -> Iterator[Ask]:
    """The client of i-PI's protocol on one end of a socket, ASE's side of a server on the other."""
    from tumble.bridges.ipi import answer, triangular
    from tumble.jobs.md.engines.asked import Asked

    def ask(atoms: Atoms) -> Properties:
        turn, cell = triangular(atoms)
        with ExitStack() as stack:
            server, client = (stack.enter_context(one) for one in socket.socketpair())
            work = threading.Thread(target=answer, args=(client, Asked(potential, atoms, turn), len(atoms)))
            work.start()
            wire = IPIProtocol(server)
            found = wire.calculate(atoms.positions @ turn, cell)
            wire.end()
            work.join()
        stress = -turn @ found["virial"] @ turn.T / atoms.get_volume() if atoms.pbc.all() else None
        return Properties(
            number(found["energy"]),
            torch.as_tensor(found["forces"] @ turn.T),
            None if stress is None else torch.as_tensor(stress),
        )

    yield ask


@contextmanager
def lammps(potential: Potential, folder: Path) -> Iterator[Ask]:
    """As a fix of a LAMMPS in this process."""
    from tumble.bridges.lammps import Session, library, turn_of
    from tumble.jobs.md.engines.asked import Asked
    from tumble.jobs.md.settings import MDSettings

    try:
        library().close()
    except ImportError as error:
        pytest.skip(f"LAMMPS cannot be loaded: {error}")
    settings = MDSettings(engine="lammps", ensemble="nve", timestep_fs=1e-6)

    def ask(atoms: Atoms) -> Properties:
        """Forces are the change of momenta in a tiny step, which says that LAMMPS has used them."""
        turn, still = turn_of(atoms), atoms.copy()
        still.set_momenta(np.zeros((len(atoms), 3)))
        with Session(still, settings, [Asked(potential, still, turn)]) as session:
            session.run(1)
            energy, virial = session.energies_eV[0], session.virials[0]
            moved = session.now().velocities @ turn.T * atoms.get_masses()[:, None]
        stress = -turn @ virial @ turn.T / atoms.get_volume() if atoms.pbc.all() else None
        forces = moved / (settings.timestep_fs * fs)
        return Properties(number(energy), torch.as_tensor(forces), None if stress is None else torch.as_tensor(stress))

    yield ask


ENGINES = {one.__name__: one for one in (alone, ase, torchsim, metatomic, ipi, lammps)}


# ---------------------------------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize("potential", POTENTIALS)
@pytest.mark.parametrize("engine", ENGINES)
def test_engines_agree(engine, potential, tmp_path):
    with ENGINES[engine](POTENTIALS[potential](), tmp_path) as ask:
        for name, atoms in STRUCTURES.items():
            found, own = ask(atoms), expected(potential)[name]
            assert own.energy is not None
            assert own.forces is not None
            forces, given = own.forces, found.forces
            if engine == "metatomic" and potential == "PET with direct heads":  # it takes the net force away
                forces, given = forces - forces.mean(0), given - given.mean(0)
            close(found.energy, own.energy, f"energy of {name}")
            close(given, forces, f"forces of {name}")
            assert (own.stress is not None) == bool(atoms.pbc.any())
            if found.stress is not None:
                close(found.stress, own.stress, f"stress of {name}")
            assert found.stress is not None or not atoms.pbc.all()


def close(found, own, what: str) -> None:
    torch.testing.assert_close(found.double(), own, rtol=0, atol=TOLERANCE, msg=lambda text: f"{what}: {text}")


def test_the_potentials_are_what_they_are_called():
    assert isinstance(POTENTIALS["water averaged over T"](), Symmetrized)
    for name in POTENTIALS:
        for one in expected(name).values():
            assert one.forces is not None
            assert float(one.forces.abs().max()) > 1e-2
    raw, averaged = (expected(name)["liquid"].forces for name in ("water", "water averaged over T"))
    assert float((raw - averaged).abs().max()) > 1e-3
