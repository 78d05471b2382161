"""Exported models of metatomic: the numbers of its own ASE calculator, the contracts, and clear refusals."""

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Dict, List, Optional  # noqa: UP035  (TorchScript reads these)

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list

import tumble
from tumble import checkpoint
from tumble.batch import Batch
from tumble.bridges.metatomic import Metatomic, describe
from tumble.cli import main
from tumble.packs import predict
from tumble.potential import collate_for
from tumble.symmetry import Symmetrized
from tumble.testing import check_potential

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated")
    metatomic = pytest.importorskip("metatomic.torch")
    metatensor = pytest.importorskip("metatensor.torch")
    pet = pytest.importorskip("metatrain.pet")
    metatomic_ase = pytest.importorskip("metatomic_ase")

pytestmark = [
    pytest.mark.engine,
    # What torch says about TorchScript to those who write such files; the bridge itself must not need this.
    pytest.mark.filterwarnings(r"ignore:`torch\.jit\.(script|script_method|save|interface)` is deprecated"),
]

System, ModelOutput = metatomic.System, metatomic.ModelOutput
NeighborListOptions = metatomic.NeighborListOptions
Labels, TensorBlock, TensorMap = metatensor.Labels, metatensor.TensorBlock, metatensor.TensorMap

KJ_PER_MOL = 0.0103642697
"""eV."""

WIDTHS = {"d_pet": 8, "d_head": 8, "d_node": 12, "d_feedforward": 8, "num_heads": 2}


@pytest.fixture(autouse=True)
def without_optimization() -> Iterator[None]:
    """TorchScript rewrites a program in its first runs, which takes longer than all these runs together."""
    with torch.jit.optimized_execution(False):
        yield


def export_pet(path: Path, names: list[str], **hypers: object) -> Path:
    """A random PET of metatrain in float64 with these energies, their force and stress heads, as .pt and .ckpt."""
    from metatrain.utils.architectures import get_default_hypers
    from metatrain.utils.data.dataset import DatasetInfo
    from metatrain.utils.data.target_info import get_energy_target_info, get_generic_target_info

    def tensor(name: str, unit: str, kind: str, rank: int) -> object:
        options = {"quantity": "", "unit": unit, "sample_kind": kind, "num_subtargets": 1}
        return get_generic_target_info(name, options | {"type": {"cartesian": {"rank": rank}}})

    targets = {}
    for name in names:
        _, slash, variant = name.partition("/")
        force, stress = f"non_conservative_force{slash}{variant}", f"non_conservative_stress{slash}{variant}"
        targets[name] = get_energy_target_info(name, {"quantity": "energy", "unit": "eV"})
        targets[force] = tensor(force, "eV/A", "atom", 1)
        targets[stress] = tensor(stress, "eV/A^3", "system", 2)
    torch.manual_seed(1)
    defaults = get_default_hypers("pet")["model"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="PET assumes that Cartesian tensors of rank 2 are stress-like")
        model = pet.PET(defaults | WIDTHS | {"cutoff": 3.5} | hypers, DatasetInfo("angstrom", [1, 6, 8], targets))
    torch.save(model.double().get_checkpoint(), path.with_suffix(".ckpt"))
    model.export().save(str(path))
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_pet(tmp_path_factory.mktemp("pet") / "plain.pt", ["energy"], zbl=True)


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = ["energy/pbe", "energy/r2scan"]
    return export_pet(tmp_path_factory.mktemp("pet") / "varied.pt", names, num_neighbors_adaptive=6.0)


def structures() -> list[Atoms]:
    crystal = bulk("C", cubic=True)
    crystal.rattle(0.1, seed=2)
    return [molecule("CH3CH2OH"), Atoms("O"), crystal]


