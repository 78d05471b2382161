"""How sure a PET is of its energies and forces, from the features that its last layer sees."""

from tumble.models.pet.uncertainty.llpr import LLPR
from tumble.models.pet.uncertainty.slopes import Slopes, slopes_of
from tumble.models.pet.uncertainty.training import Rows, trained

__all__ = ["LLPR", "Rows", "Slopes", "slopes_of", "trained"]
