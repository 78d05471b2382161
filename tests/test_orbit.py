import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.lj import LennardJones as EngineLennardJones
from ase.spacegroup import crystal
from hypothesis import given, settings
from hypothesis import strategies as st

from analytic import Foreigner, Handed, Recorder, dimer, lopsided, polar, quartic, skewed_dimer
from tumble import neighbors
from tumble.batch import Properties, collate, strain
from tumble.bridges.ase import Foreign
from tumble.crystal import point_operations, space_group
from tumble.models.pair import LennardJones
from tumble.orbit import Orbit, mean_over, moments_over, n_calls_for, passes, streaming
from tumble.packs import weight
from tumble.potential import Gradient, Model, Outputs, Potential, collate_for
from tumble.rotations import Rotations


def structures() -> list[Atoms]:
    """A molecule, a rattled triclinic crystal with self-images, and a lone atom."""
    rattled = bulk("GaAs", "zincblende", a=4.2)
    rattled.rattle(0.1, seed=1)
    return [molecule("H2O"), rattled, Atoms("Ar", [(1, 2, 3)])]


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
    monkeypatch.setattr(streaming, "PAIRS_PER_PASS", 10 * weight(batch))
    for spec in ("Ih", "o3:7"):
        potential.calls.clear()
        mean_over(potential, batch, Rotations.parse(spec))
        assert max(pairs for _, _, pairs in potential.calls) == 10 * batch.n_pairs
    monkeypatch.setattr(streaming, "PAIRS_PER_PASS", 1)
    potential.calls.clear()
    mean_over(potential, batch, Rotations.parse("T"))
    assert len(potential.calls) == 12


def test_structures_without_pairs_are_packed_by_atoms(monkeypatch):
    potential = Recorder(Foreigner())
    batch = collate_for(potential, [molecule("H2O")])
    monkeypatch.setattr(streaming, "PAIRS_PER_PASS", 4 * weight(batch))
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
    batch = collate_for(potential, structures()[:1])
    lab = Orbit.of(potential, batch, Rotations.parse("o3:10")).spectrum()
    generic = Orbit.of(potential, batch, Rotations.parse("o3:10@generic")).spectrum()
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


def test_forces_and_stress_of_the_skewed_dimer_are_quadrupolar_with_their_closed_form():
    # With d along the dimer, m = Qᵀẑ and c = d·m the turned-back force is ∓[2(r-1) d + (2ε/r) c (m - c d)], and the
    # volume times the stress its symmetrized product with r d. <c²> = 1/3 and <c⁴> = 1/5, so <|c (m - c d)|²> = 2/15.
    epsilon, r = 0.3, 1.2
    atoms = dimer(r=r)
    atoms.set_cell(np.diag([6.0, 7.0, 8.0]))
    atoms.pbc = True
    potential, volume = skewed_dimer(epsilon), 6.0 * 7.0 * 8.0
    found = Orbit.of(potential, collate_for(potential, [atoms]), Rotations.parse("o3:8@generic")).spectrum()
    forces, stress = torch.zeros(2, 5, 2, dtype=torch.float64), torch.zeros(2, 5, 1, dtype=torch.float64)
    forces[0, 0], forces[0, 2] = (2 * (r - 1)) ** 2, 4 * epsilon**2 / r**2 * 2 / 15
    stress[0, 0], stress[0, 2] = (2 * r * (r - 1) / volume) ** 2, 4 * epsilon**2 * 2 / 15 / 2 / volume**2
    torch.testing.assert_close(found.forces, forces, atol=1e-14, rtol=1e-11)
    torch.testing.assert_close(found.stress, stress, atol=1e-18, rtol=1e-11)


