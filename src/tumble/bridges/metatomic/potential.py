"""metatomic: an exported model, a TorchScript file .pt, as a Potential.

Source: the interface of metatomic-torch 0.1 (github.com/metatensor/metatomic).
"""

import hashlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import torch
from ase.data import chemical_symbols
from torch import Tensor

from tumble.batch import UNCLEAR, Batch, Properties, has_volume, volume
from tumble.potential import Potential, check_species

DTYPES = {"float32": torch.float32, "float64": torch.float64}

ENERGY, FORCES, STRESS = (
    ("energy",),
    ("non_conservative_force", "non_conservative_forces"),
    ("non_conservative_stress",),
)
"""Names of outputs, the present one before the deprecated one."""

UNITS = {"energy": "eV", "forces": "eV/Angstrom", "stress": "eV/Angstrom^3"}

INPUTS = {"charge": "e", "spin_multiplicity": ""}
"""What a batch can tell about a structure besides its atoms, with units."""

SHIFTS = ["first_atom", "second_atom", "cell_shift_a", "cell_shift_b", "cell_shift_c"]


@final
class Metatomic(Potential):
    """The energy of an exported model with its exact derivatives, or with the forces and stress of its direct heads.

    The file is a program: TorchScript runs it, and the libraries of the extensions that it names. It is evaluated, not
    trained, and saved by reference: a potential file that holds it names its path and digest.
    """

    def __init__(self, path: str | Path, *, variant: str | None = None, direct: bool = False) -> None:
        """A file that `mtt export` or another metatomic exporter wrote.

        Args:
            path: ends in .pt.
            variant: of the outputs, "pbe" for "energy/pbe"; None: the plain one, else the only one.
            direct: forces and stress of the heads `non_conservative_force` and `non_conservative_stress`.

        Raises:
            ImportError: metatomic-torch is not installed.
            ValueError: not such a file; no energy; no such variant or head; an input that no batch has.
        """
        super().__init__()
        self.path, self.variant, self.is_conservative = Path(path).resolve(), variant, not direct
        # Kept out of the modules: its weights belong to the file, not to the state of this potential.
        self._engine = (_opened(self.path).requires_grad_(False),)
        able = self._engine[0].capabilities()
        self.species = tuple(sorted(int(z) for z in able.atomic_types))
        self._lists = self._engine[0].requested_neighbor_lists()
        self.cutoff = max((float(one.engine_cutoff("angstrom")) for one in self._lists), default=0.0)
        self._inputs = sorted(self._engine[0].requested_inputs(use_new_names=True))
        if unknown := sorted(set(self._inputs) - set(INPUTS)):
            raise ValueError(
                f"{path} needs the input {', '.join(unknown)}, which a batch does not have; at most "
                f"{' and '.join(INPUTS)} were expected. Run it through the ASE calculator of its own package."
            )
        self._outputs = {"energy": _chosen(path, able.outputs, ENERGY, variant)}
        if direct:
            self._outputs["forces"] = _chosen(path, able.outputs, FORCES, variant)
            if stress := _found(able.outputs, STRESS, variant):
                self._outputs["stress"] = stress
        # Where they would be rounded, energies per atom are added here, in float64, if a model has them.
        kind = able.outputs[self._outputs["energy"]].sample_kind if able.dtype == "float32" else "system"
        self._kinds = {"energy": kind, "forces": "atom"}
        self.register_buffer("_place", torch.empty(0, dtype=DTYPES[able.dtype]), persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        """That of the file, unless moved to another."""
        return self._buffers["_place"].dtype  # type: ignore[union-attr]

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self._buffers["_place"].device  # type: ignore[union-attr]

    def forward(self, batch: Batch) -> Properties:
        """Energy, and -dE/dx and (1/V) dE/dε, or the answers of the direct heads."""
        check_species(self.species, batch)
        if not self.is_conservative:
            with torch.no_grad():
                answer = self._ask(batch, batch.positions, batch.cell)
            return Properties(answer["energy"], answer["forces"], answer.get("stress"))
        with torch.enable_grad():
            positions = batch.positions.detach().requires_grad_()
            strain = torch.zeros_like(batch.cell).requires_grad_()
            moved = positions + torch.einsum("na,nab->nb", positions, strain[batch.structure])
            energy = self._ask(batch, moved, batch.cell + batch.cell @ strain)["energy"]
            # An isolated atom may have an energy without a gradient; zero is then the exact answer.
            slope, virial = torch.autograd.grad(
                energy.sum() + 0.0 * (positions.sum() + strain.sum()), (positions, strain)
            )
        size = torch.where(has_volume(batch), volume(batch), torch.inf).to(virial)
        return Properties(energy.detach(), -slope, (virial + virial.mT) / (2 * size[:, None, None]))

    @property
    def reference(self) -> dict[str, Any]:
        """What `from_reference` needs to make it again: path, digest, variant, whether it is direct."""
        made_of = {"variant": self.variant, "direct": not self.is_conservative}
        return {"path": str(self.path), "sha256": digest(self.path), **made_of}

    def extra_repr(self) -> str:
        """File and chosen outputs."""
        return f"{self.path.name}: {', '.join(self._outputs.values())}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Metatomic":
        super()._apply(fn, recurse)
        self._engine[0].to(dtype=self.dtype, device=self.device)
        return self

    def _ask(self, batch: Batch, positions: Tensor, cell: Tensor) -> dict[str, Tensor]:
        """The chosen outputs: energy (S,) float64, forces (N, 3), stress (S, 3, 3)."""
        engine = _imported()
        wanted = {
            name: engine.ModelOutput(unit=UNITS[ours], sample_kind=self._kinds.get(ours, "system"))
            for ours, name in self._outputs.items()
        }
        options = engine.ModelEvaluationOptions(length_unit="angstrom", outputs=wanted, selected_atoms=None)
        systems = list(self._systems(batch, positions, cell))
        with quiet():
            found = self._engine[0](systems, options, check_consistency=False)
        answer = {ours: _values(found[name], batch) for ours, name in self._outputs.items()}
        answer["energy"] = answer["energy"].reshape(-1).double()
        if self._kinds["energy"] == "atom":
            zero = torch.zeros(batch.n_structures, dtype=torch.float64, device=self.device)
            answer["energy"] = zero.index_add(0, batch.structure, answer["energy"])
        if "forces" in answer:
            answer["forces"] = answer["forces"].reshape(-1, 3)
        if "stress" in answer:
            spans, stress = has_volume(batch)[:, None, None], answer["stress"].reshape(-1, 3, 3)
            answer["stress"] = torch.where(spans, (stress + stress.mT) / 2, torch.zeros_like(cell))
        return answer

    def _systems(self, batch: Batch, positions: Tensor, cell: Tensor) -> Iterator[Any]:
        """Structures as the engine wants them, with our pairs and what the model asks to know of each."""
        engine = _imported()
        vectors = positions[batch.neighbor] - positions[batch.center]
        owner = batch.structure[batch.center]
        vectors = vectors + torch.einsum("pa,pab->pb", batch.shift, cell[owner])
        atoms = torch.bincount(batch.structure, minlength=batch.n_structures).cumsum(0).tolist()
        pairs = torch.bincount(owner, minlength=batch.n_structures).cumsum(0).tolist()
        cell = torch.where(batch.pbc[:, :, None], cell, torch.zeros_like(cell))
        starts = zip([0, *atoms], [0, *pairs], atoms, pairs, strict=False)
        for index, (first, first_pair, last, last_pair) in enumerate(starts):
            system = engine.System(
                batch.numbers[first:last].to(torch.int32), positions[first:last], cell[index], batch.pbc[index]
            )
            mine = slice(first_pair, last_pair)
            once = torch.arange(first_pair, last_pair, device=owner.device) < batch.reverse[mine]
            ends = torch.stack((batch.center[mine] - first, batch.neighbor[mine] - first), 1)
            samples = torch.cat((ends, batch.shift[mine].round().long()), 1).to(torch.int32)
            for wanted in self._lists:
                near = vectors[mine].detach().norm(dim=1) <= wanted.engine_cutoff("angstrom")
                keep = near if wanted.full_list else near & once
                system.add_neighbor_list(wanted, _pair_block(samples[keep], vectors[mine][keep]))
            for name in self._inputs:
                value = batch.charge[index] if name == "charge" else batch.multiplicity[index]
                if bool(value == UNCLEAR):
                    raise ValueError(
                        f"the {name} of structure {index} is not a whole number, which this model needs. "
                        "Correct it in atoms.info."
                    )
                system.add_data(name, _system_data(name, value.to(positions.dtype)))
            yield system


def describe(path: str | Path) -> dict[str, Any]:
    """What an exported file says of itself: name, outputs with units, species, cutoffs, interaction range, references.

    Raises:
        ImportError: metatomic-torch is not installed.
        ValueError: not such a file.
    """
    model = _opened(Path(path))
    able, meta = model.capabilities(), model.metadata()
    lists = [one.engine_cutoff("angstrom") for one in model.requested_neighbor_lists()]
    reach = float(able.engine_interaction_range("angstrom"))
    return {
        "kind": "metatomic model (TorchScript)",
        "name": meta.name,
        "description": meta.description,
        "authors": list(meta.authors),
        "references": {kind: list(entries) for kind, entries in meta.references.items()},
        "species": " ".join(chemical_symbols[z] for z in sorted(able.atomic_types)),
        "outputs": {name: one.unit for name, one in able.outputs.items()},
        "variants": sorted(name.removeprefix("energy/") for name in able.outputs if name.startswith("energy/")),
        "inputs": sorted(model.requested_inputs(use_new_names=True)),
        "cutoffs_A": sorted(float(one) for one in lists),
        "interaction_range_A": reach if math.isfinite(reach) else "unlimited",  # JSON has no infinity
        "dtype": able.dtype,
        "n_parameters": sum(one.numel() for one in model.parameters()),
    }


def from_reference(reference: Mapping[str, Any]) -> Metatomic:
    """The potential that a saved file names by path, digest, variant and whether it is direct.

    Raises:
        ValueError: the file is gone, or is not what it was.
    """
    path = Path(reference["path"])
    if not path.is_file():
        raise ValueError(
            f"the potential refers to {path}, which is gone. Put the exported model back, or save it again."
        )
    if (found := digest(path)) != reference["sha256"]:
        raise ValueError(
            f"{path} has the digest {found[:12]}…, {reference['sha256'][:12]}… was expected: it is not the file that "
            "the potential was saved with. Put that one back, or save the potential again."
        )
    return Metatomic(path, variant=reference["variant"], direct=reference["direct"])


def _opened(path: Path) -> Any:
    engine = _imported()
    try:
        with quiet():
            return engine.load_atomistic_model(str(path))
    except (RuntimeError, ValueError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read as an exported metatomic model ({str(error).splitlines()[0]}). "
            "Export the checkpoint again, or name the .ckpt itself."
        ) from None


def _imported() -> Any:
    try:
        with quiet():
            import metatomic.torch
    except ImportError as error:
        raise ImportError(
            f"a .pt file needs metatomic-torch ({error}). Run pip install 'tumble[metatomic]', or load the .ckpt."
        ) from None
    return metatomic.torch


@contextmanager
def quiet() -> Iterator[None]:
    """Hides that torch.jit, or a name in the file, is deprecated: who uses an exported file cannot change that."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"the '[\w/]+' (output|input) name is deprecated")
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is (deprecated|not supported)")
        yield


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _found(outputs: Mapping[str, Any], names: Sequence[str], variant: str | None) -> str | None:
    """The output of one of these names: the variant asked for, or the plain one, or the only variant."""
    for name in names:
        variants = [one for one in outputs if one.startswith(f"{name}/")]
        if variant is not None and f"{name}/{variant}" in variants:
            return f"{name}/{variant}"
        if variant is None and name in outputs:
            return name
        if variant is None and len(variants) == 1:
            return variants[0]
    return None


def _chosen(path: str | Path, outputs: Mapping[str, Any], names: Sequence[str], variant: str | None) -> str:
    """The same, and it must be there."""
    if found := _found(outputs, names, variant):
        return found
    there = ", ".join(one for one in outputs if one.split("/")[0] in names)
    if there and variant is None:
        raise ValueError(f"{path} has several outputs {names[0]!r}: {there}. Choose one by its variant.")
    asked = names[0] if variant is None else f"{names[0]}/{variant}"
    raise ValueError(
        f"{path} has no output {asked!r}; of that kind it has {there or 'none'}. Name another variant"
        + (", or load it with direct=False." if names is FORCES else ".")
    )


def _pair_block(samples: Tensor, vectors: Tensor) -> Any:
    from metatensor.torch import Labels, TensorBlock

    counted = torch.arange(3, dtype=torch.int32, device=vectors.device)[:, None]
    return TensorBlock(
        values=vectors[:, :, None],
        samples=Labels(SHIFTS, samples, assume_unique=True),
        components=[Labels(["xyz"], counted)],
        properties=Labels(["distance"], counted[:1]),
    )


def _system_data(name: str, value: Tensor) -> Any:
    from metatensor.torch import Labels, TensorBlock, TensorMap

    zero = torch.zeros((1, 1), dtype=torch.int32, device=value.device)
    block = TensorBlock(value.reshape(1, 1), Labels(["system"], zero), [], Labels([name], zero))
    data = TensorMap(Labels(["_"], zero), [block])
    data.set_info("unit", INPUTS[name])
    return data


def _values(found: Any, batch: Batch) -> Tensor:
    """Values of an output in the order of the batch."""
    block = found.block()
    samples = block.samples
    if "atom" in samples.names:
        starts = torch.searchsorted(batch.structure, torch.arange(batch.n_structures, device=batch.structure.device))
        place = starts[samples.column("system").long()] + samples.column("atom").long()
    else:
        place = samples.column("system").long()
    return torch.empty_like(block.values).index_copy(0, place, block.values)