@pytest.mark.parametrize(("variant", "direct"), [(None, False), (None, True), ("pbe", False), ("r2scan", True)])
def test_answers_are_those_of_the_calculator_of_metatomic(
    plain: Path, varied: Path, variant: str | None, direct: bool
) -> None:
    path = plain if variant is None else varied
    potential = tumble.load(path, variant=variant, direct=direct)
    assert isinstance(potential, Metatomic)
    assert potential.is_conservative is not direct
    assert (potential.dtype, potential.species) == (torch.float64, (1, 6, 8))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.load` is deprecated")
        theirs = metatomic_ase.MetatomicCalculator(
            str(path), device="cpu", non_conservative=direct, variants={"energy": variant} if variant else None
        )
    for atoms, answer in zip(structures(), predict(potential, structures()), strict=True):
        atoms.calc = theirs
        with np.errstate(invalid="ignore"):  # theirs divides by the volume also where there is none
            energy = atoms.get_potential_energy()
        assert float(answer.energy) == pytest.approx(energy, abs=1e-9)  # type: ignore[arg-type]
        forces = answer.forces.numpy()  # type: ignore[union-attr]
        net = forces.mean(axis=0) if direct else 0.0  # their calculator removes it; ours leaves it for the audit to see
        np.testing.assert_allclose(forces - net, atoms.get_forces(), atol=1e-9)
        assert (answer.stress is None) == (not atoms.pbc.any())
        if answer.stress is not None:
            np.testing.assert_allclose(answer.stress, atoms.get_stress(voigt=False), atol=1e-9)


@pytest.mark.parametrize("direct", [False, True])
def test_an_exported_file_and_its_checkpoint_give_the_same_numbers(plain: Path, varied: Path, direct: bool) -> None:
    for path, variant in ((plain, None), (varied, "r2scan")):
        exported, ours = (tumble.load(path.with_suffix(s), variant=variant, direct=direct) for s in (".pt", ".ckpt"))
        assert ours.is_conservative is exported.is_conservative is not direct
        assert ours.species == exported.species
        for one, other in zip(predict(exported, structures()), predict(ours, structures()), strict=True):
            # The screening length of ZBL is formed in float32 there.
            torch.testing.assert_close(one.energy, other.energy, rtol=1e-7, atol=1e-9)
            if not direct:
                torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
            elif variant is not None:  # an exported head does not know of the repulsion
                torch.testing.assert_close(one.forces, other.forces, rtol=1e-9, atol=1e-9)


def test_it_keeps_every_contract_of_a_potential(plain: Path, varied: Path) -> None:
    # Of a variant, metatrain does not divide the stress head by the volume; so only the plain one is held to them.
    check_potential(Metatomic(plain, direct=True))
    check_potential(Metatomic(varied, variant="pbe"))


def test_it_answers_in_the_precision_that_is_asked_for(plain: Path) -> None:
    double, single = tumble.load(plain), tumble.load(plain, dtype="float32")
    assert single.dtype == torch.float32
    [one], [other] = predict(double, structures()[:1]), predict(single, structures()[:1])
    assert other.forces is not None and other.forces.dtype == torch.float32  # noqa: PT018
    assert 1e-12 < float((one.forces - other.forces).abs().max()) < 1e-4  # type: ignore[operator]


def test_a_symmetrized_one_is_saved_by_reference(plain: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.pt"
    copy.write_bytes(plain.read_bytes())
    whole = Symmetrized(Metatomic(copy, direct=True), tumble.Rotations.parse("i"))
    path = checkpoint.save(whole, tmp_path / "sym.safetensors")
    again = checkpoint.load(path)
    for one, other in zip(predict(whole, structures()), predict(again, structures()), strict=True):
        assert all(torch.equal(*pair) for pair in zip(one, other, strict=True) if pair[0] is not None)
    copy.write_bytes(plain.read_bytes() + b"x")
    with pytest.raises(ValueError, match=r"copy\.pt has the digest .* it is not the file that the potential was saved"):
        checkpoint.load(path)
    copy.unlink()
    with pytest.raises(ValueError, match=r"the potential refers to .*copy\.pt, which is gone"):
        checkpoint.load(path)
    with pytest.raises(ValueError, match=r"plain\.pt holds no weights of ours, so it cannot be written"):
        checkpoint.convert(plain, tmp_path / "x.safetensors")


def test_what_a_file_lacks_is_named(plain: Path, varied: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"several outputs 'energy': energy/pbe, energy/r2scan\. Choose one by its vari"
    ):
        tumble.load(varied)
    with pytest.raises(ValueError, match=r"has no output 'energy/scan'; of that kind it has energy/pbe, energy/r2scan"):
        tumble.load(varied, variant="scan")
    assert Metatomic(plain).extra_repr() == "plain.pt: energy"
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.pt cannot be read as an exported metatomic model"):
        tumble.load(tmp_path / "text.pt")


def test_without_metatomic_the_extra_is_named(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "metatomic.torch", None)
    with pytest.raises(ImportError, match=r"a \.pt file needs metatomic-torch.*pip install 'tumble\[metatomic\]'"):
        tumble.load(plain)


def test_info_tells_what_the_file_says(varied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = describe(varied)
    assert said["variants"] == ["pbe", "r2scan"]
    assert said["interaction_range_A"] == pytest.approx(7.0)
    assert said["species"] == "H C O"
    assert main(["info", str(varied)]) == 0
    assert "pbe, r2scan" in capsys.readouterr().out
    assert describe(exported(tmp_path / "far.pt", [], float("inf")))["interaction_range_A"] == "unlimited"


class HalfLennardJones(torch.nn.Module):
    """Lennard-Jones in kJ/mol and nm from a strict half list, plus whatever it is told of a structure."""

    inputs: List[str]  # noqa: UP006

    def __init__(self, inputs: List[str]) -> None:  # noqa: UP006
        super().__init__()
        self.options = NeighborListOptions(cutoff=0.6, full_list=False, strict=True)
        self.inputs = inputs

    def requested_neighbor_lists(self) -> List[NeighborListOptions]:  # noqa: UP006
        return [self.options]

    def requested_inputs(self) -> Dict[str, ModelOutput]:  # noqa: UP006
        wanted: Dict[str, ModelOutput] = {}  # noqa: UP006
        for name in self.inputs:
            wanted[name] = ModelOutput(sample_kind="system")
        return wanted

    def forward(
        self,
        systems: List[System],  # noqa: UP006
        outputs: Dict[str, ModelOutput],  # noqa: UP006
        selected_atoms: Optional[Labels],  # noqa: UP045
    ) -> Dict[str, TensorMap]:  # noqa: UP006
        energies: List[torch.Tensor] = []  # noqa: UP006
        for system in systems:
            squared = (0.34**2) / system.get_neighbor_list(self.options).values[:, :, 0].square().sum(dim=1)
            energy = (4.0 * (squared**6 - squared**3)).sum()
            for name in self.inputs:
                energy = energy + system.get_data(name).block().values.sum()
            energies.append(energy)
        values = torch.stack(energies).reshape(-1, 1)
        block = TensorBlock(
            values=values,
            samples=Labels(["system"], torch.arange(len(systems)).reshape(-1, 1)),
            components=torch.jit.annotate(List[Labels], []),  # noqa: UP006
            properties=Labels(["energy"], torch.tensor([[0]])),
        )
        answers = {"energy": TensorMap(Labels(["_"], torch.tensor([[0]])), [block])}
        if "non_conservative_forces" in outputs:
            answers["non_conservative_forces"] = self.push(systems, values)
        return answers

    def push(self, systems: List[System], like: torch.Tensor) -> TensorMap:  # noqa: UP006
        """The same force on every atom, listed from the last structure to the first."""
        samples: List[torch.Tensor] = []  # noqa: UP006
        for index in range(len(systems) - 1, -1, -1):
            atoms = torch.arange(len(systems[index]))
            samples.append(torch.stack([torch.full_like(atoms, index), atoms], 1))
        rows = torch.cat(samples)
        forces = torch.tensor([100.0, 200.0, -300.0]).to(like) * (1.0 + rows[:, :1])
        block = TensorBlock(
            values=forces[:, :, None],
            samples=Labels(["system", "atom"], rows),
            components=[Labels(["xyz"], torch.arange(3)[:, None])],
            properties=Labels(["force"], torch.tensor([[0]])),
        )
        return TensorMap(Labels(["_"], torch.tensor([[0]])), [block])


def exported(path: Path, inputs: list[str], reach: float = 0.6, **outputs: object) -> Path:
    able = metatomic.ModelCapabilities(
        outputs={"energy": ModelOutput(unit="kJ/mol", sample_kind="system"), **outputs},
        atomic_types=[18],
        interaction_range=reach,
        length_unit="nm",
        supported_devices=["cpu"],
        dtype="float64",
    )
    module = HalfLennardJones(inputs).double().eval()
    metatomic.AtomisticModel(module, metatomic.ModelMetadata(), able).save(str(path))
    return path


def test_other_units_and_half_lists_are_understood(tmp_path: Path) -> None:
    potential = Metatomic(exported(tmp_path / "lj.pt", []))
    assert potential.cutoff == pytest.approx(6.0)
    crystal = bulk("Ar", "fcc", 5.2)
    crystal.rattle(0.05, seed=1)
    structures = [crystal, Atoms("Ar2", [[0, 0, 0], [0.3, 0, 3.7]]), Atoms("Ar")]
    for atoms, one in zip(structures, predict(potential, structures), strict=True):
        x = (3.4 / neighbor_list("d", atoms, 6.0)) ** 6
        assert float(one.energy) == pytest.approx(KJ_PER_MOL * float(2 * (x * x - x).sum()))  # type: ignore[arg-type]
    check_potential(potential, atoms=structures)


@pytest.mark.filterwarnings("ignore:the 'non_conservative_forces' output name is deprecated")
def test_the_older_name_of_the_force_head_is_understood(tmp_path: Path) -> None:
    head = ModelOutput(unit="kJ/mol/nm", sample_kind="atom")
    path = exported(tmp_path / "push.pt", [], non_conservative_forces=head)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        potential = tumble.load(path, direct=True)
        answers = predict(potential, [Atoms("Ar2", [[0, 0, 0], [0, 0, 3.7]]), Atoms("Ar")])
    for times, one in enumerate(answers, start=1):
        expected = np.array([10.0, 20.0, -30.0]) * KJ_PER_MOL * times
        np.testing.assert_allclose(one.forces, np.tile(expected, (3 - times, 1)), rtol=1e-6)  # type: ignore[arg-type]
        assert one.stress is None
    plain = exported(tmp_path / "lj.pt", [])
    with pytest.raises(
        ValueError, match=r"no output 'non_conservative_force'; .*none\..* or load it with direct=False"
    ):
        tumble.load(plain, direct=True)


def test_charge_and_spin_reach_the_model(tmp_path: Path) -> None:
    potential = Metatomic(exported(tmp_path / "ion.pt", ["charge", "spin_multiplicity"]))
    structures = [Atoms("Ar", info={"charge": 2, "spin": 3}), Atoms("Ar")]
    found = [float(one.energy) for one in predict(potential, structures)]  # type: ignore[arg-type]
    assert found == pytest.approx([5 * KJ_PER_MOL, 1 * KJ_PER_MOL], rel=1e-6)
    batch = collate_for(potential, [Atoms("Ar", info={"charge": 0.5})])
    assert isinstance(batch, Batch)
    with pytest.raises(ValueError, match=r"the charge of structure 0 is not a whole number"):
        potential(batch)


def test_an_input_that_no_batch_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs the input ase::info::field, which a batch does not have"):
        Metatomic(exported(tmp_path / "field.pt", ["ase::info::field"]))
