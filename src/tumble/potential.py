"""Model: weights that turn a Batch into per-atom energies. Potential: physics, from a Batch to Properties."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, final

import torch
from ase import Atoms
from ase.data import chemical_symbols
from torch import Tensor, nn

from tumble.batch import Batch, Properties, collate, has_volume, volume

_WEIGHTS_ARE_CONSTANT: ContextVar[bool] = ContextVar("weights are constant", default=False)


def weights_are_constant() -> bool:
    """Whether whoever asks a model wants no derivative by its weights, so that it may take a faster path."""
    return _WEIGHTS_ARE_CONSTANT.get()


@contextmanager
def constant_weights(are_constant: bool) -> Iterator[None]:
    """Inside, a model is told that no derivative by its weights is wanted (see `weights_are_constant`)."""
    token = _WEIGHTS_ARE_CONSTANT.set(are_constant)
    try:
        yield
    finally:
        _WEIGHTS_ARE_CONSTANT.reset(token)


class Outputs(NamedTuple):
    """What a model says about a batch.

    energies: (N,) eV per atom, float64.
    forces:   (N, 3) eV/Å of a direct head, or None.
    stress:   (S, 3, 3) eV/Å³ of a direct head, or None.
    """

    energies: Tensor
    forces: Tensor | None = None
    stress: Tensor | None = None


class Model(nn.Module, ABC):
    """Weights: Batch → per-atom energies and optional direct heads.

    A model sees positions only through `batch.vectors`, so it is exactly invariant under translations, and so one
    derivative with respect to them gives forces and stress; one that must see more says so (`sees_positions`).
    Subclasses are final and set:

    cutoff:  Å, the radius within which it needs pairs.
    species: atomic numbers it knows, ascending; None for any.
    """

    cutoff: float
    species: tuple[int, ...] | None

    @abstractmethod
    def forward(self, batch: Batch) -> Outputs:
        """Per-atom energies and direct heads of a batch whose vectors may require a gradient."""

    def slopes(self, batch: Batch) -> tuple[Tensor, Tensor] | None:
        """Per-atom energies (N,) eV and the derivative of their sum by the vectors (P, 3).

        Differentiable again unless `weights_are_constant`. None, as here, where autograd is the fastest way to them.

        Args:
            batch: what `differentiable` returned; where weights are constant, any batch.
        """
        return None

    @property
    def sees_positions(self) -> bool:
        """Whether it also looks at positions and cells: a sum over everything, near and far, cannot do without."""
        return False

    @property
    def has_direct_forces(self) -> bool:
        """Whether `forward` gives direct forces."""
        return False

    @property
    def has_direct_heads(self) -> bool:
        """Whether `forward` gives more than energies."""
        return self.has_direct_forces

    def config(self) -> dict[str, object]:
        """What rebuilds the model without its weights: `type(model)(**model.config())`."""
        raise NotImplementedError


class Potential(nn.Module, ABC):
    """Physics: Batch → Properties. Subclasses are final: `Gradient`, `Direct`, `Sum`, `Symmetrized`, `Foreign` …

    cutoff:          Å, the radius within which pairs must be in the batch.
    species:         atomic numbers it knows, ascending; None for any.
    is_conservative: whether forces are the negative gradient of the energy.
    is_batched:      whether it answers about many structures at once, and not about one after the other.
    """

    cutoff: float
    species: tuple[int, ...] | None
    is_conservative: bool
    is_batched: bool = True

    def __init__(self) -> None:
        """A potential answers; only training puts it into training mode, where answers carry a graph."""
        super().__init__()
        self.training = False

    @abstractmethod
    def forward(self, batch: Batch) -> Properties:
        """Energy (S,) eV, forces (N, 3) eV/Å and stress (S, 3, 3) eV/Å³ of the batch, in its own frame."""

    def deviations(self, batch: Batch, *, forces: bool = False) -> Properties:
        """What is added to answers and is linear like them, and whose norm over the leading axis is their uncertainty.

        Args:
            batch: structures with their pairs.
            forces: of forces and stress too, where they are known; they take longer.

        Raises:
            ValueError: the potential does not know how uncertain it is.
        """
        raise ValueError(
            f"a {type(self).__name__} does not know how uncertain its answers are; an LLPR or an average of one was "
            "expected. Make one with `tumble uncertainty`."
        )

    def uncertainties(self, batch: Batch, *, forces: bool = False) -> Properties:
        """Standard deviations of energies (S,), forces (N, 3) and stress (S, 3, 3); arguments as for `deviations`."""
        known = self.deviations(batch, forces=forces)
        return Properties(*(None if one is None else torch.linalg.vector_norm(one, dim=0) for one in known))

    def energies_by_atom(self, batch: Batch) -> Tensor:
        """(N,) eV; they add up to the energies. See `atomic_energies`."""
        model = getattr(self, "model", None)
        if not isinstance(model, Model):
            kinds = "Gradient, Direct, LLPR, a Sum or an average of them"
            raise ValueError(f"a {type(self).__name__} has no energies of atoms; {kinds} was expected. Use one.")
        check_species(self.species, batch)
        outputs: Outputs = model(batch)
        return outputs.energies

    @property
    def has_energies_by_atom(self) -> bool:
        """Whether `energies_by_atom` gives them."""
        return isinstance(getattr(self, "model", None), Model)

    @property
    def has_uncertainty(self) -> bool:
        """Whether `uncertainties` gives those of energies."""
        return False

    @property
    def has_forces_uncertainty(self) -> bool:
        """Whether `uncertainties` gives those of forces and stress too."""
        return False

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type that batches must have; float64 for a potential without weights."""
        return next((p.dtype for p in self._floats()), torch.float64)

    @property
    def device(self) -> torch.device:
        """Where batches must be."""
        return next((p.device for p in self._floats()), torch.device("cpu"))

    def _floats(self) -> Iterable[Tensor]:
        return (p for p in self.parameters() if p.is_floating_point())


