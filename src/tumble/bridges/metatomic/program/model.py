"""What metatomic calls: systems in, tensor maps out. For whoever has metatomic-torch: see `write`."""

# mypy: disable-error-code="no-untyped-call, no-any-return, operator"

from typing import Dict, List, Optional, Tuple  # noqa: UP035  (TorchScript reads these)

import torch
from torch import Tensor, nn

from tumble.bridges.metatomic.program.seen import Seen, per_structure

try:  # TorchScript looks names up where a program is defined, so that they cannot be imported any later
    from metatensor.torch import Labels, TensorBlock, TensorMap
    from metatomic.torch import ModelOutput, NeighborListOptions, System
except ImportError:
    Labels = TensorBlock = TensorMap = ModelOutput = NeighborListOptions = System = object


class Program(nn.Module):
    """A whole potential as the module of an `AtomisticModel`."""

    options: NeighborListOptions
    inputs: Dict[str, str]  # noqa: UP006

    def __init__(self, whole: nn.Module, certainty: nn.Module, cutoff: float, inputs: Dict[str, str]) -> None:  # noqa: UP006
        """Args:
        whole: the potential, made of the parts of this folder.
        certainty: a `Certainty`, or anything where there is none.
        cutoff: Å.
        inputs: units of what must be known of a structure besides its atoms, by name.
        """
        super().__init__()
        self.whole, self.certainty, self.inputs = whole, certainty, inputs
        self.options = NeighborListOptions(cutoff=cutoff, full_list=True, strict=False, requestor="tumble")

    def requested_neighbor_lists(self) -> List[NeighborListOptions]:  # noqa: UP006
        """All pairs within the cutoff, each in both directions."""
        return [self.options]

    def requested_inputs(self) -> Dict[str, ModelOutput]:  # noqa: UP006
        """Charge and spin multiplicity, if the network sees them."""
        wanted: Dict[str, ModelOutput] = {}  # noqa: UP006
        for name, unit in self.inputs.items():
            wanted[name] = ModelOutput(unit=unit, sample_kind="system")
        return wanted

    def forward(
        self,
        systems: List[System],  # noqa: UP006
        outputs: Dict[str, ModelOutput],  # noqa: UP006
        selected_atoms: Optional[Labels],  # noqa: UP045
    ) -> Dict[str, TensorMap]:  # noqa: UP006
        """The outputs that are asked for, of all atoms or of the selected ones."""
        answers: Dict[str, TensorMap] = {}  # noqa: UP006
        if len(outputs) == 0 or len(systems) == 0:
            return answers
        is_whole = True
        for name, output in outputs.items():
            if name == "energy" and output.sample_kind == "atom":
                is_whole = False
        samples, place = self.atoms(systems, selected_atoms)
        seen = self.seen(systems, place, is_whole)
        has_direct = "non_conservative_force" in outputs or "non_conservative_stress" in outputs
        said = self.whole(seen, has_direct, "energy_uncertainty" in outputs)
        energies = said.energies + tie(systems)
        dtype = systems[0].positions.dtype
        index = torch.arange(len(systems), device=samples.device).reshape(-1, 1).to(torch.int32)
        of_structures = Labels(["system"], index, assume_unique=True)
        of_atoms = Labels(["system", "atom"], samples, assume_unique=True)
        for name, output in outputs.items():
            by_atom = output.sample_kind == "atom"
            labels = of_atoms if by_atom else of_structures
            if name == "energy":
                values = energies[place] if by_atom else per_structure(energies, seen)
                answers[name] = block(values.to(dtype)[:, None], labels, name, 0)
            elif name == "energy_uncertainty":
                rows = said.features * seen.counts[:, None]
                rows = rows[place] if by_atom else per_structure(rows, seen)
                answers[name] = block(self.certainty(rows).to(dtype)[:, None], labels, "energy", 0)
            elif name == "non_conservative_force":
                answers[name] = block(said.forces[place].to(dtype)[:, :, None], of_atoms, name, 1)
            elif name == "non_conservative_stress":
                answers[name] = block(said.stress.to(dtype)[:, :, :, None], of_structures, name, 2)
        return answers

    def atoms(self, systems: List[System], selected: Optional[Labels]) -> Tuple[Tensor, Tensor]:  # noqa: UP006, UP045
        """System and atom of those that are asked about, (n, 2), and where they are among all atoms, (n,)."""
        rows: List[Tensor] = []  # noqa: UP006
        starts: List[int] = []  # noqa: UP006
        first = 0
        for index in range(len(systems)):
            n = len(systems[index])
            atom = torch.arange(n, device=systems[index].device)
            rows.append(torch.stack([torch.full_like(atom, index), atom], 1))
            starts.append(first)
            first += n
        every = torch.cat(rows).to(torch.int32)
        if selected is None:
            return every, torch.arange(first, device=every.device)
        samples = selected.values
        start = torch.tensor(starts, device=every.device)
        return samples, start[samples[:, 0].long()] + samples[:, 1].long()

    def seen(self, systems: List[System], place: Tensor, is_whole: bool) -> Seen:  # noqa: UP006
        """The systems as one batch; their pairs have the order of their centers, and know their reverse."""
        vectors: List[Tensor] = []  # noqa: UP006
        ends: List[Tensor] = []  # noqa: UP006
        numbers: List[Tensor] = []  # noqa: UP006
        owners: List[Tensor] = []  # noqa: UP006
        volumes: List[Tensor] = []  # noqa: UP006
        n_atoms = 0
        for index in range(len(systems)):
            system = systems[index]
            pairs = system.get_neighbor_list(self.options)
            samples = pairs.samples.values.long()
            samples = torch.cat([samples[:, :2] + n_atoms, samples[:, 2:]], dim=1)
            vectors.append(pairs.values[:, :, 0])
            ends.append(samples)
            numbers.append(system.types.long())
            owners.append(torch.full_like(numbers[index], index))
            volumes.append(volume(system))
            n_atoms += len(system)
        every, apart, reverse = ordered(torch.cat(ends), torch.cat(vectors), n_atoms)
        counts = torch.zeros(n_atoms, dtype=torch.float64, device=place.device).index_fill(0, place, 1.0)
        charge, multiplicity = self.told(systems, "charge", 0), self.told(systems, "spin_multiplicity", 1)
        return Seen(
            apart,
            every[:, 0],
            every[:, 1],
            reverse,
            torch.cat(owners),
            torch.cat(numbers),
            counts,
            charge,
            multiplicity,
            torch.stack(volumes),
            is_whole,
        )

    def told(self, systems: List[System], name: str, usual: int) -> Tensor:  # noqa: UP006
        """A whole number about each structure, (S,)."""
        values: List[Tensor] = []  # noqa: UP006
        for system in systems:
            value = torch.full((1,), usual, device=system.device)
            if name in self.inputs:
                given = system.get_data(name).block().values.reshape(-1)
                value = torch.round(given).long()
                if bool((given != value).any()):
                    raise ValueError("the charge and the spin multiplicity of a structure must be whole numbers")
            values.append(value)
        return torch.cat(values)


