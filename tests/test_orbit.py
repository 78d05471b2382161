import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.lj import LennardJones as EngineLennardJones
from hypothesis import given, settings
from hypothesis import strategies as st

from analytic import Foreigner, Handed, Recorder, dimer, lopsided, polar, quartic, skewed_dimer
from tumble import neighbors, orbit
from tumble.batch import Properties, collate, strain
from tumble.bridges.ase import Foreign
from tumble.models.pair import LennardJones
from tumble.orbit import Orbit, mean_over, moments_over
from tumble.potential import Gradient, Potential, collate_for
from tumble.rotations import Rotations


def structures() -> list[Atoms]:
    """A molecule, a rattled triclinic crystal with self-images, and a lone atom."""
    crystal = bulk("GaAs", "zincblende", a=4.2)
    crystal.rattle(0.1, seed=1)
    return [molecule("H2O"), crystal, Atoms("Ar", [(1, 2, 3)])]


def close(a: Properties, b: Properties, tolerance: float = 1e-12) -> None:
    for one, other in zip(a, b, strict=True):
        if one is None or other is None:
            assert one is other
        else:
            torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


def test_an_orbit_has_a_leading_axis_of_rotations():
    batch = collate_for(lopsided(), structures())
    found = Orbit.of(lopsided(), batch, Rotations.parse("T"))
    assert found.properties.energy.shape == (12, 3)
    assert found.properties.forces.shape == (12, 6, 3)
    assert found.properties.stress.shape == (12, 3, 3, 3)
    assert [tuple(f.shape) for f in found.mean()] == [(3,), (6, 3), (3, 3, 3)]
    assert [tuple(f.shape) for f in found.spread()] == [(3,), (6,), (3,)]
    assert [tuple(f.shape) for f in found.spectrum(1)] == [(1, 2, 3), (1, 2, 6), (1, 2, 3)]


def test_the_identity_alone_gives_the_raw_answer():
    potential = lopsided()
    batch = collate_for(potential, structures())
    found = Orbit.of(potential, batch, Rotations.parse("none"))
    close(found.mean(), potential(batch), 0)
    assert all(float(field.abs().max()) == 0 for field in found.spread())


@pytest.mark.parametrize("chunk", [1, 5, 48, 1000, None])
def test_an_orbit_does_not_depend_on_the_chunk(chunk):
    potential, rotations = lopsided(), Rotations.parse("Oh")
    batch = collate_for(potential, structures())
    close(
        Orbit.of(potential, batch, rotations, chunk=chunk).properties,
        Orbit.of(potential, batch, rotations, chunk=7).properties,
    )


@pytest.mark.parametrize("chunk", [1, 7, 1000, None])
@pytest.mark.parametrize("spec", ["so3:7", "random:5", "Ih"])
def test_streaming_gives_the_mean_and_the_spread_of_the_orbit(spec, chunk):
    potential, rotations = lopsided(), Rotations.parse(spec)
    batch = collate_for(potential, structures())
    whole = Orbit.of(potential, batch, rotations)
    mean, spread = moments_over(potential, batch, rotations, chunk)
    close(mean, whole.mean())
    close(spread, whole.spread())
    close(mean_over(potential, batch, rotations, chunk), whole.mean())


def test_a_call_never_holds_more_copies_than_the_chunk():
    potential = Recorder(lopsided())
    batch = collate_for(potential, structures())
    mean_over(potential, batch, Rotations.parse("Ih"), chunk=32)
    assert [n for n, _, _ in potential.calls] == [96, 96, 96, 72]


def test_the_chunk_is_chosen_so_that_memory_does_not_grow_with_the_rotations(monkeypatch):
    potential = Recorder(lopsided())
    batch = collate_for(potential, structures())
    monkeypatch.setattr(orbit, "PAIRS_PER_PASS", 10 * batch.n_pairs)
    for spec in ("Ih", "o3:7"):
        potential.calls.clear()
        mean_over(potential, batch, Rotations.parse(spec))
        assert max(pairs for _, _, pairs in potential.calls) == 10 * batch.n_pairs
    monkeypatch.setattr(orbit, "PAIRS_PER_PASS", 1)
    potential.calls.clear()
    mean_over(potential, batch, Rotations.parse("T"))
    assert len(potential.calls) == 12


