"""Live view: errors of a validation by element and by group, and the symmetry of what is said about a fixed probe."""

from collections.abc import Sequence
from typing import Final, NamedTuple, Self

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray

from tumble.batch import Batch, Properties
from tumble.data import Dataset
from tumble.jacobian import graph_of, parts, ratio_of
from tumble.jobs.train.loss import Errors
from tumble.jobs.train.settings import Phase, TrainSettings
from tumble.models.pet import PET
from tumble.orbit import moments_over
from tumble.potential import Direct, Gradient, Potential, collate_for
from tumble.rotations import Rotations
from tumble.units import MEV

Floats = NDArray[np.float64]

PROBE_RULE: Final = "T@generic"
N_PROBES: Final = 2
"""Random displacements of each structure for λ. Each costs two backward passes, one of them differentiated again."""

MOST_GROUPS: Final = 12
"""Groups that are followed one by one: those with most structures."""


class Residuals(NamedTuple):
    """Prediction minus label of S structures with N atoms in all; NaN where there is no label.

    energy:    (S,) eV per atom.
    forces:    (N, 3) eV/Å.
    stress:    (S, 3, 3) eV/Å³.
    numbers:   (N,) atomic numbers.
    structure: (N,) which of the S each atom belongs to.
    members:   (S,) positions in the dataset.
    """

    energy: Floats
    forces: Floats
    stress: Floats
    numbers: NDArray[np.int64]
    structure: NDArray[np.int64]
    members: NDArray[np.int64]

    @classmethod
    def of(cls, found: Errors, batch: Batch, members: Sequence[int]) -> Self:
        """What a batch of these members of a dataset is off by, on the CPU."""
        shapes = (batch.n_structures,), (batch.n_atoms, 3), (batch.n_structures, 3, 3)
        energy, forces, stress = (
            np.full(shape, np.nan) if error is None else error.detach().double().cpu().numpy()
            for error, shape in zip(found, shapes, strict=True)
        )
        numbers, structure = batch.numbers.cpu().numpy(), batch.structure.cpu().numpy()
        return cls(energy, forces, stress, numbers, structure, np.asarray(members, dtype=np.int64))

    @classmethod
    def join(cls, pieces: Sequence["Residuals"]) -> Self:
        """All of them, in this order; of none, those of no structure."""
        nothing = np.zeros(0, dtype=np.int64)
        empty = Residuals(np.zeros(0), np.zeros((0, 3)), np.zeros((0, 3, 3)), nothing, nothing, nothing)
        first = np.cumsum([0, *(len(one.members) for one in pieces)])
        shifted = (one._replace(structure=one.structure + n) for one, n in zip(pieces, first, strict=False))
        return cls(*(np.concatenate(column) for column in zip(empty, *shifted, strict=True)))

    def summary(self) -> dict[str, float]:
        """Mean absolute and root-mean-square errors, meV per atom, meV/Å and meV/Å³, as "forces_mae" and so on."""
        found = {}
        for name in ("energy", "forces", "stress"):
            error = getattr(self, name)
            error = error[~np.isnan(error)] * MEV
            if len(error):
                found[f"{name}_mae"] = float(np.abs(error).mean())
                found[f"{name}_rmse"] = float(np.sqrt(np.square(error).mean()))
        return found

    def by_element(self) -> dict[str, float]:
        """Mean absolute error of the force on each element, meV/Å, as "forces_mae_H"; empty where there is but one."""
        elements = np.unique(self.numbers)
        if len(elements) < 2:
            return {}
        found = {f"forces_mae_{chemical_symbols[z]}": _mae(self.forces[self.numbers == z]) for z in elements}
        return {name: value for name, value in found.items() if value is not None}

    def by_group(self, groups: Sequence[str]) -> dict[str, float]:
        """Mean absolute errors of the structures of each group, as "forces_mae@surface" and "energy_mae@surface".

        Args:
            groups: name of the group of each structure of the dataset; an empty name counts as "other".

        Returns:
            meV/Å and meV per atom, of the `MOST_GROUPS` largest groups; empty where there is but one.
        """
        names = np.array([groups[member] or "other" for member in self.members], dtype=str)
        distinct, counts = np.unique(names, return_counts=True)
        if len(distinct) < 2:
            return {}
        found = {}
        for name in distinct[np.argsort(-counts, kind="stable")][:MOST_GROUPS]:
            found[f"forces_mae@{name}"] = _mae(self.forces[(names == name)[self.structure]])
            found[f"energy_mae@{name}"] = _mae(self.energy[names == name])
        return {name: value for name, value in found.items() if value is not None}


