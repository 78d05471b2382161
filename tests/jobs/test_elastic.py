import math
from typing import final

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, graphene
from ase.optimize import BFGS
from torch import Tensor

import tumble
from analytic import PairFunction, quartic
from tumble.batch import Batch, Properties
from tumble.jobs.elastic import ElasticResult, ElasticSettings, elastic
from tumble.jobs.elastic.tensor import norm, to_strain, to_voigt, turned
from tumble.potential import Gradient, Potential
from tumble.units import EV_PER_A3_TO_GPa

A, K = 3.0, 2.0
"""Å, distance of first neighbours; eV/Å², the spring between them."""

QUICK = ElasticSettings(average="none", volumes=0)


def springs(*, second: float = 0.0, far: float = math.sqrt(8 / 3), odd: float = 0.0, quartic: float = 0.0) -> Gradient:
    """Springs between first neighbours at rest, and to second ones, `far` times farther; and what breaks the symmetry.

    odd: of x, from the lighter to the heavier atom; quartic: of (x⁴ + y⁴ + z⁴) / r⁴, as a part of the spring.
    """

    def energy(v: Tensor, i: Tensor, j: Tensor) -> Tensor:
        r, sign = v.norm(dim=1), torch.sign(j - i)
        quarter = (v**4).sum(1) / r**4
        near = (K / 2 + quartic * quarter) * (r - A) ** 2 + odd * sign * v[:, 0]
        return torch.where(r < 1.3 * A, near, second / 2 * (r - far * A) ** 2)

    return Gradient(PairFunction(energy, cutoff=(1.1 * far if second else 1.3) * A))


def fcc() -> Atoms:
    return bulk("Ar", "fcc", a=math.sqrt(2) * A)


def zincblende() -> Atoms:
    return bulk("GaAs", "zincblende", a=4 / math.sqrt(3) * A)


def tilted(atoms: Atoms) -> tuple[Atoms, np.ndarray]:
    moved = atoms.copy()
    moved.rotate(35, (1, 2, 3), rotate_cell=True)
    return moved, np.linalg.solve(atoms.cell.array, moved.cell.array).T


def verdicts(result: ElasticResult) -> dict[str, str]:
    return {one.key: one.answer for one in result.verdicts()}


@final
class Changed(Potential):
    """A potential whose stress is multiplied by a number, and which may lack some answers."""

    def __init__(self, inner: Potential, factor: float = 1.0, lacking: str = "", nan_beyond: float = math.inf) -> None:
        super().__init__()
        self.inner, self.factor, self.lacking, self.nan_beyond = inner, factor, lacking, nan_beyond
        self.cutoff, self.species, self.is_conservative = inner.cutoff, inner.species, False

    def forward(self, batch: Batch) -> Properties:
        answer = self.inner(batch)
        assert answer.stress is not None
        is_far = torch.linalg.det(batch.cell).abs() > self.nan_beyond
        stress = torch.where(is_far[:, None, None], torch.nan, self.factor * answer.stress)
        return answer._replace(stress=stress)._replace(**({self.lacking: None} if self.lacking else {}))


# ---------------------------------------------------------------------------------------------------------- closed form


def test_springs_in_an_fcc_crystal_have_constants_in_closed_form():
    result = elastic(springs(), fcc(), QUICK)
    unit = EV_PER_A3_TO_GPa * K / (math.sqrt(2) * A)
    c = result.constants_GPa
    np.testing.assert_allclose([c[0, 0], c[0, 1], c[3, 3]], [2 * unit, unit, unit], rtol=1e-6)
    assert c[0, 1] == pytest.approx(c[3, 3], rel=1e-6)  # Cauchy: pairs at zero pressure
    assert [one.name for one in result.finding.independent] == ["C11", "C12", "C44"]
    assert verdicts(result) == {"elastic": "yes", "stability": "yes"}
    assert norm(result.finding.measured.forbidden) < 1e-6 * norm(c)


def test_constants_are_second_derivatives_of_the_energy():
    potential, atoms, step = springs(second=0.5, far=math.sqrt(2)), fcc(), 2e-3
    c = elastic(potential, atoms, QUICK).constants_GPa

    def energy(*parts: tuple[int, float]) -> float:
        moved, voigt = atoms.copy(), np.zeros(6)
        for place, size in parts:
            voigt[place] += size
        moved.set_cell(atoms.cell.array @ (np.eye(3) + to_strain(voigt)), scale_atoms=True)
        return float(tumble.predict(potential, moved)[0].energy)

    shear = (energy((3, step)) + energy((3, -step)) - 2 * energy()) / step**2
    mixed = sum(a * b * energy((0, a * step), (1, b * step)) for a in (1, -1) for b in (1, -1)) / (4 * step**2)
    scale = EV_PER_A3_TO_GPa / atoms.cell.volume
    np.testing.assert_allclose([c[3, 3], c[0, 1]], [scale * shear, scale * mixed], rtol=1e-4)


