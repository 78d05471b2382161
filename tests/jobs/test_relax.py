import io

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from torch import Tensor

from analytic import PairFunction
from tumble.bridges.ase import Foreign
from tumble.crystal import group_of
from tumble.jobs.relax import RelaxResult, RelaxSettings, relax
from tumble.jobs.relax.stairs import LOOSE, STRICT, Stair, at, plateau_of, stairs
from tumble.models.pair import LennardJones, Morse
from tumble.potential import Gradient
from tumble.results import Curve, Table, load_result


def argon() -> Gradient:
    return Gradient(LennardJones(0.0104, 3.4, cutoff=6.5))


def shaken(atoms: Atoms, seed: int = 0) -> Atoms:
    random = np.random.default_rng(seed)
    moved = atoms.copy()
    moved.set_cell(moved.cell.array @ (np.eye(3) + 0.01 * random.uniform(-1, 1, (3, 3))), scale_atoms=True)
    moved.positions += 0.05 * random.uniform(-1, 1, moved.positions.shape)
    return moved


def leaning(epsilon: float = 0.02) -> Gradient:
    """Springs of 3 Å with a small error along one diagonal, by which a cubic crystal shears."""

    def energy(v: Tensor, _i: Tensor, _j: Tensor) -> Tensor:
        r = v.norm(dim=1)
        return (r - 3) ** 2 + epsilon * v[:, 0] * v[:, 1] / r**2

    return Gradient(PairFunction(energy, cutoff=3.6))


def leaning_crystal() -> Atoms:
    return bulk("Ar", "fcc", a=4.2)


def double_well(width: float = 0.02, stiffness: float = 1e5) -> Gradient:
    """A pair is best shorter or longer than 2 Å by the width w: u = k [(r - 2)^4 / 4 - w² (r - 2)² / 2]."""

    def energy(v: Tensor, _i: Tensor, _j: Tensor) -> Tensor:
        d = v.norm(dim=1) - 2
        return stiffness * (d**4 / 4 - width**2 * d**2 / 2)

    return Gradient(PairFunction(energy, cutoff=2.5))


def chain() -> Atoms:
    return Atoms("Ar2", [[0, 0, 0], [2.004, 0, 0]], cell=[4, 3.5, 3.5], pbc=True)


def verdict(result: RelaxResult, key: str):
    return next(one for one in result.verdicts() if one.key == key)


def table(result: RelaxResult, title: str) -> Table:
    return next(one for one in result.facts() if isinstance(one, Table) and one.title == title)


def test_a_shaken_crystal_is_symmetric_again_and_exactly_so():
    result = relax(argon(), shaken(bulk("Ar", "fcc", a=5.2, cubic=True)), RelaxSettings(fmax=1e-5))
    (finding,) = result.findings
    assert result.is_converged
    assert (finding.walked.how, finding.symmetry) == ("find", "symmetric")
    assert group_of(finding.final.atoms, 1e-8).number == 225
    assert finding.walked.plateau is not None
    assert finding.walked.plateau.stair == ("Fm-3m (225)", 192)
    assert finding.gain is not None
    assert abs(finding.gain.energy) < finding.gain.residual
    assert [one.answer for one in result.verdicts()] == ["yes", "yes"]
    # An invariant potential: what is left over frames is rounding.
    assert finding.floor is not None
    assert finding.floor.force < 1e-12


def test_a_distortion_that_an_uneven_potential_makes_is_an_artefact():
    result = relax(leaning(), leaning_crystal())
    (finding,) = result.findings
    assert finding.symmetry == "artefact"
    assert group_of(finding.walked.walk.atoms, 1e-4).number < 100
    assert group_of(finding.final.atoms, 1e-8).number == 225
    assert finding.gain is not None
    # Lower in this frame, as a relaxation finds it, and no lower in others.
    assert finding.gain.energy > 0
    assert finding.gain.turned is not None
    assert finding.gain.turned < 0.5 * finding.gain.energy
    said = verdict(result, "symmetry")
    assert said.answer == "remedy"
    assert said.reason.startswith("model artefact: the free structure is")
    assert said.value == pytest.approx(1000 * finding.gain.energy)