@final
class Gradient(Potential):
    """Energy of a model, with forces and stress as its exact derivatives."""

    is_conservative = True

    def __init__(self, model: Model) -> None:
        """Args:
        model: any Model; its direct heads are not used.
        """
        super().__init__()
        self.model = model
        self.cutoff, self.species = model.cutoff, model.species

    def forward(self, batch: Batch) -> Properties:
        """Energy, forces -dE/dx and stress (1/V) dE/dε. In training mode they can be differentiated again."""
        check_species(self.species, batch)
        with torch.set_grad_enabled(self.training), constant_weights(not self.training):
            seen = self._differentiable(batch) if self.training else batch
            known = self.model.slopes(seen)
            if known is not None:
                return Properties(_per_structure(known[0], batch), *_forces_and_stress(known[1], (), seen))
        return self._derived(batch)[0]

    def both(self, batch: Batch) -> tuple[Properties, Properties]:
        """Conservative answers and, from the same pass, the answers of the model's direct heads."""
        if not self.model.has_direct_heads:
            answer = self(batch)
            return answer, Properties(answer.energy, None, None)
        check_species(self.species, batch)
        return self._derived(batch)

    def _derived(self, batch: Batch) -> tuple[Properties, Properties]:
        """Answers by differentiating the energy, and those of the direct heads."""
        with torch.enable_grad(), constant_weights(not self.training):
            seen = self._differentiable(batch)
            outputs = self.model(seen)
            forces, stress = derivatives(outputs.energies.sum(), seen, create_graph=self.training)
            energy = _per_structure(outputs.energies, batch)
        if not self.training:
            energy, outputs = energy.detach(), _detached(outputs)
        return Properties(energy, forces, stress), Properties(energy, outputs.forces, outputs.stress)

    def _differentiable(self, batch: Batch) -> Batch:
        return differentiable(batch, positions=self.model.sees_positions)


@final
class Direct(Potential):
    """Energy of a model with the forces and the stress of its direct heads: fast, and not conservative."""

    is_conservative = False

    def __init__(self, model: Model) -> None:
        """Args:
        model: a Model with a direct force head.

        Raises:
            ValueError: the model has none.
        """
        super().__init__()
        if not model.has_direct_forces:
            raise ValueError(
                "this model has no direct force head, so Direct has no forces to give. "
                "Use Gradient(model), or train with direct forces."
            )
        self.model = model
        self.cutoff, self.species = model.cutoff, model.species

    def forward(self, batch: Batch) -> Properties:
        """Energy, direct forces and, where the model has such a head, direct stress."""
        check_species(self.species, batch)
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            outputs = self.model(batch)
        return Properties(_per_structure(outputs.energies, batch), outputs.forces, outputs.stress)


@final
class Sum(Potential):
    """The sum of several potentials, for instance a learned one and a short-range repulsion."""

    def __init__(self, *parts: Potential) -> None:
        """Args:
        parts: at least one potential; a field that any of them lacks is None in the sum.
        """
        super().__init__()
        if not parts:
            raise ValueError("a Sum of 0 potentials has no answer. Give at least one.")
        self.parts = nn.ModuleList(parts)
        self.cutoff = max(part.cutoff for part in parts)
        known = [set(part.species) for part in parts if part.species is not None]
        self.species = tuple(sorted(set.intersection(*known))) if known else None
        self.is_conservative = all(part.is_conservative for part in parts)
        self.is_batched = all(part.is_batched for part in parts)

    def forward(self, batch: Batch) -> Properties:
        """Sum of the parts' answers."""
        answers = [part(batch) for part in self.parts]
        columns = zip(*answers, strict=True)
        return Properties(*(None if any(f is None for f in column) else sum(column) for column in columns))

    def energies_by_atom(self, batch: Batch) -> Tensor:
        """Sum of the parts' energies of atoms."""
        return torch.stack([part.energies_by_atom(batch) for part in self.parts]).sum(0)  # type: ignore[operator]

    @property
    def has_energies_by_atom(self) -> bool:
        """Whether every part has them."""
        return all(part.has_energies_by_atom for part in self.parts)