def test_structures_without_pairs_are_packed_by_atoms(monkeypatch):
    potential = Recorder(Foreigner())
    batch = collate_for(potential, [molecule("H2O")])
    monkeypatch.setattr(orbit, "PAIRS_PER_PASS", 12)
    mean_over(potential, batch, Rotations.parse("T"))
    assert potential.calls == [(4, 12, 0)] * 3


def test_a_chunk_below_one_is_refused():
    potential = skewed_dimer()
    with pytest.raises(ValueError, match="chunk is 0 copies per call; at least 1 was expected"):
        Orbit.of(potential, collate_for(potential, [dimer()]), Rotations.parse("T"), chunk=0)


def test_turning_back_undoes_the_turn_of_an_equivariant_answer():
    potential = Gradient(LennardJones(0.01, 1.5, cutoff=4.0))
    batch = collate_for(potential, structures())
    raw = potential(batch)
    found = Orbit.of(potential, batch, Rotations.parse("o3:7@generic"))
    for field, reference in zip(found.properties, raw, strict=True):
        torch.testing.assert_close(field, reference.expand_as(field), atol=1e-12, rtol=1e-12)
    for field, reference in zip(found.spread(), raw, strict=True):
        assert float(field.max()) < 1e-13 * max(1.0, float(reference.abs().max()))


def test_the_spread_of_a_large_energy_is_not_lost_to_rounding():
    class Shifted(Potential):
        cutoff, species, is_conservative = 3.0, None, True

        def forward(self, batch):
            energy, forces, stress = skewed_dimer(1e-6)(batch)
            return Properties(energy - 1e6, forces, stress)

    potential = Shifted()
    batch = collate_for(potential, [dimer()])
    rotations = Rotations.parse("o3:4")
    found = Orbit.of(potential, batch, rotations)
    variance = 4 * 1e-12 / 45
    assert float(found.spread().energy) == pytest.approx(variance**0.5, rel=1e-3)
    assert float(moments_over(potential, batch, rotations, 7)[1].energy) == pytest.approx(variance**0.5, rel=1e-3)
    assert float(found.spectrum(2).energy[0, 2, 0]) == pytest.approx(variance, rel=1e-3)


def test_forces_of_the_mean_are_the_gradient_of_the_mean_energy():
    potential, rotations = lopsided(), Rotations.parse("T")
    atoms = structures()[1]

    def energy(one: Atoms) -> float:
        return float(mean_over(potential, collate_for(potential, [one]), rotations).energy)

    forces = mean_over(potential, collate_for(potential, [atoms]), rotations).forces
    step = 1e-4
    for atom in range(2):
        for axis in range(3):
            ends = []
            for sign in (1, -1):
                moved = atoms.copy()
                moved.positions[atom, axis] += sign * step
                ends.append(energy(moved))
            assert -(ends[0] - ends[1]) / (2 * step) == pytest.approx(float(forces[atom, axis]), abs=2e-7)


def test_stress_of_the_mean_is_the_strain_derivative_of_the_mean_energy():
    potential, rotations = lopsided(), Rotations.parse("Th")
    atoms = structures()[1]
    batch = collate_for(potential, [atoms])
    stress = mean_over(potential, batch, rotations).stress[0]
    step = 1e-5
    for a in range(3):
        for b in range(a, 3):
            epsilon = torch.zeros(3, 3, dtype=torch.float64)
            epsilon[a, b] += step / 2
            epsilon[b, a] += step / 2
            up, down = (
                float(mean_over(potential, strain(batch, sign * epsilon), rotations).energy) for sign in (1, -1)
            )
            assert (up - down) / (2 * step * atoms.get_volume()) == pytest.approx(float(stress[a, b]), abs=1e-8)