def test_a_turned_crystal_has_the_turned_tensor_and_the_same_names():
    potential = springs(second=0.5)
    straight = elastic(potential, zincblende(), QUICK)
    atoms, turn = tilted(zincblende())
    result = elastic(potential, atoms, QUICK)
    np.testing.assert_allclose(result.constants_GPa, turned(straight.constants_GPa, turn), atol=2e-3)
    standard = result.finding.standard(result.constants_GPa)
    np.testing.assert_allclose(standard, straight.constants_GPa, atol=2e-3)
    assert verdicts(result)["elastic"] == "yes"


def test_ions_that_follow_make_shear_softer_and_nothing_stiffer():
    result = elastic(springs(second=0.5), zincblende(), QUICK)
    relaxed, clamped = result.constants_GPa, result.finding.clamped.constants
    assert relaxed[3, 3] < 0.95 * clamped[3, 3]
    np.testing.assert_allclose(relaxed[:3, :3], clamped[:3, :3], rtol=1e-4)
    assert np.linalg.eigvalsh(clamped - relaxed)[0] > -1e-3


def test_constants_are_those_of_ase_with_its_own_relaxation():
    potential, atoms, step = springs(second=0.5), zincblende(), 0.005
    result = elastic(potential, atoms, ElasticSettings(average="none", volumes=0, strains=(step,), ions_fmax=1e-7))
    columns = []
    for voigt in np.eye(6):
        stresses = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.set_cell(atoms.cell.array @ (np.eye(3) + sign * step * to_strain(voigt)), scale_atoms=True)
            moved.calc = tumble.Calculator(potential)
            assert BFGS(moved, logfile=None).run(fmax=1e-8, steps=200)
            stresses.append(moved.get_stress())
        columns.append(EV_PER_A3_TO_GPa * (stresses[0] - stresses[1]) / (2 * step))
    np.testing.assert_allclose(result.finding.measured.constants, np.array(columns).T, atol=1e-4)


def test_several_amplitudes_take_away_what_is_not_linear():
    unit = EV_PER_A3_TO_GPa * K / (math.sqrt(2) * A)
    off = {}
    for strains in ((0.01,), (0.005, 0.01), (0.002, 0.004, 0.006)):
        result = elastic(springs(), fcc(), ElasticSettings(average="none", volumes=0, strains=strains))
        off[len(strains)] = abs(result.constants_GPa[0, 0] / (2 * unit) - 1)
    assert off[1] > 3e-5
    assert max(off[2], off[3]) < 1e-8


def test_one_sided_differences_are_off_in_first_order():
    off = []
    for size in (0.004, 0.002):
        finding = elastic(springs(), fcc(), ElasticSettings(average="none", volumes=0, strains=(size,))).finding
        raw = finding.way("raw")
        assert raw is not None
        off.append(raw.constants[0, 0] - finding.measured.constants[0, 0])
    assert off[0] / off[1] == pytest.approx(2, abs=0.01)


# --------------------------------------------------------------------------------------------------- symmetry and noise


def test_a_quartic_anisotropy_out_of_the_axes_is_forbidden_and_removed():
    atoms, _ = tilted(fcc())
    settings = ElasticSettings(average="I@generic", volumes=0)
    result = elastic(springs(quartic=1.0), atoms, settings)
    verdict = result.verdicts()[0]
    assert verdict.answer == "remedy"
    assert verdict.remedy == "use the projected constants"
    assert verdict.value is not None
    assert 0.02 < verdict.value < 1
    standard = result.finding.standard(result.constants_GPa)
    np.testing.assert_allclose(standard[:3, 3:], 0, atol=1e-10)
    # I removes ℓ = 4, and leaves the mean of (x⁴ + y⁴ + z⁴) / r⁴, which is 3/5.
    averaged = result.finding.way("averaged")
    assert averaged is not None
    unit = EV_PER_A3_TO_GPa * (K + 2 * 3 / 5) / (math.sqrt(2) * A)
    of_mean = result.finding.standard(averaged.constants)
    np.testing.assert_allclose(of_mean[[0, 0, 3], [0, 1, 3]], [2 * unit, unit, unit], rtol=1e-3)
    assert norm(averaged.forbidden) < 1e-3 * norm(result.finding.measured.forbidden)
    assert "averaged over I@generic" in verdict.reason
    assert result.finding.n_calls_averaged > 12 * 25