def atomic_energies(potential: Potential, atoms: Atoms | Iterable[Atoms]) -> list[Tensor]:
    """Energy of each atom, (n,) eV on the CPU for each structure; they add up to its energy.

    Only their sum is learned: how a model divides it among the atoms is its own affair.

    Args:
        potential: one that is made of models: Gradient, Direct, LLPR, a Sum or an average of such.
        atoms: one structure or many.

    Raises:
        ValueError: another potential, an unknown element, or a structure that `collate` refuses.
    """
    structures = [atoms] if isinstance(atoms, Atoms) else atoms
    with torch.no_grad(), constant_weights(True):
        return [potential.energies_by_atom(collate_for(potential, [one])).cpu() for one in structures]


def collate_for(potential: Potential, atoms: Sequence[Atoms]) -> Batch:
    """The batch of these structures as the potential wants it: its cutoff, dtype and device."""
    return collate(atoms, potential.cutoff, dtype=potential.dtype, device=potential.device)


def check_species(species: Sequence[int] | None, batch: Batch, names: Sequence[str] | None = None) -> None:
    """Refuse a batch with an element that is not among the known ones.

    Args:
        species: atomic numbers; None for any.
        batch: any batch.
        names: what the error calls each structure; by default its index.

    Raises:
        ValueError: names the element, the structure, and what is known.
    """
    if species is None:
        return
    unknown = ~torch.isin(batch.numbers, torch.tensor(species, device=batch.numbers.device))
    if bool(unknown.any()):
        atom = int(unknown.nonzero()[0, 0])
        number, structure = int(batch.numbers[atom]), int(batch.structure[atom])
        known = ", ".join(chemical_symbols[z] for z in species)
        symbol = chemical_symbols[number] if number < len(chemical_symbols) else "?"
        raise ValueError(
            f"element {number} ({symbol}) in {names[structure] if names else f'structure {structure}'} is unknown to "
            f"this model ({known}). Remove the structure or train with {symbol}."
        )


def differentiable(batch: Batch, *, positions: bool = False) -> Batch:
    """The batch with new vectors that require a gradient, and, where a model sees them, positions and cells too."""
    batch = batch._replace(vectors=batch.vectors.detach().requires_grad_())
    if not positions:
        return batch
    return batch._replace(
        positions=batch.positions.detach().requires_grad_(), cell=batch.cell.detach().requires_grad_()
    )


def derivatives(energy: Tensor, batch: Batch, *, create_graph: bool = False) -> tuple[Tensor, Tensor]:
    """Forces -dE/dx (N, 3) eV/Å and stress (1/V) dE/dε (S, 3, 3) eV/Å³ of a sum of energies.

    Args:
        energy: () eV, computed from the batch.
        batch: what `differentiable` returned.
        create_graph: whether the answers can be differentiated again.
    """
    leaves = [one for one in (batch.vectors, batch.positions, batch.cell) if one.requires_grad]
    # An isolated atom has no pair, hence an energy without a gradient; zero is then the exact answer.
    total = energy + sum(0.0 * leaf.sum() for leaf in leaves)
    slope, *others = torch.autograd.grad(total, leaves, create_graph=create_graph)
    return _forces_and_stress(slope, others, batch if create_graph else _constant(batch))


def _forces_and_stress(slope: Tensor, others: Sequence[Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
    """Forces and stress from the derivatives by the vectors and, where a model sees them, by positions and cells."""
    forces = torch.zeros_like(batch.positions, requires_grad=False)
    forces = forces.index_add(0, batch.center, slope).index_add(0, batch.neighbor, -slope)
    virial = _outer_sum(batch.vectors, slope, batch.center, batch)
    if others:
        of_positions, of_cell = others
        forces = forces - of_positions
        atoms = torch.arange(batch.n_atoms, device=batch.positions.device)
        virial = virial + _outer_sum(batch.positions, of_positions, atoms, batch) + batch.cell.mT @ of_cell
    return forces, _stress((virial + virial.mT) / 2, batch)


def _constant(batch: Batch) -> Batch:
    """The batch without gradients."""
    return batch._replace(vectors=batch.vectors.detach(), positions=batch.positions.detach(), cell=batch.cell.detach())


def _outer_sum(left: Tensor, right: Tensor, atom: Tensor, batch: Batch) -> Tensor:
    """Sum over the rows of each structure of left times right, (S, 3, 3); each row belongs to an atom."""
    if batch.n_structures == 1:  # as one product of matrices: many times faster
        return (left.mT @ right).unsqueeze(0)
    sums = torch.zeros_like(batch.cell, requires_grad=False)
    return sums.index_add(0, batch.structure[atom], left.unsqueeze(2) * right.unsqueeze(1))


def _per_structure(energies: Tensor, batch: Batch) -> Tensor:
    total = torch.zeros(batch.n_structures, dtype=torch.float64, device=energies.device)
    return total.index_add(0, batch.structure, energies.double())


def _stress(virial: Tensor, batch: Batch) -> Tensor:
    size = torch.where(has_volume(batch), volume(batch), torch.inf).to(virial.dtype).detach()
    return virial / size[:, None, None]


def _detached(outputs: Outputs) -> Outputs:
    forces = None if outputs.forces is None else outputs.forces.detach()
    stress = None if outputs.stress is None else outputs.stress.detach()
    return Outputs(outputs.energies.detach(), forces, stress)