class HandedDipole(Model):
    """E = ε a·(b × c) (a·ẑ) of the vectors from atom 0 to atoms 1, 2, 3: ℓ = 1 of even parity, a pseudovector."""

    cutoff, species = 3.0, None

    def forward(self, batch):
        a, b, c = batch.vectors[batch.center % 4 == 0].reshape(-1, 3, 3).unbind(1)
        energies = 0.3 * (a * torch.linalg.cross(b, c)).sum(1) * a[:, 2]
        return Outputs(torch.zeros(batch.n_atoms, dtype=torch.float64).index_add(0, torch.arange(len(a)) * 4, energies))


def test_energy_forces_and_stress_of_a_handed_dipole_are_in_the_pseudo_channel_of_one():
    x = np.array([[0, 0, 0], [1.0, 0.2, 0], [0.1, 1.1, 0], [0, 0.3, 0.9]])
    atoms = Atoms("CHFO", x, cell=np.diag([8.0, 9.0, 10.0]), pbc=True)
    potential = Gradient(HandedDipole())
    found = Orbit.of(potential, collate_for(potential, [atoms]), Rotations.parse("o3:8@generic"))
    determinant, a = 0.3 * np.linalg.det(x[1:]), x[1]
    assert float(found.spectrum().energy[1, 1, 0]) == pytest.approx(determinant**2 * a @ a / 3, rel=1e-12)
    # Of F_3 = -ε (a × b) (a·m), m uniform on the sphere: |a × b|² a² / 3.
    last = 0.3**2 * (np.cross(a, x[2]) ** 2).sum() * (a @ a) / 3
    assert float(found.spectrum().forces[1, 1, 3]) == pytest.approx(last, rel=1e-12)
    for power, deviation in zip(found.spectrum(), found.spread(), strict=True):
        assert float(deviation.min()) > 1e-6
        torch.testing.assert_close(power[1, 1], deviation.square(), atol=1e-18, rtol=1e-11)
        others = power.clone()
        others[1, 1] = 0
        assert float(others.abs().max()) < 1e-12 * float(power.max())


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
    found = Orbit.of(potential, batch, Rotations.parse("o3:8"))
    power = found.spectrum().energy
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


@pytest.mark.parametrize(("spec", "resolved"), [("o3:8", 4), ("so3:7", 3), ("I", 2), ("T@random:3", 1), ("none", 0)])
def test_a_spectrum_reaches_half_the_degree_of_the_rule(spec, resolved):
    potential = skewed_dimer()
    found = Orbit.of(potential, collate_for(potential, [dimer()]), Rotations.parse(spec))
    assert found.resolves == resolved
    assert found.spectrum().energy.shape[1] == resolved + 1


def test_the_standard_error_of_random_rotations_is_the_closed_form_of_the_dimer():
    epsilon, n = 0.3, 2000
    potential = skewed_dimer(epsilon)
    found = Orbit.of(potential, collate_for(potential, [dimer()]), Rotations.parse(f"random:{n}:1"))
    error = found.standard_error()
    expected = (4 * epsilon**2 / 45 / n) ** 0.5
    # The variance of (r̂·ẑ)² is estimated from 2000 values; of such an estimate the relative error is about 1/√n.
    assert float(error.energy) == pytest.approx(expected, rel=0.05)
    assert abs(float(found.mean().energy) - 0.04 - epsilon / 3) < 3 * expected
    # One rotation a replica: the spread with n - 1 instead of n.
    for one, deviation in zip(error, found.spread(), strict=True):
        torch.testing.assert_close(one, deviation / (n - 1) ** 0.5, atol=1e-16, rtol=1e-10)


def test_the_standard_error_is_unbiased_and_scatters_as_the_means_do():
    potential = lopsided()
    batch = collate_for(potential, structures()[:1])
    orbits = [Orbit.of(potential, batch, Rotations.parse(f"T@random:8:{seed}")) for seed in range(1, 61)]
    squared = torch.stack([one.standard_error().energy.square() for one in orbits]).mean(0)
    exact = mean_over(potential, batch, Rotations.parse("o3:7")).energy
    means = torch.stack([one.mean().energy for one in orbits])
    torch.testing.assert_close((means - exact).square().mean(0), squared, rtol=0.4, atol=0)


