"""Judgement: whether the symmetry that a free relaxation has lost was lost to physics or to the potential."""

from tumble.descent import Walk
from tumble.jobs.relax.finding import Symmetry
from tumble.jobs.relax.noise import Gain
from tumble.jobs.relax.settings import RelaxSettings
from tumble.results import number
from tumble.units import MEV


def judged(free: Walk, symmetric: Walk, gain: Gain, settings: RelaxSettings) -> tuple[Symmetry, str]:
    """The answer and its reason.

    - symmetric: the free structure is no lower than what unfinished walks explain: forces below their limit.
    - physical: it is lower by more than `settings.physical` times the noise, in its own frame and on average over
      turned ones.
    - artefact: it is lower by less than `settings.artefact` times the noise, or no lower on average over turned frames.
    - undecided: anything else, or one of the walks has not ended at rest.
    """
    side = "below" if gain.energy > 0 else "above"
    below = f"the free structure is {number(MEV * abs(gain.energy))} meV {side} the symmetric one"
    noise = f"the noise is {number(MEV * gain.noise)} meV"
    for walk, which in ((free, "free"), (symmetric, "symmetric")):
        if not walk.is_converged:
            return "undecided", f"the {which} walk has not ended at rest: {walk.reason}"
    if gain.energy <= gain.residual + gain.rounding:
        if gain.energy < -gain.noise:
            return "symmetric", f"{below}; {noise}"
        return "symmetric", f"{below}, which forces below fmax explain ({number(MEV * gain.residual)} meV)"
    if gain.turned is not None and gain.turned <= 0:
        return "artefact", f"{below}, and {number(-MEV * gain.turned)} meV above it on average over turned frames"
    least = gain.energy if gain.turned is None else min(gain.energy, gain.turned)
    if gain.energy <= settings.artefact * gain.noise:
        return "artefact", f"{below}, and {noise}"
    if least >= settings.physical * gain.noise:
        return "physical", f"{below}, and {noise}"
    return "undecided", f"{below}, {noise}, and {number(settings.physical)} times that were expected of a distortion"
