"""TorchSim: many structures that move side by side, all of them in one call of the potential."""

from tumble.jobs.md.engines.torchsim.moment import Moment
from tumble.jobs.md.engines.torchsim.replicas import Replicas
from tumble.jobs.md.engines.torchsim.run import run

__all__ = ["Moment", "Replicas", "run"]