def test_a_distortion_that_lowers_the_energy_in_every_frame_is_physical():
    width, stiffness = 0.02, 1e5
    result = relax(double_well(width, stiffness), chain(), RelaxSettings(cell="fixed"))
    (finding,) = result.findings
    assert finding.symmetry == "physical"
    assert finding.gain is not None
    # Two pairs in the cell, each at the bottom of a well of depth k w⁴ / 4.
    assert finding.gain.energy == pytest.approx(2 * stiffness * width**4 / 4, rel=1e-6)
    assert finding.gain.turned == pytest.approx(finding.gain.energy, rel=1e-6)
    assert finding.gain.distance == pytest.approx(width / 2, rel=1e-3)
    assert finding.final is finding.walked.walk
    assert finding.final.atoms.get_distance(0, 1) == pytest.approx(2 + width, abs=1e-6)
    assert finding.walked.again is not None
    assert finding.walked.again.atoms.get_distance(0, 1) == pytest.approx(2, abs=1e-9)
    said = verdict(result, "symmetry")
    assert (said.answer, said.reason[:19]) == ("yes", "physical distortion")


def test_between_the_thresholds_it_is_undecided():
    result = relax(double_well(), chain(), RelaxSettings(cell="fixed", physical=1e9))
    assert result.findings[0].symmetry == "undecided"
    assert verdict(result, "symmetry").answer == "unknown"
    assert "times that were expected of a distortion" in verdict(result, "symmetry").reason


def test_what_has_not_come_to_rest_is_undecided_and_not_converged():
    result = relax(leaning(), shaken(leaning_crystal()), RelaxSettings(steps=3))
    (finding,) = result.findings
    assert not result.is_converged
    assert finding.symmetry == "undecided"
    assert finding.why.startswith("the free walk has not ended at rest: not at rest after 3 steps")
    said = verdict(result, "relax")
    assert said.answer == "unknown"
    assert said.reason.startswith("1 of 1 not at rest: Ar: not at rest after 3 steps")


def test_a_crystal_without_symmetry_stays_without():
    atoms = Atoms("HFCN", [[0, 0, 0], [1.1, 0.2, 0.3], [0.3, 1.4, 0.1], [0.2, 0.5, 1.9]], cell=[4, 5, 6], pbc=True)
    result = relax(Foreign(Flat()), atoms, RelaxSettings(cell="fixed"))
    (finding,) = result.findings
    assert (finding.symmetry, finding.walked.again) == ("none", None)
    assert verdict(result, "symmetry").reason == "no symmetry found: no group lasts"


def test_a_group_that_is_kept_is_that_of_the_start():
    free = relax(leaning(), leaning_crystal(), RelaxSettings(symmetry="free"))
    kept = relax(leaning(), leaning_crystal(), RelaxSettings(symmetry="keep"))
    assert group_of(free.atoms[0], 1e-4).number < 100
    assert group_of(kept.atoms[0], 1e-8).number == 225
    assert [one.key for one in kept.verdicts()] == ["relax"]
    assert (free.findings[0].walked.again, free.findings[0].gain) == (None, None)
    floor = kept.findings[0].floor
    assert floor is not None
    assert floor.forbidden is not None
    assert kept.findings[0].final.removed_GPa > 1e-3


def test_the_forbidden_force_of_rock_salt_bounds_what_fmax_means():
    odd = 1e-3

    def energy(v: Tensor, i: Tensor, j: Tensor) -> Tensor:
        r = v.norm(dim=1)
        near = (r - 3) ** 2 + torch.sign(j - i) * odd * v[:, 0]
        return torch.where(r < 3.6, near, 0.5 * (r - 3 * 2**0.5) ** 2)

    salt = bulk("NaCl", "rocksalt", a=6.0)
    result = relax(Gradient(PairFunction(energy, 4.6)), salt, RelaxSettings(symmetry="keep", cell="fixed"))
    floor = result.findings[0].floor
    assert floor is not None
    # Of six neighbours each pulls with ε along x, whatever the frame.
    assert floor.forbidden == pytest.approx(6 * odd, rel=1e-6)
    assert floor.force >= floor.forbidden
    said = verdict(result, "relax")
    assert (said.answer, said.unit, said.threshold) == ("remedy", "meV/Å", 0.1)
    assert said.value == pytest.approx(1000 * floor.force)
    assert "the lowest meaningful fmax is" in said.reason


def test_molecules_are_left_free_and_crystals_are_looked_at():
    pair = Gradient(Morse(1.0, 1.5, 3.0, cutoff=4.0))
    result = relax(pair, [shaken(molecule("CH4")), bulk("Ar", "fcc", a=3.0)])
    assert [one.walked.how for one in result.findings] == ["free", "find"]
    assert [one.walked.walk.stresses is None for one in result.findings] == [True, False]
    assert [one.standard is None for one in result.findings] == [True, False]
    assert "1 symmetric" not in verdict(result, "symmetry").reason
    found = relax(pair, shaken(molecule("CH4")), RelaxSettings(symmetry="find"))
    assert found.findings[0].symmetry in ("symmetric", "none")