def test_a_mean_over_a_group_is_invariant_under_turning_the_structure_by_it():
    potential, rotations = lopsided(), Rotations.parse("Th")
    atoms = structures()[1]
    mean = mean_over(potential, collate_for(potential, [atoms]), rotations)
    for turn in rotations.matrices[[3, 17]]:
        turned = atoms.copy()
        turned.set_cell(atoms.cell.array @ turn.numpy().T)
        turned.positions = atoms.positions @ turn.numpy().T
        other = mean_over(potential, collate_for(potential, [turned]), rotations)
        torch.testing.assert_close(other.energy, mean.energy)
        torch.testing.assert_close(other.forces, mean.forces @ turn.T)
        torch.testing.assert_close(other.stress[0], turn @ mean.stress[0] @ turn.T)


def test_spectrum_adds_up_to_the_variance_and_begins_with_the_square_of_the_mean():
    # Energies have ℓ <= 4; a force adds one, a stress two: all below 6.
    potential = lopsided()
    batch = collate_for(potential, structures())
    found = Orbit.of(potential, batch, Rotations.parse("o3:12"))
    spectrum, spread, mean = found.spectrum(6), found.spread(), found.mean()
    for power, deviation, average in zip(spectrum, spread, mean, strict=True):
        torch.testing.assert_close(power.sum((0, 1)) - power[0, 0], deviation.square(), atol=1e-13, rtol=1e-10)
        squares = average.square().flatten(1).sum(1) if average.dim() > 1 else average.square()
        torch.testing.assert_close(power[0, 0], squares)
        assert float(power.min()) > -1e-14


def test_channels_do_not_depend_on_the_frame_of_the_rule():
    potential = lopsided()
    batch = collate_for(potential, structures())
    lab = Orbit.of(potential, batch, Rotations.parse("o3:12")).spectrum(6)
    generic = Orbit.of(potential, batch, Rotations.parse("o3:12@generic")).spectrum(6)
    close(lab, generic, 1e-11)


def test_proper_rules_give_the_sum_of_both_parities():
    potential = lopsided()
    batch = collate_for(potential, structures()[:1])
    full = Orbit.of(potential, batch, Rotations.parse("o3:8")).spectrum(4).energy
    proper = Orbit.of(potential, batch, Rotations.parse("so3:8")).spectrum(4).energy
    assert proper.shape == (1, 5, 1)
    torch.testing.assert_close(
        proper.sum((0, 1)),
        Orbit.of(potential, batch, Rotations.parse("so3:8")).spread().energy ** 2 + proper[0, 0],
        atol=1e-12,
        rtol=1e-9,
    )
    # A pair potential is a function of directions: no pseudo channel, so the sum is the proper one.
    torch.testing.assert_close(proper[0], full[0], atol=1e-12, rtol=1e-9)
    assert float(full[1].abs().max()) < 1e-14


def test_a_pseudoscalar_is_one_channel_and_all_parity():
    x = np.array([[0, 0, 0], [1.0, 0.2, 0], [0.1, 1.1, 0], [0, 0.3, 0.9]])
    batch = collate([Atoms("CHFO", x)], 0.0)
    found = Orbit.of(Handed(), batch, Rotations.parse("o3:4"))
    value = 0.3 * float(np.linalg.det(x[1:] - x[0]))
    expected = torch.zeros(2, 3, 1, dtype=torch.float64)
    expected[1, 0] = value**2
    torch.testing.assert_close(found.spectrum().energy, expected, atol=1e-14, rtol=1e-12)
    assert float(found.parity().energy) == pytest.approx(abs(value))
    assert float(found.spread().energy) == pytest.approx(abs(value))
    assert found.properties.forces is None
    assert found.spread().forces is None
    assert found.parity().stress is None