def symmetry_of(model: PET, phase: Phase, dataset: Dataset, settings: TrainSettings) -> dict[str, float]:
    """How symmetric and how conservative a model is on the first `settings.probe` structures of a validation set.

    The rotational spread takes 12 turned copies of the probe, the force gap one call; λ, by automatic differentiation
    of the direct forces in the precision of the model, as much as about 7 calls with conservative forces.

    Args:
        model: whose answers are looked at.
        phase: says which forces they are.
        dataset: a validation set.
        settings: size of the probe, and whether λ is followed.

    Returns:
        What `spreads` returns; for a model with direct heads "force_gap", rms(direct - conservative forces) over
        rms(conservative forces), and, if asked for, "curl", the λ of the direct forces. Empty without a probe.
    """
    n = min(settings.probe, len(dataset))
    if not n:
        return {}
    few = dataset.select(range(n))
    potential = Direct(model) if phase.forces == "direct" else Gradient(model)
    found = spreads(potential, few.atoms, few.labels)
    if model.has_direct_forces:
        found["force_gap"] = force_gap(model, few.atoms)
        if settings.live.curl:
            found["curl"] = curl(model, few.atoms)
    return found


def spreads(potential: Potential, atoms: Sequence[Atoms], labels: Sequence[Properties] = ()) -> dict[str, float]:
    """Rotational spread over 12 orientations, and what part of the error it is.

    An error over orientations is that of their mean and the spread, at right angles: error² = error of the mean² +
    spread². So the ratio to the error is between 0 and 1, and its square is the part of the mean square error that
    averaging over orientations would remove.

    Args:
        potential: any Potential.
        atoms: structures.
        labels: of these, or of none of them.

    Returns:
        "forces_spread" meV/Å and "energy_spread" meV per atom, root mean squares over force components and structures;
        and, where labels are known, their ratios to the error over the same orientations, "spread_over_error" of the
        forces and "energy_spread_over_error".
    """
    batch = collate_for(potential.eval(), atoms)
    mean, spread = moments_over(potential, batch, Rotations.parse(PROBE_RULE))
    counts = torch.bincount(batch.structure).cpu()
    assert spread.energy is not None
    assert spread.forces is not None
    assert mean.energy is not None
    assert mean.forces is not None
    by_atom, by_structure = spread.forces.cpu().square() / 3, (spread.energy.cpu() / counts).square()
    found = {"forces_spread": float(by_atom.mean().sqrt()) * MEV, "energy_spread": float(by_structure.mean().sqrt())}
    found["energy_spread"] *= MEV
    forces, energies = ([getattr(one, name) for one in labels] for name in ("forces", "energy"))
    if labels and all(one is not None for one in forces):
        off = (mean.forces.cpu() - torch.cat(forces)).square().mean(1)
        found |= _share("spread_over_error", by_atom, off)
    if labels and all(one is not None for one in energies):
        off = ((mean.energy.cpu() - torch.stack(energies)) / counts).square()
        found |= _share("energy_spread_over_error", by_structure, off)
    return found


def force_gap(model: PET, atoms: Sequence[Atoms]) -> float:
    """Of a model with direct heads: rms(direct forces + dE/dx) / rms(dE/dx); 0 where nothing pulls."""
    potential = Gradient(model).eval()
    conservative, direct = potential.both(collate_for(potential, atoms))
    assert conservative.forces is not None
    assert direct.forces is not None
    size = float(conservative.forces.double().square().sum().sqrt())
    return float((direct.forces - conservative.forces).double().square().sum().sqrt()) / size if size else 0.0


def curl(model: PET, atoms: Sequence[Atoms], seed: int = 0) -> float:
    """λ = ‖J_a‖/‖J‖ of the direct forces, over all structures: 0 if they are the gradient of any energy.

    An estimate from `N_PROBES` random displacements of each structure, which are the same at every validation.
    """
    potential, random = Direct(model).eval(), np.random.default_rng(seed)
    squares = []
    for one in atoms:
        graph = graph_of(potential, collate_for(potential, [one]))
        assert graph is not None
        for _ in range(N_PROBES):
            v = random.choice([-1.0, 1.0], size=(len(one), 3))
            squares.append(parts(graph.along(v), graph.against(v)))
    anti, even = np.sum(squares, axis=0)
    return ratio_of(anti, anti + even)


def _share(name: str, spread: torch.Tensor, off: torch.Tensor) -> dict[str, float]:
    """Spread over error from their squares, where the second of them is known."""
    known = ~torch.isnan(off)
    total = float((spread + off)[known].sum())
    return {name: float(spread[known].sum() / total) ** 0.5} if total else {}


def _mae(error: Floats) -> float | None:
    """meV/Å or meV per atom; None if nothing is known."""
    known = error[~np.isnan(error)]
    return float(np.abs(known).mean()) * MEV if len(known) else None