def test_many_structures_are_what_each_is_alone():
    structures = [shaken(bulk("Ar", "fcc", a=5.2), 1), bulk("Ar", "fcc", a=5.4), bulk("Ar", "sc", a=3.6)]
    together = relax(argon(), structures)
    for finding, one in zip(together.findings, structures, strict=True):
        alone = relax(argon(), one).findings[0]
        assert finding.n_calls == alone.n_calls
        assert finding.symmetry == alone.symmetry
        assert finding.final.energies == pytest.approx(alone.final.energies, abs=1e-9)
        assert finding.final.atoms.cell.cellpar() == pytest.approx(alone.final.atoms.cell.cellpar(), abs=1e-6)
    assert together.title == "Ar (0), Ar (1), Ar (2) relaxed with LennardJones"


def test_float64_is_used_unless_the_potential_is_to_be_taken_as_it_is():
    pair = argon().to(torch.float32)
    exact = relax(pair, bulk("Ar", a=5.2), RelaxSettings(fmax=1e-9))
    single = relax(
        pair,
        shaken(bulk("Ar", a=5.2).repeat((2, 1, 1))),
        RelaxSettings(fmax=1e-12, dtype="as is", symmetry="free", patience=10),
    )
    assert exact.is_converged
    assert exact.findings[0].floor is not None
    assert exact.findings[0].floor.rounding is None
    assert pair.dtype == torch.float32
    assert not single.is_converged
    floor = single.findings[0].floor
    assert floor is not None
    assert floor.rounding is not None
    assert floor.rounding > 1e-9
    said = verdict(single, "relax")
    assert said.answer == "unknown"
    assert "the lowest meaningful fmax is" in said.reason


def test_without_turns_the_noise_is_what_forces_and_rounding_leave():
    finding = relax(leaning(), leaning_crystal(), RelaxSettings(turns="none")).findings[0]
    assert finding.gain is not None
    assert (finding.gain.turned, finding.gain.spread) == (None, 0.0)
    assert finding.floor is not None
    assert finding.floor.scatter is None
    # An artefact cannot be told from physics in one frame.
    assert finding.symmetry == "physical"


def test_a_result_is_a_folder_with_the_walk_and_the_standard_cell(tmp_path):
    result = relax(argon(), shaken(bulk("Ar", "fcc", a=5.2)), name="argon")
    result.save(tmp_path / "relaxed")
    (atoms,) = ase.io.read(tmp_path / "relaxed" / "atoms.extxyz", ":")
    finding = result.findings[0]
    assert atoms.get_potential_energy() == pytest.approx(finding.final.energies[-1], abs=1e-7)
    assert np.abs(atoms.get_forces()).max() < 1e-4
    assert np.abs(atoms.get_stress()).max() < 1e-4
    files = {name: ase.io.read(io.StringIO(text.decode()), ":", "extxyz") for name, text in result.files().items()}
    frames = files["trajectory.extxyz"]
    assert frames[0].positions == pytest.approx(finding.walked.start.positions, abs=1e-7)
    assert [frames[0].info["walk"], frames[-1].info["walk"]] == ["free", "in the group"]
    assert [frame.info["step"] for frame in frames][:2] == [0, 1]
    assert group_of(files["standard.extxyz"][0], 1e-5).number == 225
    assert load_result(tmp_path / "relaxed").title == "Ar relaxed with argon"
    arrays = result.arrays
    assert arrays["operations_result"].shape == (1, len(arrays["symprec"]))
    assert len(arrays["energies_0"]) == sum(
        len(walk.energies) for walk in (finding.walked.walk, finding.walked.again) if walk is not None
    )


def test_facts_show_symmetry_before_and_after_and_few_structures_only():
    result = relax(argon(), [shaken(bulk("Ar", "fcc", a=5.2), seed) for seed in range(4)])
    symmetry = table(result, "Symmetry")
    assert [row[:4] for row in symmetry.rows[:3]] == [
        ("Ar (0)", "before", "P-1 (2)", symmetry.rows[0][3]),
        ("Ar (0)", "free", symmetry.rows[1][2], "Fm-3m (225)"),
        ("Ar (0)", "in the group of the plateau", "Fm-3m (225)", "Fm-3m (225)"),
    ]
    ends = table(result, "Relaxed structures")
    assert [row[1] for row in ends.rows] == [True] * 4
    assert [row[3] for row in ends.rows] == [one.n_calls for one in result.findings]
    curves = [one for one in result.facts() if isinstance(one, Curve)]
    forces = next(one for one in curves if one.title == "Largest force")
    assert forces.log_y
    assert len(forces.series) <= 2 * 3 + 2
    assert {"Energy along the walk", "Largest stress"} <= {one.title for one in curves}


