"""A potential made of our parts as an exported model of metatomic: a TorchScript program that holds its weights."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from tumble.bridges.metatomic.potential import INPUTS, quiet
from tumble.bridges.metatomic.program.certainty import Certainty
from tumble.bridges.metatomic.program.combined import Averaged, Derived, Total
from tumble.bridges.metatomic.program.network import Network
from tumble.bridges.metatomic.program.pairs import LennardJonesPairs, MorsePairs, ZBLPairs
from tumble.extras import required
from tumble.models.pair import ZBL, LennardJones, Morse
from tumble.models.pet import LLPR, PET
from tumble.potential import Direct, Gradient, Model, Potential, Sum
from tumble.rotations import Rotations
from tumble.symmetry import Projected, Symmetrized, directly

ANY = tuple(range(1, 119))
"""Elements of a potential that takes any."""

PAPERS = {
    "implementation": ["https://arxiv.org/abs/2508.15704"],
    "architecture": ["https://arxiv.org/abs/2305.19302", "https://arxiv.org/abs/2601.16195"],
}
"""metatomic, and PET."""


class Outputs(NamedTuple):
    """What a file answers besides the energy."""

    has_forces: bool
    has_stress: bool
    has_uncertainty: bool


def write(
    potential: Potential,
    path: Path,
    *,
    minus: Potential | None = None,
    dtype: torch.dtype | None = None,
    card: Mapping[str, Any] | None = None,
) -> Path:
    """Write the program of a potential, or of the difference of two, without asking it anything.

    Args:
        potential: made of our parts.
        path: ends in .pt.
        minus: is subtracted.
        dtype: of the weights in the file; that of the potential unless given.
        card: what is known of the potential: name, authors, data, level, use, doi.

    Raises:
        ImportError: metatomic-torch is not installed.
        ValueError: a part that cannot be exported, or two potentials that have no element in common.
    """
    with quiet():
        engine = required("metatomic.torch", who="export needs", extra="metatomic")
        from tumble.bridges.metatomic.program.model import Program
    dtype = dtype or potential.dtype
    whole, outputs = _whole(potential, minus, dtype)
    known = next((one for one in potential.modules() if isinstance(one, LLPR)), None)
    certainty = Certainty(known) if outputs.has_uncertainty and known is not None else nn.Identity()
    every = [potential] if minus is None else [potential, minus]
    inputs = INPUTS if any(_is_told(model) for model in _models(every)) else {}
    program = Program(whole, certainty, max(one.cutoff for one in every), inputs).to(dtype).eval()
    able = engine.ModelCapabilities(
        outputs=_declared(engine, outputs),
        atomic_types=list(_species(every)),
        interaction_range=interaction_range(potential, minus),
        length_unit="angstrom",
        supported_devices=["cuda", "cpu"],
        dtype=str(dtype).removeprefix("torch."),
    )
    with quiet():
        engine.AtomisticModel(program, _metadata(engine, every, card or {}), able).save(str(path))
    return path


def interaction_range(potential: Potential, minus: Potential | None = None) -> float:
    """Å within which all atoms and ghosts must be, for the energies of local atoms and the direct heads to be exact.

    A force that is the derivative of energies reaches twice as far. Engines need not: they differentiate the energies
    of local atoms by the positions of ghosts too, and send these slopes home.
    """
    every = [potential] if minus is None else [potential, minus]
    reach = max(_reach(model) for model in _models(every))
    direct = direct_of(potential, minus)
    derived = () if direct is None else (one for whole in direct for one in whole.modules())
    learned = (one.model for one in derived if isinstance(one, Gradient) and isinstance(one.model, PET))
    return max([reach, *(2 * _reach(model) for model in learned)])


def _whole(potential: Potential, minus: Potential | None, dtype: torch.dtype) -> tuple[nn.Module, Outputs]:
    """The program, and what it answers."""
    direct = direct_of(potential, minus)
    every = [potential] if minus is None else [potential, minus]
    parts = [_part(one, dtype, None if direct is None else direct[k]) for k, one in enumerate(every)]
    heads = [] if direct is None else [one.model for whole in direct for one in whole.modules() if _is_direct(one)]
    has_stress = direct is not None and all(isinstance(one, PET) and one.settings.direct_stress for one in heads)
    outputs = Outputs(direct is not None, has_stress, minus is None and potential.has_uncertainty)
    return (parts[0] if minus is None else Total(parts, [1.0, -1.0])), outputs


def direct_of(potential: Potential, minus: Potential | None) -> list[Potential] | None:
    """The potentials whose forces are the direct ones of the file; None if it has no such output."""
    every = [potential] if minus is None else [potential, minus]
    if not all(one.is_conservative for one in every):
        return every
    try:
        found = [directly(one) for one in every]
    except ValueError:  # some part has no direct heads
        return None
    return None if all(one.is_conservative for one in found) else found


def _part(potential: Potential, dtype: torch.dtype, direct: Potential | None) -> nn.Module:
    """The program of a potential.

    Args:
        potential: made of our parts.
        dtype: of its weights.
        direct: the same potential, or one of its shape, as it answers directly.

    Raises:
        ValueError: something that cannot be a program.
    """
    if isinstance(potential, Sum):
        pairs = zip(potential.parts, _parts(direct, len(potential.parts)), strict=True)
        return Total([_part(one, dtype, other) for one, other in pairs], [1.0] * len(potential.parts))  # type: ignore[arg-type]
    if isinstance(potential, Symmetrized):
        if not isinstance(potential.rotations, Rotations):
            raise ValueError(
                f"the rule {potential.rotations.name} takes its rotations from each structure, which a file cannot. "
                'Average over one in the frame of the lab, such as "O" or "Ih", and export that.'
            )
        inner = getattr(direct, "inner", None)
        return Averaged(_part(potential.inner, dtype, inner), potential.rotations)
    if isinstance(potential, Gradient | Direct | LLPR):
        leaf = _leaf(potential.model, dtype)
        return leaf if direct is None or isinstance(direct, Direct) else Derived(leaf)
    if isinstance(potential, Projected):
        raise ValueError(
            "a Projected potential searches the space group of every structure, which a file cannot. "
            "Export what it projects (its `inner`)."
        )
    raise ValueError(
        f"a {type(potential).__name__} runs in an engine of its own, so there are no weights to export; a potential "
        "made of PET and pair models was expected. Export the checkpoint that it was made from."
    )


def _parts(direct: Potential | None, n: int) -> list[Potential | None]:
    return [None] * n if direct is None else list(direct.parts)  # type: ignore[arg-type]


def _leaf(model: Model, dtype: torch.dtype) -> nn.Module:
    if isinstance(model, PET):
        if model.settings.long_range.enable:
            raise ValueError(
                "this PET has long-range features, whose range is unlimited and whose sums export cannot write. "
                "Run it through tumble (ASE, i-PI, TorchSim), or train one without them."
            )
        return Network(model, dtype)
    if isinstance(model, LennardJones):
        return LennardJonesPairs(model)
    if isinstance(model, Morse):
        return MorsePairs(model)
    if isinstance(model, ZBL):
        return ZBLPairs(model)
    raise ValueError(
        f"export does not know the model {type(model).__name__}; PET, LennardJones, Morse or ZBL was expected. "
        "Run it through tumble (ASE, i-PI, TorchSim)."
    )


def _is_direct(module: nn.Module) -> bool:
    return isinstance(module, Direct)


def _is_told(model: Model) -> bool:
    """Whether it sees charge and spin multiplicity."""
    return isinstance(model, PET) and model.settings.system_conditioning


def _models(potentials: list[Potential]) -> Iterator[Model]:
    return (one for potential in potentials for one in potential.modules() if isinstance(one, Model))


def _reach(model: Model) -> float:
    return model.settings.interaction_range if isinstance(model, PET) else model.cutoff


def _species(potentials: list[Potential]) -> tuple[int, ...]:
    """Elements that all of them know.

    Raises:
        ValueError: there is none.
    """
    known = [set(one.species) for one in potentials if one.species is not None]
    shared = tuple(sorted(set.intersection(*known))) if known else ANY
    if not shared:
        raise ValueError("the two potentials have no element in common, so their difference has no structure to run.")
    return shared


def _declared(engine: Any, outputs: Outputs) -> dict[str, Any]:
    declared = {"energy": ("eV", "atom")}
    if outputs.has_uncertainty:
        declared["energy_uncertainty"] = ("eV", "atom")
    if outputs.has_forces:
        declared["non_conservative_force"] = ("eV/Angstrom", "atom")
    if outputs.has_stress:
        declared["non_conservative_stress"] = ("eV/Angstrom^3", "system")
    return {name: engine.ModelOutput(unit=unit, sample_kind=kind) for name, (unit, kind) in declared.items()}


def _metadata(engine: Any, potentials: list[Potential], card: Mapping[str, Any]) -> Any:
    """Name, authors, references and description, as far as a card knows them."""
    lines = [f"{word}: {card[word]}" for word in ("description", "data", "level", "use", "licence") if card.get(word)]
    lines.append(f"Written by tumble: {' minus '.join(map(_in_words, potentials))}.")
    papers = {kind: list(links) for kind, links in PAPERS.items()}
    if not any(isinstance(model, PET) for model in _models(potentials)):
        del papers["architecture"]
    if dois := [one.strip() for one in str(card.get("doi", "")).split(",") if one.strip()]:
        papers["model"] = [f"https://doi.org/{one}" for one in dois]
    authors = card.get("authors", ())
    return engine.ModelMetadata(
        name=str(card.get("name", "")),
        authors=[authors] if isinstance(authors, str) else [str(one) for one in authors],
        description="\n".join(lines),
        references=papers,
    )


def _in_words(potential: Potential) -> str:
    if isinstance(potential, Symmetrized):
        return f"{_in_words(potential.inner)} averaged over {potential.rotations.name}"
    if isinstance(potential, Sum):
        return " + ".join(_in_words(part) for part in potential.parts)  # type: ignore[arg-type]
    model = getattr(potential, "model", None)
    return type(potential if model is None else model).__name__