def test_parity_is_the_power_of_the_odd_channels():
    potential = lopsided()
    batch = collate_for(potential, structures())
    found = Orbit.of(potential, batch, Rotations.parse("o3:12"))
    power = found.spectrum(6).energy
    odd = power[0, 1::2].sum(0) + power[1, 0::2].sum(0)
    torch.testing.assert_close(found.parity().energy.square(), odd, atol=1e-13, rtol=1e-9)
    assert float(found.parity().energy[0]) > 1e-2


def test_parity_of_forces_and_stress_vanishes_only_for_even_potentials():
    rotations = Rotations.parse("Oh@generic")
    even = Orbit.of(quartic(), collate_for(quartic(), structures()), rotations).parity()
    assert max(float(field.max()) for field in even) < 1e-14
    odd = Orbit.of(polar(), collate_for(polar(), structures()), rotations).parity()
    assert min(float(field.max()) for field in odd) > 1e-3


def test_parity_without_opposite_nodes_is_refused():
    potential = skewed_dimer()
    found = Orbit.of(potential, collate_for(potential, [dimer()]), Rotations.parse("O"))
    with pytest.raises(ValueError, match=r"which O does not have\. Use a rule with inversion"):
        found.parity()


def test_a_spectrum_beyond_half_the_degree_is_refused():
    potential = skewed_dimer()
    found = Orbit.of(potential, collate_for(potential, [dimer()]), Rotations.parse("Oh"))
    with pytest.raises(ValueError, match=r"l = 2 was asked for; Oh is exact to degree 3, which resolves 0 to 1.*o3:4"):
        found.spectrum(2)
    with pytest.raises(ValueError, match="l = -1 was asked for"):
        found.spectrum(-1)


def test_a_spectrum_of_a_rule_that_mixes_parities_is_refused():
    group = Rotations.parse("T").matrices
    improper = Rotations.parse("O").matrices
    fresh = improper[[not bool((m == group).all((1, 2)).any()) for m in improper]]
    full_tetrahedral = Rotations(torch.cat([group, -fresh]), torch.full((24,), 1 / 24, dtype=torch.float64), 2, "Td")
    assert full_tetrahedral.is_group
    potential = skewed_dimer()
    found = Orbit.of(potential, collate_for(potential, [dimer()]), full_tetrahedral)
    with pytest.raises(ValueError, match="Td mixes proper and inverting nodes"):
        found.spectrum(1)


@pytest.mark.parametrize("spec", ["T", "O", "Oh", "euler:2", "random:9:4"])
def test_the_expected_error_of_a_rule_is_the_one_found_over_many_frames(spec):
    potential = lopsided()
    atoms = structures()[:1]
    batch = collate_for(potential, atoms)
    rotations = Rotations.parse(spec)
    expected = Orbit.of(potential, batch, Rotations.parse("o3:12")).expected_error(rotations, 6).energy
    exact = mean_over(potential, batch, Rotations.parse("o3:7")).energy
    # The error is an average over frames of the structure and of the lab; the potential is turned by turning both.
    squares = []
    for left, right in zip(Rotations.random(60, 1).matrices, Rotations.random(60, 2).matrices, strict=True):
        turned = Rotations(left @ rotations.matrices @ right, rotations.weights, 0, "turned")
        squares.append(float((mean_over(potential, batch, turned).energy - exact).square()))
    assert np.sqrt(np.mean(squares)) == pytest.approx(float(expected), rel=0.3, abs=1e-13)


def test_the_expected_error_is_that_of_the_channels_the_rule_leaves():
    batch = collate_for(quartic(), [dimer()])
    proper, full = (Orbit.of(quartic(), batch, Rotations.parse(spec)) for spec in ("so3:8", "o3:8"))
    for found in (proper, full):
        assert float(found.expected_error(Rotations.parse("I")).energy) < 1e-9
        assert float(found.expected_error(Rotations.parse("none")).energy) == pytest.approx(
            float(found.spread().energy), rel=1e-9
        )
        assert float(found.expected_error(Rotations.parse("O")).energy) == pytest.approx(
            float(found.spread().energy) / 3, rel=1e-9
        )


