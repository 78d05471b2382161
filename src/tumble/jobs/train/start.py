"""The saved PET that a training starts from, made ready for what the recipe wants of it."""

from collections.abc import Iterable

from ase.data import chemical_symbols

from tumble import checkpoint
from tumble.jobs.train.settings import TrainSettings
from tumble.models.pet import LLPR, PET, add_lora, with_direct, with_species
from tumble.potential import Direct, Gradient, Sum


def trainable(settings: TrainSettings, species: Iterable[int], *, needs_direct: bool) -> PET:
    """The start, with all weights free to move but for the matrices under LoRA.

    Elements and direct heads that it lacks are new: random, until they are trained.

    Args:
        settings: a recipe with a start.
        species: atomic numbers in the data.
        needs_direct: whether a phase learns direct forces.

    Raises:
        ValueError: no single PET; elements that it does not know and shall not learn; a rank that LoRA cannot have.
    """
    assert settings.start is not None
    model = _pet(settings.start).requires_grad_(True)
    if unknown := sorted(set(map(int, species)) - set(model.species)):
        if not settings.add_elements:
            raise ValueError(
                f"the data contains {_symbols(unknown)}, which {settings.start} does not know "
                f"({_symbols(model.species)}). Set add_elements to true, or remove these structures."
            )
        model = with_species(model, unknown)
    if needs_direct and not model.has_direct_forces:
        model = with_direct(model, stress="stress" in settings.targets)
    if settings.lora.rank:
        add_lora(model, settings.lora.rank, settings.lora.alpha)
    return model


def _pet(name: str) -> PET:
    potential = checkpoint.load(name)
    if isinstance(potential, Gradient | Direct | LLPR) and isinstance(potential.model, PET):
        return potential.model
    kinds = f"a {type(potential).__name__}"
    remedy = "Name a file with a PET"
    if isinstance(potential, Sum):
        kinds += f" of {' and '.join(type(getattr(part, 'model', part)).__name__ for part in potential.parts)}"
        remedy = "Save the PET in its parts by itself, take the other parts off the labels"
    elif isinstance(getattr(potential, "inner", None), Gradient | Direct | LLPR):
        remedy = "Save the potential in its inner by itself, train that, and symmetrize the result"
    raise ValueError(
        f"start: {name} is {kinds}; a single PET was expected, for labels teach no other weights. {remedy}."
    )


def _symbols(species: Iterable[int]) -> str:
    return ", ".join(chemical_symbols[z] for z in species)