def test_along_the_axes_the_same_anisotropy_cannot_be_seen():
    result = elastic(springs(quartic=1.0), fcc(), QUICK)
    assert verdicts(result)["elastic"] == "yes"
    assert norm(result.finding.measured.forbidden) < 1e-6 * norm(result.constants_GPa)


def test_forbidden_forces_are_no_reason_to_call_a_crystal_unrelaxed():
    result = elastic(springs(odd=0.1), zincblende(), QUICK)
    assert result.finding.forbidden_force > 0.1
    assert result.finding.force < 1e-10
    assert result.is_converged


def test_a_stress_that_is_no_derivative_makes_constants_asymmetric():
    @final
    class Skewed(Potential):
        """Springs with a pressure on top that goes with the length along x."""

        cutoff, species, is_conservative = 1.3 * A, None, False

        def forward(self, batch: Batch) -> Properties:
            answer = springs()(batch)
            volume = torch.linalg.det(batch.cell)
            length = (batch.cell[:, :, 0] ** 2).sum(1).sqrt() - A
            return answer._replace(stress=answer.stress + (length / volume)[:, None, None] * torch.eye(3))

    finding = elastic(Skewed(), fcc(), QUICK).finding
    asymmetry = finding.measured.asymmetry
    assert asymmetry[1, 0] == pytest.approx(finding.measured.constants[1, 0] - finding.measured.constants[0, 1])
    assert asymmetry[1, 0] > 1
    np.testing.assert_allclose(finding.best.asymmetry, asymmetry)
    np.testing.assert_allclose(finding.best.constants, finding.best.constants.T, atol=1e-12)


def test_the_noise_floor_knows_how_far_ions_are_from_rest():
    potential, atoms = springs(second=0.5), zincblende()
    strict = elastic(potential, atoms, QUICK).finding.measured
    loose = elastic(
        potential, atoms, QUICK.model_copy(update={"ions_fmax": 3e-3, "optimizer": "fire"})
    ).finding.measured
    off = math.sqrt(np.mean((loose.constants - strict.constants) ** 2))
    assert off > 100 * strict.noise_GPa
    assert 0.2 * off < loose.noise_GPa < 5 * off


def test_ions_that_do_not_arrive_leave_the_answer_open():
    result = elastic(springs(second=0.5), zincblende(), ElasticSettings(average="none", volumes=6, steps=1))
    assert not result.is_converged
    # Scaled, the ions of this crystal have nowhere to go.
    assert verdicts(result) == {"elastic": "unknown", "stability": "yes", "eos": "yes", "pressure": "yes"}
    assert "cells are not at rest, such as +0.0025 yz" in result.verdicts()[0].reason
    assert any(fact.title == "Not at rest" for fact in result.facts())


def test_volumes_whose_ions_do_not_arrive_leave_the_equation_of_state_open():
    result = elastic(springs(odd=0.1), zincblende(), ElasticSettings(average="none", volumes=6, steps=1))
    assert verdicts(result)["eos"] == verdicts(result)["pressure"] == "unknown"
    assert "cells are not at rest, such as volume -0.06: not at rest after 1 steps" in result.verdicts()[2].reason


def test_energies_that_are_rounded_more_than_the_fit_needs_are_no_reason_to_refuse_it():
    @final
    class Coarse(Potential):
        """Springs whose energies are far from zero, in single precision."""

        cutoff, species, is_conservative = 1.3 * A, None, False

        def forward(self, batch: Batch) -> Properties:
            answer = springs()(batch)
            assert answer.energy is not None
            return answer._replace(energy=(answer.energy + 3e5).float().double())

    result = elastic(Coarse(), fcc(), ElasticSettings(average="none"))
    eos, pressure = result.verdicts()[2:]
    assert eos.floor is not None
    assert eos.floor > 0.01
    assert [eos.answer, pressure.answer] == ["unknown", "unknown"]
    assert "rounding alone makes as much" in eos.reason
    assert "rounding alone makes as much" in pressure.reason