def test_the_standard_error_has_no_part_in_what_every_copy_averages_to_zero():
    potential = skewed_dimer()
    batch = collate_for(potential, [dimer()])
    for spec in ("T@random:5", "Oh@random:3:2", "euler:2@random:2"):
        error = Orbit.of(potential, batch, Rotations.parse(spec)).standard_error()
        assert max(float(field.max()) for field in error) < 1e-15
    assert float(Orbit.of(potential, batch, Rotations.parse("random:5")).standard_error().energy) > 0.01


@pytest.mark.parametrize("spec", ["Oh", "Oh@generic", "T@random:1", "random:1"])
def test_a_standard_error_of_one_replica_is_refused(spec):
    potential = skewed_dimer()
    found = Orbit.of(potential, collate_for(potential, [dimer()]), Rotations.parse(spec))
    with pytest.raises(ValueError, match=rf"at least 2 randomly turned copies of one rule; {spec} has 1\. Use a rule"):
        found.standard_error()


def benzene() -> Atoms:
    """C6H6 as six exact turns of one CH."""
    angles = np.arange(6) * np.pi / 3
    circle = np.stack([np.cos(angles), np.sin(angles), np.zeros(6)], 1)
    return Atoms("C6H6", np.concatenate([1.395 * circle, 2.482 * circle]))


def tellurium() -> Atoms:
    """Trigonal, with screw axes."""
    return crystal(["Te"], [(0.263, 0, 1 / 3)], spacegroup=152, cellpar=[4.45, 4.45, 5.93, 90, 90, 120])


def centrosymmetric() -> Atoms:
    """Triclinic, with nothing but an inversion, and that not at the origin."""
    half = np.random.default_rng(3).uniform(-1, 1, (3, 3)) * 1.4
    cell = [[4.1, 0.2, 0.1], [0.3, 4.6, -0.2], [-0.1, 0.4, 5.0]]
    return Atoms("GaAsCGaAsC", np.concatenate([0.3 + half, 0.3 - half]), cell=cell, pbc=True)


SYMMETRIC = {
    "diamond": bulk("Si", a=5.43, cubic=True),
    "hexagonal": bulk("Mg", a=2.9, c=4.7),
    "trigonal": tellurium(),
    "methane": molecule("CH4"),
    "benzene": benzene(),
    "inversion": centrosymmetric(),
    "linear": molecule("CO2"),
    "atom": Atoms("Ar", [(1, 2, 3)]),
    "none": structures()[1],
}


@pytest.mark.parametrize("spec", ["i", "Oh", "Ih", "euler:2i", "Th@random:2"])
@pytest.mark.parametrize("name", SYMMETRIC)
def test_answers_that_follow_by_symmetry_are_those_that_asking_gives(name, spec):
    potential, atoms, rule = Recorder(lopsided(cutoff=3.2)), SYMMETRIC[name], Rotations.parse(spec)
    batch, group = collate_for(potential, [atoms]), space_group(atoms)
    asked = Orbit.of(potential, batch, rule)
    potential.calls.clear()
    followed = Orbit.of(potential, batch, rule, groups=[group])
    assert sum(n for n, _, _ in potential.calls) == n_calls_for(rule, group)
    close(followed.properties, asked.properties)
    mean, spread = moments_over(potential, batch, rule, groups=[group])
    close(mean, asked.mean())
    close(spread, asked.spread())


