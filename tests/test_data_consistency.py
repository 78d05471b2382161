"""Labels that do not belong to one another: units, signs, energies per atom, frames out of order."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from tumble.batch import Properties
from tumble.data import Dataset, consistency, read
from tumble.data.consistency import check_units
from tumble.data.mistakes import LOOSE, Slope, correlation
from tumble.data.pairwise import Springs
from tumble.models.pair import Morse
from tumble.packs import predict
from tumble.potential import Gradient
from tumble.results import Table

SHARED = Path(__file__).parents[2] / "shared" / "data"

Change = Callable[[Atoms, Properties], Properties]


def labelled(structures: list[Atoms], file: str = "set.extxyz") -> Dataset:
    """Structures with the answers of a Morse potential."""
    potential = Gradient(Morse(0.3, 1.4, 2.9, cutoff=4.5))
    answers = predict(potential, structures)
    return Dataset(structures, answers, [f"{file}:{k}" for k in range(len(structures))])


def crystals(n: int = 40, *, seed: int = 0, strained: bool = True) -> list[Atoms]:
    """Shaken copper, strained or in one and the same cell."""
    random = np.random.default_rng(seed)
    structures = []
    for _ in range(n):
        atoms = bulk("Cu", cubic=True) * (2, 1, 1)
        strain = random.normal(scale=0.03, size=(3, 3)) if strained else np.zeros((3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
        atoms.positions += random.normal(scale=0.08, size=atoms.positions.shape)
        structures.append(atoms)
    return structures


def changed(dataset: Dataset, change: Change) -> Dataset:
    labels = [change(atoms, label) for atoms, label in zip(dataset.atoms, dataset.labels, strict=True)]
    return Dataset(dataset.atoms, labels, dataset.sources)


def parts(dataset: Dataset) -> tuple[Sequence[Atoms], Sequence[Properties], Sequence[str]]:
    return dataset.atoms, dataset.labels, dataset.sources


def scaled(energy: float = 1.0, forces: float = 1.0, stress: float = 1.0) -> Change:
    return lambda atoms, label: Properties(label.energy * energy, label.forces * forces, label.stress * stress)


def answers(table: Table) -> dict[str, str]:
    return {str(row[1]): str(row[-1]) for row in table.rows}


@pytest.fixture(scope="module")
def copper() -> Dataset:
    return labelled(crystals())


@pytest.fixture(scope="module")
def close() -> Dataset:
    return labelled(crystals(strained=False))


# The pair potential


def test_forces_and_strain_are_the_derivatives_of_the_energy() -> None:
    atoms = bulk("NaCl", "rocksalt", 5.6) * (2, 1, 1)
    atoms.rattle(0.1, seed=1)
    springs = Springs.between([11, 17])
    chosen = np.random.default_rng(0).normal(size=springs.size)
    design, step = springs.design(atoms), 1e-4

    def energy(one: Atoms) -> float:
        return float(springs.design(one).energy @ chosen)

    ahead, behind = atoms.copy(), atoms.copy()
    ahead.positions[1, 2] += step
    behind.positions[1, 2] -= step
    force = (design.forces @ chosen).reshape(-1, 3)[1, 2]
    assert force == pytest.approx(-(energy(ahead) - energy(behind)) / (2 * step), rel=1e-5)

    def strained(size: float) -> Atoms:
        one, strain = atoms.copy(), np.eye(3)
        strain[0, 1] += size
        one.set_cell(one.cell.array @ strain, scale_atoms=True)
        return one

    slope = (energy(strained(step)) - energy(strained(-step))) / (2 * step)
    assert (design.strain @ chosen)[1] == pytest.approx(slope, rel=1e-5)


def test_the_energy_of_a_dimer_is_the_integral_of_its_slope() -> None:
    springs = Springs.between([1])
    chosen = np.zeros(springs.size)
    chosen[5] = 1.0
    left, top, right = springs.radii[4:7]
    far = Atoms("H2", [[0, 0, 0], [0, 0, float(right) + 0.01]])
    near = Atoms("H2", [[0, 0, 0], [0, 0, float(left) - 0.01]])
    assert springs.design(far).energy @ chosen == 0
    assert springs.design(near).energy @ chosen == pytest.approx(-(right - left) / 2)
    middle = Atoms("H2", [[0, 0, 0], [0, 0, float(top)]])
    assert springs.design(middle).energy @ chosen == pytest.approx(-(right - top) / 2)
    np.testing.assert_allclose((springs.design(middle).forces @ chosen).reshape(2, 3)[:, 2], [1, -1], atol=1e-6)


def test_coefficients_that_forces_determine_are_found_again() -> None:
    springs = Springs.between([29])
    chosen = np.random.default_rng(1).normal(size=springs.size) * (springs.radii[:-1] > 2.4)
    designs = [springs.design(atoms) for atoms in crystals(20)]
    (found,) = springs.fit(designs, [one.forces @ chosen for one in designs], ridges=[1e-12])
    np.testing.assert_allclose(found[springs.radii[:-1] > 2.4], chosen[springs.radii[:-1] > 2.4], atol=1e-3)


def test_many_elements_share_curves_by_their_kind() -> None:
    assert Springs.between([1, 8]).n_kinds == 3
    assert Springs.between(list(range(1, 90))).n_kinds == 15
    kind = Springs.between(list(range(1, 90))).kind
    assert kind[11, 8] == kind[8, 19] == kind[8, 11]
    assert kind[11, 8] != kind[26, 8]
    assert len(set(kind[:110, :110].ravel().tolist())) == 15


# Slopes


def test_a_slope_is_a_factor_with_the_sign_of_the_correlation() -> None:
    x = np.array([1.0, -2.0, 3.0])
    slope = Slope.of_sizes("a against b", -2 * x, [x], LOOSE)
    assert (slope.value, slope.correlation) == pytest.approx((-2, -1))
    assert slope.is_wrong
    assert not Slope.of_sizes("a", 2 * x, [x], LOOSE).is_wrong
    assert Slope.of_sizes("a", 5 * x, [x], LOOSE).is_wrong


def test_guesses_that_do_not_agree_decide_nothing() -> None:
    x = np.array([1.0, -2.0, 3.0])
    assert Slope.of_sizes("a", 50 * x, [x, 10 * x], LOOSE).row[-1] == "undecided"
    assert Slope.of_sizes("a", 50 * x, [x, -x], LOOSE).row[-1] == "undecided"


def test_without_correlation_nothing_is_decided_and_nothing_divides_by_zero() -> None:
    one, other = np.array([1.0, 1.0]), np.array([1.0, -1.0])
    assert Slope.of_sizes("a", 50 * one, [other], LOOSE).row[-1] == "undecided"
    assert correlation(one, np.zeros(2)) == 0
    assert Slope.of_sizes("a", np.zeros(2), [np.zeros(2)], LOOSE).row[-1] == "undecided"


# Right labels


@pytest.mark.parametrize("name", ["copper", "close"])
def test_right_labels_are_right(name: str, request: pytest.FixtureRequest) -> None:
    found = answers(check_units(request.getfixturevalue(name)))
    assert "wrong" not in found.values()
    assert found["forces frame by frame"] == "right"
    assert found["stresses against forces"] == "right"
    assert (
        found["energies against forces" if name == "copper" else "energies of close frames against forces"] == "right"
    )


def test_too_few_frames_are_no_error() -> None:
    assert answers(check_units(labelled(crystals(3)))) == {"forces against pairs": "measured"}


def test_structures_without_labels_or_of_one_atom_are_passed_over() -> None:
    bare = Dataset([molecule("H2O"), Atoms("H")], [Properties(), Properties(forces=torch.zeros(1, 3))], ["a:0", "a:1"])
    assert check_units(bare).rows == ()


# Mistakes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            scaled(energy=1 / 8),
            r"by a factor of 0\.1\d+ .*1 was expected\. They look like energies per atom",
        ),
        (scaled(energy=23.06), r"factor of 2\d.*They look like energies in kcal/mol"),
        (scaled(energy=-1), r"factor of -\d.*They look like energies of the other sign"),
        (scaled(forces=-1), r"factor of -\d.*They look like forces of the other sign"),
        (scaled(forces=1 / 51.42), r"They look like forces in Hartree/Bohr"),
        (scaled(forces=1 / 25.71), r"They look like forces in .*Ry/Bohr"),
        (scaled(forces=23.06), r"They look like forces in kcal/mol/Å"),
        (scaled(forces=96.5), r"They look like forces in kJ/mol/Å"),
        (scaled(stress=-1), r"factor of -\d.*They look like stresses of the other sign"),
        (scaled(stress=160.2), r"They look like stresses in GPa"),
        (scaled(stress=-1602), r"They look like stresses in kBar; the sign is the other one"),
        (
            lambda atoms, label: label._replace(stress=-label.stress * atoms.get_volume()),
            r"They look like virials in eV",
        ),
    ],
)
def test_a_wrong_unit_or_sign_is_found_and_named(copper: Dataset, change: Change, message: str) -> None:
    with pytest.raises(ValueError, match=r"set\.extxyz: \(from set\.extxyz:0 on\) .*" + message):
        check_units(changed(copper, change))


def test_without_stress_energies_or_forces_may_be_wrong(copper: Dataset) -> None:
    def change(atoms: Atoms, label: Properties) -> Properties:
        return label._replace(forces=-label.forces, stress=None)

    with pytest.raises(ValueError, match="They look like energies or forces of the other sign"):
        check_units(changed(copper, change))


def test_a_factor_of_two_is_found_in_frames_that_are_close(close: Dataset) -> None:
    with pytest.raises(ValueError, match=r"energies of close frames against forces .*forces in eV/Bohr"):
        check_units(changed(close, lambda _, label: Properties(label.energy, label.forces * 0.529)))


def test_a_factor_that_no_unit_has_is_told_as_it_is(copper: Dataset) -> None:
    with pytest.raises(ValueError, match="No usual unit makes this factor"):
        check_units(changed(copper, lambda _, label: Properties(label.energy * 6e-5, label.forces)))


def test_energies_per_atom_of_structures_of_many_sizes_are_found_by_their_compositions() -> None:
    structures = [bulk("Cu") * (1, 1, n) for n in range(2, 12)] + [bulk("Ag", a=4.1) * (1, 1, n) for n in range(2, 14)]
    for k, one in enumerate(structures):
        one.rattle(0.02, seed=k)
    right = labelled(structures)
    shifted = changed(right, lambda atoms, one: Properties(one.energy - 3.0 * len(atoms), one.forces))
    assert answers(check_units(shifted))["energies against sizes"] == "right"
    per_atom = changed(shifted, lambda atoms, one: one._replace(energy=one.energy / len(atoms)))
    with pytest.raises(ValueError, match=r"energies do not grow with the number of atoms: .* Multiply them"):
        check_units(per_atom)


def test_frames_whose_forces_are_out_of_order_are_named(copper: Dataset) -> None:
    labels = list(copper.labels)
    for k in (7, 21):
        labels[k] = labels[k]._replace(forces=labels[k].forces.flip(0))
    with pytest.raises(ValueError, match=r"forces of 2 of \d+ frames do not belong .*set\.extxyz:7, set\.extxyz:21"):
        check_units(Dataset(copper.atoms, labels, copper.sources))


def test_an_absurd_force_or_energy_is_named(copper: Dataset) -> None:
    labels = list(copper.labels)
    labels[3] = labels[3]._replace(forces=labels[3].forces + 2000)
    labels[5] = labels[5]._replace(energy=labels[5].energy + 440)
    with pytest.raises(
        ValueError, match=r"set\.extxyz:3: a force is 3\.4\de\+03 eV/Å; at most 1000 was expected"
    ) as told:
        check_units(Dataset(copper.atoms, labels, copper.sources))
    assert re.search(r"set\.extxyz:5: its energy is off what its composition says by 5\d(\.\d+)? eV", str(told.value))


def test_many_absurd_forces_are_told_as_one_problem(copper: Dataset) -> None:
    with pytest.raises(ValueError, match=r"40 of 40 frames, the first set\.extxyz:0, have forces above 1000"):
        check_units(changed(copper, scaled(forces=1e5)))


def test_more_than_ten_problems_are_counted() -> None:
    datasets = [changed(labelled(crystals(12, seed=k), f"{k}.xyz"), scaled(energy=-30, stress=-160)) for k in range(8)]
    together = Dataset(*([item for part in one for item in part] for one in zip(*map(parts, datasets), strict=True)))
    with pytest.raises(ValueError, match=r"and [1-6] more such problems"):
        check_units(together)


def test_each_file_is_checked_by_itself(copper: Dataset) -> None:
    other = labelled(crystals(seed=3), "other.extxyz")
    wrong = changed(other, scaled(forces=-1))
    both = Dataset(*([*one, *two] for one, two in zip(parts(copper), parts(wrong), strict=True)))
    with pytest.raises(ValueError, match=r"other\.extxyz: .*other sign") as told:
        check_units(both)
    assert "\nset.extxyz" not in str(told.value)


def test_the_cost_is_bounded_by_a_sample_of_every_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consistency, "ATOMS", 320)
    first, second = labelled(crystals(60), "a"), labelled(crystals(50, seed=1), "b")
    both = Dataset(*([*one, *two] for one, two in zip(parts(first), parts(second), strict=True)))
    rows = {row[0]: row[2] for row in check_units(both).rows if row[1] == "forces against pairs"}
    assert rows == {"a": 320 // 2 // 8, "b": 320 // 2 // 8}
    monkeypatch.setattr(consistency, "LOOKED_AT", 20)
    assert {row[2] for row in check_units(both).rows if row[1] == "forces against pairs"} == {10}
    monkeypatch.setattr(consistency, "FILES", 1)
    assert {row[0] for row in check_units(both).rows} == {"a"}


# Published data


SETS = {
    "water_revPBE0-D3/valid.extxyz.xz": "energies against forces",
    "carbon_fixture/carbon_reduced_100.extxyz.xz": None,
    "mlearn/Mo_test.extxyz.xz": "stresses against forces",
    "phonopy_sets/Si_PBEsol_fd111.extxyz.xz": "energies of close frames against forces",
    "polymlp_SrTiO3/test.extxyz.xz": "energies against forces",
}


@pytest.mark.parametrize("name", SETS)
def test_published_labels_raise_no_alarm(name: str) -> None:
    if not (SHARED / name).is_file():
        pytest.skip("the shared data are not here")
    found = answers(check_units(read(SHARED / name, require=(), missing="mask")))
    assert "wrong" not in found.values()
    if SETS[name]:
        assert found[str(SETS[name])] == "right"
