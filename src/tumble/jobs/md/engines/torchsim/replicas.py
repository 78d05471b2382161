"""Replicas: structures that move side by side, with TorchSim's time steps and our impulses around them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any, Final, final

import numpy as np
import torch
from ase import Atoms
from ase.data import covalent_radii
from ase.units import fs, kB
from numpy.typing import NDArray
from torch import Tensor

from tumble.batch import Batch, Properties
from tumble.bridges.torchsim.engine import imported
from tumble.bridges.torchsim.verlet import Verlets
from tumble.jobs.md.settings import MDSettings
from tumble.potential import Potential, check_species, collate_for
from tumble.rotations import Rotations
from tumble.symmetry import Symmetrized, levels

State = dict[str, NDArray[Any]]

WHO: Final = "--engine torchsim needs"


@final
class Replicas:
    """Structures that move side by side: TorchSim's integrators within, and around them impulses of slower forces.

    With levels of forces f_0, f_1, ... from fast to slow, a step of level k is half a kick with f_k - f_(k-1), so many
    steps of level k - 1, and half a kick; level 0 is velocity Verlet, or BAOAB with Langevin's friction and noise, both
    of TorchSim. Positions and momenta are in float64 whatever the potential, and are never wrapped. The noise of all
    structures comes from one generator: that of one depends on which others there are, its forces do not.

    atoms:      the structures as they were given.
    potentials: of the levels, fast to slow.
    structure:  (N,) index of each atom's structure.
    numbers:    (N,) atomic numbers.
    masses:     (N,) amu.
    stride:     innermost steps that `advance` takes.
    n_steps:    innermost steps since the start.
    heat_eV:    (S,) energy that the thermostat has given.

    Source: M. Tuckerman, B. J. Berne, G. J. Martyna, J. Chem. Phys. 97, 1990 (1992); B. Leimkuhler, C. Matthews,
        Appl. Math. Res. Express 2013, 34 (2013); O. Cohen et al., TorchSim, AI Sci. 1, 025003 (2025).
    """

    def __init__(
        self, potential: Potential, structures: Sequence[Atoms], settings: MDSettings, steps: tuple[int, ...] = ()
    ) -> None:
        """Structures at their start.

        Args:
            potential: of the slowest forces, averaged already where it should be.
            structures: S of them, with momenta.
            settings: ensemble, thermostat, time step, seed.
            steps: fast steps to a slow one, from fast to slow; none for one level of forces.

        Raises:
            ImportError: torch-sim is not installed.
            ValueError: an ensemble or a thermostat that is not there; the potential is not made of so many levels; a
                structure that it refuses.
        """
        refuse(settings)
        engine = imported(WHO)
        self.atoms, self.steps, self.stride = [one.copy() for one in structures], steps, prod(steps)
        self.n_steps = 0
        self._settings, self.potentials = settings, tuple(map(_restless, levels(potential, len(steps) + 1)))
        batch = collate_for(potential, self.atoms)
        check_species(potential.species, batch)
        self._verlets = Verlets(batch, max(one.cutoff for one in self.potentials))
        self._device, self._cells = potential.device, np.stack([one.cell.array for one in self.atoms])
        self.structure: NDArray[np.int64] = batch.structure.cpu().numpy()
        self.numbers: NDArray[np.int64] = batch.numbers.cpu().numpy()
        self.masses: NDArray[np.float64] = np.concatenate([one.get_masses() for one in self.atoms])
        self.heat_eV: NDArray[np.float64] = np.zeros(len(self.atoms))
        self._noise = torch.Generator(self._device).manual_seed(settings.seed).get_state()
        self._state = self._started(engine)
        self._answers = [self._ask(level) for level in range(len(self.potentials))]
        self._state.energy, self._state.forces = self._told(0)
        self._step = _step(engine, _Fastest(self), settings)

    def advance(self) -> None:
        """One step of the slowest level.

        Raises:
            ValueError: the potential refuses where the structures have got to; they are then as they were before.
        """
        before = self._state.positions, self._state.momenta, self.n_steps, self.heat_eV.copy()
        try:
            self._advance()
        except ValueError:
            self._state.positions, self._state.momenta, self.n_steps, self.heat_eV = before
            raise

    def _advance(self) -> None:
        cuda = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(cuda), torch.no_grad():  # the engine draws from the generator of the process
            _set_noise(self._device, self._noise)
            self._climb(len(self.steps))
            self._noise = _noise(self._device)

    @property
    def positions(self) -> NDArray[np.float64]:
        """(N, 3) Å, now."""
        return _array(self._state.positions)

    @property
    def momenta(self) -> NDArray[np.float64]:
        """(N, 3) in units of ASE, now."""
        return _array(self._state.momenta)

    @property
    def answer(self) -> Properties:
        """What the slowest level says about the present moment."""
        return self._answers[-1]

    def kinetic_eV(self, momenta: Tensor | None = None) -> NDArray[np.float64]:
        """(S,) kinetic energy, now or of other momenta (N, 3)."""
        p = self.momenta if momenta is None else _array(momenta)
        return np.bincount(self.structure, np.einsum("na,na->n", p, p) / self.masses / 2).astype(np.float64)

    def tightest(self) -> int:
        """The structure in which two atoms are closest for their size; 0 where none has neighbours."""
        batch = self._now()
        if not batch.n_pairs:
            return 0
        radii = torch.as_tensor(covalent_radii, device=self._device)[batch.numbers]
        shares = torch.linalg.vector_norm(batch.vectors, dim=1) / (radii[batch.center] + radii[batch.neighbor])
        return int(batch.structure[batch.center[shares.argmin()]])

    def uncertainties(self) -> NDArray[np.float64]:
        """(S,) eV per atom, of the energy of the slowest level.

        Raises:
            ValueError: it does not know how uncertain it is.
        """
        doubt = self.potentials[-1].uncertainties(self._now()).energy
        assert doubt is not None, "an uncertainty is that of the energy"
        return doubt.double().cpu().numpy() / np.bincount(self.structure)

    def frames(self, chosen: Collection[int] | None = None) -> list[Atoms]:
        """The structures as they are now, with momenta: all of them, or those chosen, in their order."""
        starts = np.flatnonzero(np.diff(self.structure)) + 1
        found = []
        parts = np.split(self.positions, starts), np.split(self.momenta, starts)
        for index, (one, positions, momenta) in enumerate(zip(self.atoms, *parts, strict=True)):
            if chosen is not None and index not in chosen:
                continue
            moved = one.copy()
            moved.positions = positions
            moved.set_momenta(momenta, apply_constraint=False)
            found.append(moved)
        return found

    def state(self) -> State:
        """All that a restart to the same bits needs."""
        kept: State = {
            "numbers": self.numbers,
            "structure": self.structure,
            "steps": np.array(self.steps, dtype=np.int64),
            "positions": self.positions,
            "momenta": self.momenta,
            "heat_eV": self.heat_eV.copy(),
            "n_steps": np.array(self.n_steps),
            "noise": self._noise.numpy().copy(),
        }
        for level, answer in enumerate(self._answers):
            fields = answer._asdict().items()
            kept |= {f"level{level}.{name}": field.cpu().numpy() for name, field in fields if field is not None}
        return kept

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from a state of the same structures, potential and settings.

        Args:
            state: what `state` returned, or what was read from a file of it.

        Raises:
            ValueError: it is of other structures, or of other steps.
        """
        own = self.state()
        if other := [name for name in ("numbers", "structure", "steps") if not np.array_equal(state[name], own[name])]:
            raise ValueError(
                f"the restart file differs from this simulation in {' and '.join(other)}: it is of "
                f"{state['structure'].max(initial=-1) + 1} structures with {len(state['numbers'])} atoms and steps "
                f"{tuple(state['steps'].tolist())}, and {len(self.atoms)} with {len(self.structure)} and {self.steps} "
                "were given. Go on with the same ones, or start anew in another folder."
            )
        self._state.positions, self._state.momenta = (self._tensor(state[name]) for name in ("positions", "momenta"))
        self.heat_eV, self.n_steps = state["heat_eV"].copy(), int(state["n_steps"])
        self._noise = torch.from_numpy(state["noise"].copy())
        for level in range(len(self._answers)):
            fields = (state.get(f"level{level}.{name}") for name in Properties._fields)
            self._answers[level] = Properties(
                *(None if one is None else torch.from_numpy(one.copy()).to(self._device) for one in fields)
            )
        self._state.energy, self._state.forces = self._told(0)

    def _started(self, engine: Any) -> Any:
        """The state of the engine; not periodic, so that it does not wrap: what repeats, the neighbours know."""
        return engine.integrators.MDState(
            positions=self._tensor(np.concatenate([one.positions for one in self.atoms])),
            momenta=self._tensor(np.concatenate([one.get_momenta() for one in self.atoms])),
            masses=self._tensor(self.masses),
            cell=self._tensor(self._cells).mT,
            pbc=False,
            atomic_numbers=torch.as_tensor(self.numbers, device=self._device),
            system_idx=torch.as_tensor(self.structure, device=self._device),
            energy=self._tensor(np.zeros(len(self.atoms))),
            forces=self._tensor(np.zeros((len(self.structure), 3))),
        )

    def _climb(self, level: int) -> None:
        """One step of a level."""
        if level == 0:
            self._innermost()
            return
        self._kick(level)
        for _ in range(self.steps[level - 1]):
            self._climb(level - 1)
        self._answers[level] = self._ask(level)
        self._kick(level)

    def _innermost(self) -> None:
        """One step of the engine, and the heat that its thermostat gives in the middle of it.

        BAOAB is half a kick, half a flight, friction and noise, half a flight, half a kick; momenta before and after
        friction and noise are those after the first kick and before the last one.
        """
        half = self._settings.timestep_fs * fs / 2
        before = self._state.momenta + half * self._state.forces
        self._state = self._step(self._state)
        self.n_steps += 1
        if self._settings.ensemble == "nvt":
            self.heat_eV += self.kinetic_eV(self._state.momenta - half * self._state.forces) - self.kinetic_eV(before)

    def _kick(self, level: int) -> None:
        """Half an impulse of what a level has more than the one below it."""
        time = prod(self.steps[:level]) * self._settings.timestep_fs * fs
        excess = self._told(level)[1] - self._told(level - 1)[1]
        self._state.momenta = self._state.momenta + time / 2 * excess

    def _ask(self, level: int) -> Properties:
        """What a level says about the present positions."""
        return self.potentials[level](self._now())

    def _now(self) -> Batch:
        """The structures as they are now, with their pairs."""
        return self._verlets(self.positions, self._cells)

    def _told(self, level: int) -> tuple[Tensor, Tensor]:
        """Energy (S,) and forces (N, 3) of a level, in the precision of the state."""
        answer, like = self._answers[level], self._state.positions
        assert answer.energy is not None and answer.forces is not None, "a potential has energy and forces"
        return answer.energy.to(like), answer.forces.to(like)

    def _tensor(self, values: NDArray[Any]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=self._device)