def test_a_single_precision_batch_is_averaged_in_double_precision():
    potential = lopsided()
    single = collate(structures(), potential.cutoff, dtype=torch.float32)
    found = Orbit.of(potential.float(), single, Rotations.parse("Th"))
    double = lopsided()
    reference = Orbit.of(double, collate_for(double, structures()), Rotations.parse("Th"))
    assert all(field.dtype == torch.float64 for field in found.properties)
    close(found.mean(), reference.mean(), 1e-5)


def test_a_foreign_potential_without_pairs_has_an_orbit():
    batch = collate_for(Foreigner(), [molecule("H2O"), molecule("CH4")])
    found = Orbit.of(Foreigner(), batch, Rotations.parse("o3:5"), chunk=50)
    x = batch.positions - torch.stack([batch.positions[:3].mean(0)] * 3 + [batch.positions[3:].mean(0)] * 5)
    per_atom = x.square().sum(1) / 6  # ½ z² averaged over directions
    energy = torch.stack([per_atom[:3].sum(), per_atom[3:].sum()])
    torch.testing.assert_close(found.mean().energy, energy)
    torch.testing.assert_close(found.mean().forces, -x / 3)
    assert found.mean().stress is None
    assert float(found.spread().energy[0]) > 0.01


def test_an_engine_that_is_symmetric_has_no_spread_even_in_left_handed_cells():
    engine = Foreign(EngineLennardJones(sigma=2.2, epsilon=0.1, rc=5.0, smooth=True))
    atoms = bulk("Cu", a=3.6, cubic=True)
    atoms.rattle(0.1, seed=3)
    batch = collate_for(engine, [atoms])
    spread = Orbit.of(engine, batch, Rotations.parse("random:6")).spread()
    inverted = Orbit.of(engine, batch, Rotations.parse("i")).spread()
    for found in (spread, inverted):
        assert max(float(field.max()) for field in found) < 1e-11


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_any_structure_in_any_cell_gives_an_invariant_answer_from_an_invariant_potential(seed):
    random = np.random.default_rng(seed)
    atoms = bulk("Ar", "sc", a=2.0) * (1, 2, 1)
    atoms.set_cell(atoms.cell.array + random.uniform(-0.5, 0.5, (3, 3)), scale_atoms=True)
    atoms.rattle(0.1, seed=seed)
    atoms.pbc = random.integers(0, 2, 3)
    potential = Gradient(LennardJones(0.01, 1.5, cutoff=3.0))
    spread = Orbit.of(potential, collate_for(potential, [atoms]), Rotations.random(4, seed)).spread()
    assert max(float(field.max()) for field in spread) < 1e-11


@pytest.mark.parametrize("name", ["random", "at the cutoff"])
def test_neighbour_counts_are_the_same_in_fifty_frames(name):
    if name == "random":
        atoms = bulk("GaAs", "zincblende", a=4.2) * (1, 2, 1)
        atoms.rattle(0.2, seed=5)
        cutoff = 4.0
    else:
        atoms = bulk("Cu", a=3.6)
        cutoff = 3.6 * np.sqrt(2) + 1e-9  # the fourth shell lies a billionth of an angstrom inside
    batch = collate([atoms], cutoff)
    turns = torch.cat([Rotations.random(25, 1).matrices, -Rotations.random(25, 2).matrices])
    rule = Rotations(turns, torch.full((50,), 1 / 50, dtype=torch.float64), 0, "frames")
    potential = Recorder(quartic(cutoff=cutoff))
    Orbit.of(potential, batch, rule, chunk=1)
    assert potential.calls == [(1, len(atoms), batch.n_pairs)] * 50
    for turn in turns.numpy():
        cell, positions = atoms.cell.array @ turn.T, atoms.positions @ turn.T
        searched = neighbors.search(positions, cell, atoms.pbc, cutoff)
        assert len(searched.center) == batch.n_pairs
        np.testing.assert_array_equal(searched.center, batch.center.numpy())
        np.testing.assert_array_equal(searched.shift, batch.shift.numpy())
