"""The package itself, imported when it is first needed and quietly."""

import warnings
from typing import Any


def imported(who: str = "a TorchSim model needs") -> Any:
    """The module `torch_sim`.

    Args:
        who: what needs it and that it does, for the error.

    Raises:
        ImportError: torch-sim is not installed.
    """
    try:
        with warnings.catch_warnings():
            # What torch and vesin tell those who write such packages.
            warnings.filterwarnings("ignore", message=r"`(torch\.jit\.\w+|vesin\.torch)` is (deprecated|not supported)")
            import torch_sim
            import torch_sim.integrators
            import torch_sim.models.interface
    except ImportError as error:
        raise ImportError(f"{who} torch-sim ({error}). Run pip install 'tumble[torchsim]'.") from None
    return torch_sim