@pytest.mark.parametrize(
    ("name", "spec", "n_calls"),
    [
        ("diamond", "I", 5),
        ("diamond", "Ih", 5),
        ("diamond", "O", 1),
        ("diamond", "Oh", 1),
        ("methane", "I", 5),
        ("methane", "Ih", 10),
        ("methane", "Th", 2),
        ("inversion", "i", 1),
        ("inversion", "Ih", 60),
        ("inversion", "I", 60),
        ("inversion", "o3:7@generic", 208),
        ("inversion", "Oh@random:2", 48),
        ("hexagonal", "crystal", 1),
        ("trigonal", "crystal", 1),
        ("benzene", "crystal", 1),
        ("none", "Ih", 120),
    ],
)
def test_a_structure_is_asked_about_once_for_each_coset_of_its_group(name, spec, n_calls):
    atoms = SYMMETRIC[name]
    rule = point_operations(atoms).rule() if spec == "crystal" else Rotations.parse(spec)
    potential, group = Recorder(lopsided(cutoff=3.2)), space_group(atoms)
    mean_over(potential, collate_for(potential, [atoms]), rule, groups=[group])
    assert sum(n for n, _, _ in potential.calls) == n_calls
    assert n_calls_for(rule, group) == n_calls
    assert n_calls_for(rule, None) == len(rule)


def test_each_structure_of_a_batch_follows_its_own_symmetry():
    atoms = [*SYMMETRIC.values(), *structures()]
    groups = [space_group(one) for one in SYMMETRIC.values()] + [None] * 3
    potential, rule = Recorder(lopsided(cutoff=3.2)), Rotations.parse("Ih")
    batch = collate_for(potential, atoms)
    asked = Orbit.of(potential, batch, rule)
    for chunk in (None, 7):
        potential.calls.clear()
        followed = Orbit.of(potential, batch, rule, chunk=chunk, groups=groups)
        assert sum(n for n, _, _ in potential.calls) == sum(n_calls_for(rule, group) for group in groups)
        close(followed.properties, asked.properties)
    mean, spread = moments_over(potential, batch, rule, groups=groups)
    close(mean, asked.mean())
    close(spread, asked.spread())


def test_structures_that_nothing_spares_stay_packed():
    potential, rule = Recorder(lopsided()), Rotations.parse("Ih")
    batch = collate_for(potential, structures())
    plain = mean_over(potential, batch, rule)
    calls = list(potential.calls)
    for groups in ([None] * 3, [None, space_group(structures()[1]), None]):
        potential.calls.clear()
        close(mean_over(potential, batch, rule, groups=groups), plain, 0)
        assert potential.calls == calls


def test_answers_that_follow_come_in_pieces_of_the_chunk_too():
    atoms, rule = SYMMETRIC["diamond"], Rotations.parse("Ih")
    potential = Recorder(lopsided())
    batch = collate_for(potential, [atoms])
    pieces = list(passes(potential, batch, rule, 2, space_group(atoms)))
    assert [n for n, _, _ in potential.calls] == [2, 2, 1]
    assert max(len(places) for places, _, _ in pieces) == 2
    assert sorted(torch.cat([places for places, _, _ in pieces]).tolist()) == list(range(120))
    assert all(len(answers.forces) == len(weights) == len(places) for places, weights, answers in pieces)


def test_what_is_learned_from_answers_that_follow_is_what_asking_teaches():
    potential, atoms, rule = lopsided(), SYMMETRIC["methane"], Rotations.parse("Ih")
    potential.train()
    batch, slopes = collate_for(potential, [atoms]), []
    for groups in (None, [space_group(atoms)]):
        answers = mean_over(potential, batch, rule, groups=groups)
        wanted = answers.energy.sum() + answers.forces.square().sum()
        slopes.append(torch.autograd.grad(wanted, list(potential.parameters()))[0])
    torch.testing.assert_close(slopes[1], slopes[0])


def test_one_group_for_each_structure_is_asked_for():
    potential, atoms = lopsided(), SYMMETRIC["methane"]
    batch, group = collate_for(potential, [atoms, atoms]), space_group(atoms)
    with pytest.raises(ValueError, match="1 groups were given for 2 structures; one for each was expected"):
        mean_over(potential, batch, Rotations.parse("I"), groups=[group])
    with pytest.raises(ValueError, match=r"one group was given for 2 structures; it is of one\. Use mean_over or"):
        next(passes(potential, batch, Rotations.parse("I"), group=group))


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
