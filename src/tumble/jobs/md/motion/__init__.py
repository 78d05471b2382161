"""Motion: a structure that moves, with what it needs to be stopped at any moment and to go on to the same bits."""

from tumble.jobs.md.motion.instant import Instant, degrees_of_freedom
from tumble.jobs.md.motion.motion import Motion
from tumble.jobs.md.motion.start import concerns, start

__all__ = ["Instant", "Motion", "concerns", "degrees_of_freedom", "start"]