def test_a_step_of_a_chain_is_seen_in_the_staircase():
    result = relax(double_well(), [chain(), chain()], RelaxSettings(cell="fixed"))
    staircase = next(one for one in result.facts() if isinstance(one, Curve) and one.log_x)
    free = next(one for one in staircase.series if one.name == "after a free walk")
    assert staircase.x_label == "symprec, Å"
    # Equal spacing has twice the operations of the dimers that are left.
    assert np.max(free.y) == 2 * np.min(free.y) == 32


def test_progress_is_told_to_the_end():
    told = []
    relax(argon(), shaken(bulk("Ar", "fcc", a=5.2)), tell=told.append)
    assert told[0].message.startswith("step 0: 1 of 1 walk on")
    assert any(one.message.startswith("in the group that was found, step 0") for one in told)
    assert (told[-1].done, told[-1].total) == (1, 1)


class Flat(Calculator):
    """No force, and no stress."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": 0.0, "forces": np.zeros((len(atoms), 3))}


class Numberless(Flat):
    """No number."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results["energy"] = float("nan")


def test_a_potential_that_gives_no_numbers_is_a_finding_and_no_traceback(tmp_path):
    result = relax(Foreign(Numberless()), bulk("Ar"), RelaxSettings(cell="fixed"))
    assert not result.is_converged
    assert (result.findings[0].symmetry, result.findings[0].floor) == ("undecided", None)
    assert verdict(result, "relax").reason.startswith("1 of 1 not at rest: Ar: not finite")
    result.save(tmp_path / "broken")


def test_bad_input_says_what_to_do():
    with pytest.raises(ValueError, match="there is no structure to relax; at least one"):
        relax(argon(), [])
    with pytest.raises(ValueError, match=r"a Flat gives no stress for structure 0 \(Ar\).*cell=fixed"):
        relax(Foreign(Flat()), bulk("Ar"))
    slab = Atoms("Ar", cell=[4, 4, 20], pbc=[True, False, True])
    with pytest.raises(ValueError, match=r"structure 0 \(Ar\) does not repeat along b"):
        relax(argon(), slab, RelaxSettings(cell="all"))
    pair = Gradient(LennardJones({"Ar-Ar": 0.01}, {"Ar-Ar": 3.4}))
    with pytest.raises(ValueError, match=r"element 10 \(Ne\) in structure 0 is unknown"):
        relax(pair, bulk("Ne", "fcc", a=4.4))
    with pytest.raises(ValueError, match="RelaxSettings setting 'turns' = 'Q'"):
        RelaxSettings(turns="Q")


def stairs_of(*counts: int | None) -> tuple[Stair | None, ...]:
    return tuple(None if count is None else Stair(f"{count} operations", count) for count in counts)


def test_the_plateau_is_the_highest_symmetry_that_lasts():
    # 1e-5 2e-5 5e-5 1e-4 2e-4 5e-4 1e-3 2e-3 5e-3 1e-2 2e-2 5e-2 0.1 0.2
    found = stairs_of(1, 1, 2, 2, 2, 8, 8, 48, 48, 48, 96, 8, 192, None)
    assert plateau_of(found, 4) == (Stair("48 operations", 48), 2e-3, 1e-2)
    assert plateau_of(found, 5) == (Stair("48 operations", 48), 2e-3, 1e-2)
    assert plateau_of(found, 6) is None
    assert plateau_of(stairs_of(*[1] * 14), 4) is None
    low = plateau_of(stairs_of(*[1] * 2, *[2] * 12), 4)
    assert low is not None
    assert low.middle == pytest.approx((5e-5 * 0.2) ** 0.5)


def test_stairs_of_a_molecule_count_operations():
    found = stairs(molecule("CH4"))
    assert at(found, LOOSE) == "24 operations"
    off = molecule("CH4")
    off.positions[1] += [1e-3, 1e-3, 0]
    assert at(stairs(off), STRICT) == "2 operations"
    assert at(stairs(molecule("CO2")), LOOSE).endswith("all turns about an axis")
    close = Atoms("H2", [[0, 0, 0], [0.05, 0, 0]])
    assert at(stairs(close), 2e-1) == "–"
