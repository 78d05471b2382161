"""The engines that are compared, each as an ASE calculator. Nothing is imported before it is asked for."""

import os
from collections.abc import Callable
from typing import Any, Final

INSTALL: Final = {
    "mace": "pip install torch==2.13.0 e3nn==0.4.4 mace-torch, into an environment of its own; --peer-python names it",
    "orb": "pip install torch==2.13.0 orb-models, into an environment of its own; --peer-python names it",
    "metatomic": "pip install metatrain 'tumble[metatomic]'",
}


class Missing(Exception):  # noqa: N818  (no error: the engine is left out)
    """An engine cannot be had; the text says what is needed."""


PEERS: Final = ("mace", "orb")
"""Engines with random weights of their own, which run in the peers' Python."""

TURNED: Final = 12
"""Copies of a structure that metatomic-ase turns and evaluates at once; all 84 of its default need tens of GB."""

CUTOFF: Final = 6.0
"""Å, of the peers with weights of their own."""


def tumble(stem: str, device: str, rule: str = "") -> Any:
    """This project as it is by default; with a rule, symmetrized."""
    return _tumble(stem, device, rule)


def tumble_eager(stem: str, device: str, rule: str = "") -> Any:
    """This project without anything compiled: plain operations of torch."""
    os.environ["TUMBLE_NO_NATIVE"] = "1"  # an engine has a process of its own
    return _tumble(stem, device, rule)


def tumble_float64(stem: str, device: str, rule: str = "") -> Any:
    """This project, plain operations of torch in float64: what the others are compared with. It is not timed."""
    os.environ["TUMBLE_NO_NATIVE"] = "1"
    return _tumble(stem, device, rule, dtype="float64")


def _tumble(stem: str, device: str, rule: str, *, dtype: str | None = None) -> Any:
    import tumble

    potential = tumble.load(f"{stem}.ckpt", device=device, dtype=dtype)
    return tumble.Calculator(tumble.symmetrize(potential, rule) if rule else potential)


def metatomic(stem: str, device: str, rule: str = "") -> Any:
    """What metatrain exports, through metatomic-ase, without uncertainty and checks; with a rule, symmetrized.

    The rule is the degree, with a trailing "i" for its default, rotations with and without inversion.
    """
    from metatomic_ase import MetatomicCalculator, SymmetrizedCalculator

    calculator = MetatomicCalculator(
        f"{stem}.pt", device=device, uncertainty_threshold=None, check_consistency=False, do_gradients_with_energy=True
    )
    if not rule:
        return calculator
    degree, has_inversion = int(rule.rstrip("i")), rule.endswith("i")
    return SymmetrizedCalculator(calculator, l_max=degree, include_inversion=has_inversion, batch_size=TURNED)


def mace(stem: str, device: str, rule: str = "") -> Any:
    """MACE 128x0e, two layers, 6 Å, random weights, through its own calculator."""
    import numpy as np
    import torch
    from mace.calculators import MACECalculator  # first: e3nn 0.4.4 loads its tables only as MACE allows it
    from e3nn import o3  # isort: skip
    from mace import modules

    torch.manual_seed(0)
    interactions = modules.interaction_classes
    model = modules.ScaleShiftMACE(
        r_max=CUTOFF,
        num_bessel=8,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=interactions["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=interactions["RealAgnosticInteractionBlock"],
        num_interactions=2,
        num_elements=3,
        hidden_irreps=o3.Irreps("128x0e"),
        MLP_irreps=o3.Irreps("16x0e"),
        gate=torch.nn.functional.silu,
        atomic_energies=np.zeros(3),
        avg_num_neighbors=60.0,
        atomic_numbers=[1, 8, 14],
        correlation=3,
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
    )
    return MACECalculator(models=[model], device=device, default_dtype="float32")


def orb(stem: str, device: str, rule: str = "") -> Any:
    """Orb-v3-conservative-inf, random weights, through its own calculator; compiled, as its own loader does it."""
    from orb_models.forcefield import pretrained
    from orb_models.forcefield.atomic_system import SystemConfig
    from orb_models.forcefield.calculator import ORBCalculator

    system = SystemConfig(radius=CUTOFF, max_num_neighbors=120)
    model = pretrained.orb_v3_conservative_architecture(device=device, system_config=system).eval()
    for weights in model.parameters():
        weights.requires_grad_(False)
    model.compile(mode="default", dynamic=True)
    return ORBCalculator(model, device=device)


ENGINES: Final[dict[str, Callable[..., Any]]] = {
    "tumble": tumble,
    "tumble-eager": tumble_eager,
    "tumble-float64": tumble_float64,
    "metatomic": metatomic,
    "mace": mace,
    "orb": orb,
}