@final
class _Fastest:
    """The fastest level, as a model that the engine asks in the middle of its step."""

    compute_forces, compute_stress = True, False

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas
        self.dtype, self.device = torch.float64, replicas._device

    def __call__(self, state: Any) -> dict[str, Tensor]:
        whole = self._replicas
        whole._state = state
        whole._answers[0] = whole._ask(0)
        energy, forces = whole._told(0)
        return {"energy": energy, "forces": forces}


def refuse(settings: MDSettings) -> None:
    """Refuse what the engine does not have, or has only for a single structure.

    Raises:
        ValueError: constant pressure; a thermostat other than Langevin's; random turns.
    """
    if settings.ensemble == "npt":
        raise ValueError(
            "constant pressure was asked for with the engine torchsim, whose barostat (0.3.0) follows one component of "
            "the stress instead of the pressure. Use nvt, or the engine ase, one structure at a time."
        )
    if settings.ensemble == "nvt" and settings.thermostat != "langevin":
        raise ValueError(
            f"the thermostat {settings.thermostat} was asked for with the engine torchsim, which has langevin for many "
            "structures: its chain (0.3.0) takes them for one, and it does not rescale. Use langevin, or engine ase."
        )
    if settings.turns != "none":
        raise ValueError(
            f"turns are {settings.turns} and the engine is torchsim, which turns nothing; none was expected. Leave it "
            "out, or use the engine ase."
        )


