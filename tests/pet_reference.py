"""Random PETs of metatrain in float64 to compare with, and their weights under our names."""

import re
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms

from tumble.batch import Properties
from tumble.models.pet import PET, PETSettings

SPECIES = [1, 6, 8]
SMALL = {"d_pet": 16, "d_head": 12, "d_node": 24, "d_feedforward": 20, "num_heads": 4}
ROUND = {"d_head": 16, "d_node": 32, "d_feedforward": 32}
"""With these widths the engine takes a small model, if the rest of its shape is that of the published models."""
HEADS = {"energy": "energy", "non_conservative_forces": "forces", "non_conservative_stress": "stress"}
"""Their targets and our readouts."""


def molecule() -> Atoms:
    generator = np.random.default_rng(0)
    positions = np.array([[0, 0, 0], [1.4, 0, 0], [0, 1.3, 0.4], [1.2, 1.5, -0.9], [-0.8, 0.3, 1.2], [0.2, -1.1, -0.3]])
    return Atoms([8, 6, 1, 1, 6, 1], positions + 0.05 * generator.normal(size=(6, 3)))


def crystal() -> Atoms:
    generator = np.random.default_rng(1)
    grid = np.stack(np.meshgrid(*[np.arange(2) * 2.1] * 3, indexing="ij"), -1).reshape(-1, 3)
    return Atoms([8, 6, 1, 1, 6, 1, 8, 8], grid + 0.1 * generator.normal(size=(8, 3)), cell=[4.2] * 3, pbc=True)


def triclinic() -> Atoms:
    cell = [[2.9, 0.1, 0.0], [0.7, 3.2, 0.3], [-0.4, 0.2, 3.6]]
    return Atoms([1, 8, 6], [[0.1, 0.2, 0.3], [1.5, 1.3, 1.1], [2.0, 0.4, 2.6]], cell=cell, pbc=True)


def slab() -> Atoms:
    positions = [[0.1, 0.2, 5.3], [1.5, 1.3, 6.1], [2.0, 0.4, 7.6], [0.4, 2.2, 6.9]]
    return Atoms([1, 8, 6, 1], positions, cell=[3.1, 3.4, 14.0], pbc=[True, True, False])


def dataset_info() -> Any:
    """Energy, direct forces and direct stress."""
    from metatrain.utils.data import DatasetInfo
    from metatrain.utils.data.target_info import get_energy_target_info, get_generic_target_info

    def target(quantity: str, unit: str, kind: Any, per_atom: bool = False) -> dict[str, Any]:
        return {
            "quantity": quantity, "unit": unit, "type": kind, "num_subtargets": 1, "per_atom": per_atom,
            "sample_kind": "atom" if per_atom else "system", "description": "",
        }  # fmt: skip

    forces, stress = "non_conservative_forces", "non_conservative_stress"
    vector, matrix = {"cartesian": {"rank": 1}}, {"cartesian": {"rank": 2}}
    targets = {
        "energy": get_energy_target_info("energy", target("energy", "eV", "scalar")),
        forces: get_generic_target_info(forces, target("force", "eV/Angstrom", vector, per_atom=True)),
        stress: get_generic_target_info(stress, target("pressure", "eV/Angstrom^3", matrix)),
    }
    return DatasetInfo("angstrom", SPECIES, targets)


def reference(changes: dict[str, Any]) -> Any:
    """A random PET of metatrain in float64, with direct heads and without a weight that is zero."""
    pytest.importorskip("metatrain", reason="metatrain is not installed; pip install 'tumble[test]'")
    from metatrain.pet import PET as THEIRS
    from metatrain.utils.architectures import get_default_hypers

    hypers = get_default_hypers("pet")["model"] | SMALL | changes
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = THEIRS(hypers, dataset_info()).to(torch.float64).eval()
    if hypers["system_conditioning"]:
        for parameter in model.backend.system_conditioning.project.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def ours_of(theirs: Any) -> PET:
    """Our PET with the weights of a PET of metatrain."""
    known = {name: theirs.hypers[name] for name in PETSettings.model_fields if name in theirs.hypers}
    model = PET(SPECIES, PETSettings(**known, direct_forces=True, direct_stress=True)).double()
    weights = {}
    for key, value in theirs.state_dict().items():
        name = key.removeprefix("backend.").replace(".trans.layers.", ".layers.")
        if match := re.fullmatch(r"(node|edge)_heads\.(\w+)\.(\d+)\.(\d)\.(\w+)", name):
            side, target, layer, place, kind = match.groups()
            name = f"readouts.{HEADS[target]}.{side}_heads.{layer}.0.{place}.{kind}"
        elif match := re.fullmatch(r"(node|edge)_last_layers\.(\w+)\.(\d+)\.[^.]+\.(\w+)", name):
            side, target, layer, kind = match.groups()
            name = f"readouts.{HEADS[target]}.{side}_last.{layer}.{kind}"
        weights[name] = value
    state = model.state_dict()
    missing = {name for name in state if name not in weights}
    assert missing <= {"offsets", "energy_scale", "force_scale", "stress_scale"}
    model.load_state_dict(state | {name: value for name, value in weights.items() if name in state})
    return model


def system_of(model: Any, atoms: Atoms, positions: torch.Tensor, cell: torch.Tensor) -> Any:
    """A structure as metatomic wants it, with the pairs, the charge and the multiplicity that the model asks for."""
    from metatensor.torch import Labels, TensorBlock, TensorMap
    from metatomic.torch import System
    from metatrain.utils.neighbor_lists import get_requested_neighbor_lists, get_system_with_neighbor_lists

    system = System(torch.tensor(atoms.numbers, dtype=torch.int32), positions, cell, torch.tensor(atoms.pbc))
    names = {"charge": atoms.info.get("charge"), "spin_multiplicity": atoms.info.get("spin_multiplicity")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        system = get_system_with_neighbor_lists(system, get_requested_neighbor_lists(model))
        for name, value in names.items():
            if value is not None:
                one = torch.tensor([[0]])
                values = torch.tensor([[float(value)]], dtype=torch.float64)
                block = TensorBlock(values, Labels(["system"], one), [], Labels([name], one))
                system.add_data(name, TensorMap(Labels(["_"], one), [block]))
    return system


def answers_of_reference(model: Any, atoms: Atoms) -> tuple[Properties, Properties]:
    """Conservative and direct answers of metatrain's model, with its own neighbour list and autograd."""
    from metatomic.torch import ModelOutput

    positions = torch.tensor(atoms.positions, requires_grad=True)
    strain = torch.eye(3, dtype=torch.float64, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        system = system_of(model, atoms, positions @ strain, torch.tensor(atoms.cell.array) @ strain)
        names = {"energy": False, "non_conservative_forces": True, "non_conservative_stress": False}
        outputs = {name: ModelOutput(sample_kind="atom" if per_atom else "system") for name, per_atom in names.items()}
        answer = {name: value.block().values for name, value in model([system], outputs).items()}
    slope, virial = torch.autograd.grad(answer["energy"].sum(), [positions, strain])
    energy = answer["energy"].detach()[:, 0]
    # The antisymmetric part of the virial is the torque of a model that is not invariant; a stress has none.
    stress = (virial + virial.mT) / 2 / abs(np.linalg.det(atoms.cell.array)) if atoms.pbc.all() else None
    direct = Properties(
        energy, answer["non_conservative_forces"].detach()[..., 0], answer["non_conservative_stress"].detach()[..., 0]
    )
    return Properties(energy, -slope, stress), direct


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).detach().abs().max() / theirs.detach().abs().max())
