"""Levels: cheap and accurate forces of one potential, fast to slow, for multiple time steps."""

from tumble.models.pet import LLPR, PET
from tumble.potential import Direct, Gradient, Potential, Sum
from tumble.symmetry.averaged import Symmetrized
from tumble.symmetry.projected import Projected


def directly(potential: Potential) -> Potential:
    """The same weights, answering with their direct heads; parts without a learned model stay what they are.

    Raises:
        ValueError: a potential that has none.
    """
    if not potential.is_conservative:
        return potential
    if isinstance(potential, Gradient) and not isinstance(potential.model, PET):
        return potential
    if isinstance(potential, Gradient | LLPR):
        return Direct(potential.model)
    if isinstance(potential, Sum):
        return Sum(*(directly(part) for part in potential.parts))  # type: ignore[arg-type]
    if isinstance(potential, Symmetrized):
        inner = directly(potential.inner)
        return Symmetrized(inner, potential.rotations, chunk=potential.chunk, prune=potential.prune)
    if isinstance(potential, Projected):
        return Projected(directly(potential.inner), potential.tolerance)
    raise ValueError(f"a {type(potential).__name__} has no direct heads. Load it with direct=False.")


def levels(potential: Potential, n: int = 2) -> tuple[Potential, ...]:
    """Potentials that share weights, fast to slow; the last one is the potential itself.

    Two: the raw potential | the averaged or projected one; or its direct heads | the derivative of its energy.
    Three: direct heads | the derivative | the averaged or projected one.

    Args:
        potential: what the slowest level answers.
        n: how many levels; 1 is the potential alone.

    Raises:
        ValueError: the potential is not made of so many.
    """
    found = [potential]
    while isinstance(found[0], Symmetrized | Projected):
        found.insert(0, found[0].inner)
    found = [found[0], *found[-1:]] if len(found) > 1 else found  # averaged and projected at once is one level
    has_heads = _has_direct_heads(found[0])
    if len(found) < n and has_heads:
        found.insert(0, directly(found[0]))
    if n < 1 or len(found) < n:
        heads = "with" if has_heads else "without"
        raise ValueError(
            f"{n} levels of forces were asked for, and a {type(potential).__name__} {heads} direct heads has "
            f"{len(found)}. Average it over rotations, use a model with direct heads, or ask for fewer."
        )
    return (*found[-n:],)


def _has_direct_heads(potential: Potential) -> bool:
    """Whether faster forces are to be had from the same weights."""
    if isinstance(potential, Sum):
        return any(_has_direct_heads(part) for part in potential.parts)  # type: ignore[arg-type]
    return isinstance(potential, Gradient | LLPR) and potential.model.has_direct_forces