def test_single_precision_has_a_higher_noise_floor():
    model = tumble.load("silicon")
    settings = ElasticSettings(average="none", volumes=0, strains=(0.005,), ions_fmax=1e-3, dtype="as is")
    single = elastic(model, bulk("Si", a=5.4335), settings).finding
    assert single.measured.noise_GPa > 1e-4
    assert model.dtype == torch.float32


def test_silicon_shears_more_easily_with_its_ions_and_its_forbidden_part_is_no_noise():
    result = elastic(tumble.load("silicon"), bulk("Si", a=5.4335), QUICK.model_copy(update={"strains": (0.005,)}))
    finding = result.finding
    assert str(finding.group) == "Fd-3m (227)"
    assert result.constants_GPa[3, 3] < 0.7 * finding.clamped.constants[3, 3]
    assert norm(finding.measured.forbidden) > 10 * 9 * finding.measured.noise_GPa
    np.testing.assert_allclose(result.constants_GPa[3:, :3], 0, atol=1e-10)


# ----------------------------------------------------------------------------------------------------------- stability


def test_a_simple_cubic_crystal_of_springs_does_not_resist_shear():
    result = elastic(springs(), bulk("Po", "sc", a=A), QUICK)
    assert verdicts(result)["stability"] == "unknown"
    np.testing.assert_allclose(result.constants_GPa[3:, 3:], 0, atol=1e-3)


def test_a_simple_cubic_crystal_of_compressed_springs_is_unstable():
    result = elastic(springs(), bulk("Po", "sc", a=0.98 * A), QUICK)
    stability = result.verdicts()[1]
    assert stability.answer == "no"
    assert stability.value is not None
    assert stability.value > 0
    assert "softest strain" in stability.reason
    assert "GPa these are no second derivatives of the energy" in result.verdicts()[0].reason


# ---------------------------------------------------------------------------------------------------- equation of state


def test_the_equation_of_state_has_the_bulk_modulus_of_the_constants():
    result = elastic(springs(), fcc(), ElasticSettings(average="none", volume_change=0.03))
    state, unit = result.finding.state, EV_PER_A3_TO_GPa * K / (math.sqrt(2) * A)
    assert state is not None
    assert state.best.bulk_GPa == pytest.approx(4 / 3 * unit, rel=1e-3)
    assert state.best.volume == pytest.approx(fcc().cell.volume, rel=1e-5)
    assert state.of_pressures is not None
    assert state.of_pressures.bulk_GPa == pytest.approx(4 / 3 * unit, rel=2e-3)
    assert state.pressure_share < 1e-4
    assert verdicts(result) == {"elastic": "yes", "stability": "yes", "eos": "yes", "pressure": "yes"}
    lowest = result.arrays["energies"].argmin()
    assert result.arrays["volumes_A3"][lowest] == pytest.approx(fcc().cell.volume)


def test_a_stress_ten_percent_too_large_is_not_the_derivative_of_the_energy():
    result = elastic(Changed(springs(), 1.1), fcc(), ElasticSettings(average="none", volume_change=0.03))
    state = result.finding.state
    assert state is not None
    said, known = state.gaps_GPa, state.pressures_GPa
    np.testing.assert_allclose(said, 0.1 / 1.1 * (known[1:] + known[:-1]) / 2, rtol=0.05, atol=0.02)
    assert verdicts(result)["pressure"] == "no"
    assert result.verdicts()[3].remedy == "use the stress that is the derivative of the energy"


def test_a_bulk_modulus_that_the_energies_do_not_share_is_refused():
    result = elastic(Changed(springs(), 1.1), fcc(), ElasticSettings(average="none", volume_change=0.03))
    eos = result.verdicts()[2]
    assert eos.answer == "no"
    assert eos.value == pytest.approx(1 - 1 / 1.1, abs=5e-3)
    assert eos.threshold == 0.05


def test_a_crystal_far_from_its_volume_has_its_minimum_outside():
    result = elastic(
        springs(), bulk("Ar", "fcc", a=0.98 * math.sqrt(2) * A), ElasticSettings(average="none", volume_change=0.03)
    )
    assert verdicts(result)["eos"] == "no"
    assert "lies outside of the volumes" in result.verdicts()[2].reason


def test_energies_that_have_no_minimum_are_said_to_have_none():
    result = elastic(quartic(cutoff=0.9 * A), fcc(), ElasticSettings(average="none"))
    eos = result.verdicts()[2]
    assert eos.answer == "no"
    assert "no minimum in sight" in eos.reason
    assert "What the equations of state leave" not in [fact.title for fact in result.facts()]


