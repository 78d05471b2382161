"""Read the PET checkpoints that metatrain writes, without metatrain and without executing anything in them.

Source: github.com/metatensor/metatrain (BSD-3-Clause): versions 1 to 16 of its PET and 1 to 4 of its LLPR.
"""

from tumble.bridges.metatrain.checkpoints import describe, load, read
from tumble.bridges.metatrain.translate import from_state

__all__ = ["describe", "from_state", "load", "read"]