def _restless(potential: Potential) -> Potential:
    """The same potential without a search for the symmetry of structures: those that move have none worth its time."""
    if isinstance(potential, Symmetrized) and isinstance(potential.rotations, Rotations):
        return Symmetrized(_restless(potential.inner), potential.rotations, chunk=potential.chunk, prune=False)
    return potential


def _step(engine: Any, model: _Fastest, settings: MDSettings) -> Callable[[Any], Any]:
    """One innermost step: state to state."""
    has = engine.integrators
    dt, kT, gamma = (
        torch.tensor(value, dtype=model.dtype, device=model.device)
        for value in (settings.timestep_fs * fs, kB * settings.temperature_K, 1 / (settings.thermostat_fs * fs))
    )
    if settings.ensemble == "nve":
        if hasattr(has, "nve_step"):  # since 0.4
            return lambda state: has.nve_step(model=model, state=state, dt=dt)
        return partial(has.nve(model, dt=dt, kT=kT)[1])
    if hasattr(has, "nvt_langevin_step"):
        return lambda state: has.nvt_langevin_step(model=model, state=state, dt=dt, kT=kT, gamma=gamma)
    return partial(has.nvt_langevin(model, dt=dt, kT=kT, gamma=gamma)[1])


def _noise(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_noise(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


def _array(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.detach().cpu().numpy()