# ----------------------------------------------------------------------------------------------------------- the result


def test_a_result_is_saved_and_loaded(tmp_path):
    told = []
    settings = ElasticSettings(average="i")
    result = elastic(springs(second=0.5), zincblende(), settings, name="springs", tell=told.append)
    assert told[-1].message.startswith("strained cells over i: ")
    loaded = tumble.load_result(result.save(tmp_path / "elastic"))
    assert [one.key for one in loaded.verdicts()] == ["elastic", "stability", "eos", "pressure"]
    np.testing.assert_allclose(loaded.arrays["constants_projected_GPa"], result.constants_GPa)
    assert {"constants_raw_GPa", "constants_plusminus_GPa", "constants_averaged_GPa"} <= set(loaded.arrays)
    assert loaded.subject is not None
    assert loaded.subject["name"] == "springs"
    assert loaded.title == "springs on AsGa, F-43m (216)"
    heats = [fact for fact in loaded.facts() if type(fact).__name__ == "Heat"]
    assert [heat.title for heat in heats] == ["Elastic constants, projected", "Forbidden part of the elastic constants"]


def test_a_result_is_typeset(tmp_path):
    result = elastic(springs(), fcc(), QUICK)
    page = tumble.report(result, to=tmp_path / "page.html").read_text()
    assert "Forbidden part of the elastic constants" in page
    assert "softest strain" in page


def test_constraints_of_the_file_do_not_hold_ions():
    from ase.constraints import FixAtoms

    held = zincblende()
    held.set_constraint(FixAtoms([0, 1]))
    free = elastic(springs(second=0.5), zincblende(), QUICK).constants_GPa
    np.testing.assert_allclose(elastic(springs(second=0.5), held, QUICK).constants_GPa, free)
    assert held.constraints


def test_the_structure_that_was_given_stays_as_it_is():
    atoms = zincblende()
    before = atoms.copy()
    elastic(springs(second=0.5), atoms, QUICK)
    assert atoms == before
    assert atoms.calc is None


def test_a_crystal_almost_symmetric_is_made_symmetric():
    atoms = zincblende()
    atoms.positions[1] += [2e-4, 0, -1e-4]
    result = elastic(springs(second=0.5), atoms, QUICK)
    assert result.finding.group.number == 216
    assert to_voigt(result.finding.atoms.cell.array).shape == (6,)
    assert norm(result.finding.measured.forbidden) < 1e-4 * norm(result.constants_GPa)


# --------------------------------------------------------------------------------------------------------------- errors


def test_a_layer_is_refused():
    with pytest.raises(ValueError, match=r"pbc is \[True, True, False\], and elastic constants are those of a crystal"):
        elastic(springs(), graphene(vacuum=5.0), QUICK)


def test_a_crystal_that_is_not_relaxed_is_refused_with_the_command_to_run():
    atoms = bulk("Si", "diamond", a=4 / math.sqrt(3) * A)
    atoms.positions[1] += 0.05
    with pytest.raises(ValueError, match=r"and elastic expects at most 5\. Run `tumble relax springs STRUCTURE -o"):
        elastic(springs(second=0.5), atoms, QUICK, name="springs")


@pytest.mark.parametrize(
    ("lacking", "expected"),
    [("forces", "forces were expected"), ("stress", "forces to relax ions by and the stress of strained cells were")],
)
def test_a_potential_without_forces_or_stress_is_refused(lacking, expected):
    with pytest.raises(ValueError, match=f"a Changed gives no {lacking}; {expected}"):
        elastic(Changed(springs(), lacking=lacking), fcc(), QUICK)


def test_a_stress_that_is_not_finite_is_an_error():
    potential = Changed(springs(), nan_beyond=fcc().cell.volume * 1.001)
    with pytest.raises(RuntimeError, match=r"the stress of 6 of 25 strained cells is not finite"):
        elastic(potential, fcc(), QUICK)


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="'average' = 'Q'"):
        ElasticSettings(average="Q")


@pytest.mark.parametrize("strains", [(0.1,), (1e-6,), (0.01, 0.01)])
def test_strains_that_make_no_sense_are_refused(strains):
    with pytest.raises(ValueError, match=r"different ones from 1e-5 to 0\.05 were expected"):
        ElasticSettings(strains=strains)


def test_too_few_volumes_are_refused():
    with pytest.raises(ValueError, match="4 volumes cannot judge an equation of state with 4 unknowns"):
        ElasticSettings(volumes=4)
