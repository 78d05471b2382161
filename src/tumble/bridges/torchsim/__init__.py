"""TorchSim: any of its models as a Potential, and any Potential as one of its models; many structures in one call."""

from tumble.bridges.torchsim.foreign import TorchSim, from_spec
from tumble.bridges.torchsim.model import Model
from tumble.bridges.torchsim.verlet import Verlets

__all__ = ["Model", "TorchSim", "Verlets", "from_spec"]