def tie(systems: List[System]) -> Tensor:  # noqa: UP006
    """Zeros, (N,), that know positions: engines differentiate energies even where there is no pair to depend on."""
    zeros: List[Tensor] = []  # noqa: UP006
    for system in systems:
        zeros.append(0.0 * system.positions.double().sum(1))
    return torch.cat(zeros)


def volume(system: System) -> Tensor:
    """Volume of the cell, () Å³; infinite if it spans none."""
    a, b, c = system.cell.detach().double().unbind(0)
    size = (torch.linalg.cross(a, b) * c).sum().abs()
    return torch.where(size > 1e-3, size, torch.full_like(size, float("inf")))


def ordered(ends: Tensor, vectors: Tensor, n_atoms: int) -> Tuple[Tensor, Tensor, Tensor]:  # noqa: UP006
    """Pairs in the order of their centers, each in both directions, and the place of the reverse of each.

    Between images of ghosts LAMMPS lists some pairs in one direction only, and at the cutoff rounding may: what lacks
    is added.

    Args:
        ends: (P, 5) center, neighbor and cell shifts.
        vectors: (P, 3) Å.
        n_atoms: in all.
    """
    if len(ends) == 0:
        return ends, vectors, torch.zeros(0, dtype=torch.int64, device=ends.device)
    most = int(ends[:, 2:].abs().max())
    lacks = ~torch.isin(key(reversed_pairs(ends), n_atoms, most), key(ends, n_atoms, most))
    if bool(lacks.any()):
        ends, vectors = torch.cat([ends, reversed_pairs(ends[lacks])]), torch.cat([vectors, -vectors[lacks]])
    keys, order = key(ends, n_atoms, most).sort()
    ends = ends[order]
    return ends, vectors.index_select(0, order), torch.searchsorted(keys, key(reversed_pairs(ends), n_atoms, most))


def reversed_pairs(ends: Tensor) -> Tensor:
    """The same pairs from their other ends, (P, 5)."""
    return torch.cat([ends[:, 1:2], ends[:, :1], -ends[:, 2:]], dim=1)


def key(ends: Tensor, n_atoms: int, most: int) -> Tensor:
    """One number for each pair, ascending with its center, (P,)."""
    n, base = n_atoms, 2 * most + 1
    center, neighbor, a, b, c = ends.unbind(1)
    return (((center * n + neighbor) * base + a + most) * base + b + most) * base + c + most


def block(values: Tensor, samples: Labels, name: str, n_components: int) -> TensorMap:
    """Values (n, ..., 1) as a tensor map with one block."""
    zero = torch.zeros((1, 1), dtype=torch.int32, device=values.device)
    axes = torch.arange(3, dtype=torch.int32, device=values.device)[:, None]
    components: List[Labels] = []  # noqa: UP006
    if n_components == 1:
        components.append(Labels(["xyz"], axes))
    if n_components == 2:
        components.append(Labels(["xyz_1"], axes))
        components.append(Labels(["xyz_2"], axes))
    only = TensorBlock(values, samples, components, Labels([name], zero))
    return TensorMap(Labels(["_"], zero), [only])
