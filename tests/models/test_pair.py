"""Pair potentials against closed forms, against ASE, and in time."""

import ase.calculators.lj
import ase.calculators.morse
import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.data import covalent_radii
from ase.md.verlet import VelocityVerlet

from tumble.bridges.ase import Calculator
from tumble.models.pair import ZBL, LennardJones, Morse
from tumble.packs import predict
from tumble.potential import Gradient, collate_for
from tumble.testing import structures
from tumble.units import BOLTZMANN


def dimer(r, symbols="Ar2"):
    return Atoms(symbols, [[0, 0, 0], [r / 3, 2 * r / 3, 2 * r / 3]])


def curve(model, distances, symbols="Ar2"):
    """Energies and outward forces on the second atom, along a dimer."""
    answers = predict(Gradient(model), [dimer(float(r), symbols) for r in distances])
    axis = torch.tensor([1, 2, 2], dtype=torch.float64) / 3
    return (
        np.array([float(one.energy) for one in answers]),
        np.array([float(one.forces[1] @ axis) for one in answers]),
    )


def disordered(symbol="Ar", a=5.2, seed=0):
    atoms = bulk(symbol, "fcc", a=a, cubic=True).repeat((2, 1, 1))
    atoms.set_cell(atoms.cell.array @ np.array([[1.02, 0.03, 0], [0, 0.99, 0.02], [0.01, 0, 1.0]]), scale_atoms=True)
    atoms.rattle(0.15, seed=seed)
    return atoms


PAIRS = {
    "Lennard-Jones": (
        LennardJones(0.0104, 3.4, cutoff=6.5, onset=4.0),
        ase.calculators.lj.LennardJones(epsilon=0.0104, sigma=3.4, rc=6.5, ro=4.0, smooth=True),
    ),
    "Lennard-Jones, defaults": (
        LennardJones(0.0104, 2.1),
        ase.calculators.lj.LennardJones(epsilon=0.0104, sigma=2.1, smooth=True),
    ),
    "Morse": (
        Morse(0.3, 2.9, 4.5, cutoff=2.5 * 2.9, onset=1.5 * 2.9),
        ase.calculators.morse.MorsePotential(epsilon=0.3, r0=2.9, rho0=4.5, rcut1=1.5, rcut2=2.5),
    ),
    "Morse, defaults": (Morse(0.3, 2.4), ase.calculators.morse.MorsePotential(epsilon=0.3, r0=2.4)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_energy_forces_and_stress_are_those_of_ase(name):
    model, calculator = PAIRS[name]
    for atoms in (disordered(), disordered(a=4.4, seed=3), *structures((18,))):
        (own,) = predict(Gradient(model), atoms)
        atoms.calc = calculator
        assert float(own.energy) == pytest.approx(atoms.get_potential_energy(), rel=1e-9, abs=1e-9)
        np.testing.assert_allclose(own.forces, atoms.get_forces(), rtol=1e-9, atol=1e-9)
        if own.stress is not None:
            np.testing.assert_allclose(own.stress, atoms.get_stress(voigt=False), rtol=1e-9, atol=1e-9)


def test_the_wells_are_where_their_parameters_say():
    energy, force = curve(LennardJones(0.5, 3.0, cutoff=12.0), [3.0, 3.0 * 2 ** (1 / 6)])
    np.testing.assert_allclose(energy, [0.0, -0.5], atol=1e-14)
    assert force[1] == pytest.approx(0, abs=1e-13)
    assert force[0] == pytest.approx(24 * 0.5 / 3.0)
    h = 1e-4
    energy, force = curve(Morse(0.5, 2.0, 6.0), [2.0, 2.0 - h, 2.0 + h])
    assert energy[0] == pytest.approx(-0.5)
    assert force[0] == pytest.approx(0, abs=1e-13)
    assert (force[1] - force[2]) / (2 * h) == pytest.approx(2 * 0.5 * (6.0 / 2.0) ** 2, rel=1e-5)


@pytest.mark.parametrize(
    ("model", "edge"),
    [
        (LennardJones(1.0, 2.0, cutoff=5.0, onset=3.5), 5.0),
        (LennardJones(1.0, 2.0, cutoff=5.0, onset=3.5), 3.5),
        (Morse(1.0, 2.0, 5.0, cutoff=5.0, onset=3.0), 5.0),
        (Morse(1.0, 2.0, 5.0, cutoff=5.0, onset=3.0), 3.0),
    ],
)
def test_energy_and_force_are_continuous_where_the_taper_begins_and_ends(model, edge):
    d = 1e-7
    energy, force = curve(model, [edge - d, edge + d])
    np.testing.assert_allclose(np.diff(energy), -2 * d * force.mean(), atol=1e-12)
    np.testing.assert_allclose(np.diff(force), 0, atol=1e-5)
    beyond, pull = curve(model, [5.0, 5.5])
    assert not beyond.any()
    assert not pull.any()


def test_every_pair_of_elements_has_its_own_parameters():
    sigma = {"Ar-Ar": 3.4, "Kr-Ar": 3.5, "Kr-Kr": 3.6}
    model = LennardJones(0.01, sigma, cutoff=9.0)
    assert model.species == (18, 36)
    for symbols, value in (("Ar2", 3.4), ("ArKr", 3.5), ("KrAr", 3.5), ("Kr2", 3.6)):
        energy, _ = curve(model, [4.0], symbols)
        alone, _ = curve(LennardJones(0.01, value, cutoff=9.0), [4.0], symbols)
        assert energy[0] == pytest.approx(alone[0], rel=1e-14)
    with pytest.raises(ValueError, match=r"element 10 \(Ne\) in structure 0 is unknown"):
        predict(Gradient(model), dimer(4.0, "ArNe"))


def test_config_and_weights_rebuild_a_trained_pair_potential():
    model = Morse({"H-H": 1.0, "H-O": 2.0, "O-O": 3.0}, r0={"O-H": 1.0, "O-O": 1.4, "H-H": 0.8}, rho0=5.0)
    with torch.no_grad():
        model.epsilon += 0.25
    twin = Morse(**model.config())
    twin.load_state_dict(model.state_dict())
    water = Atoms("OH2", [[0, 0, 0], [0.9, 0.3, 0], [-0.5, 0.8, 0]])
    assert float(predict(Gradient(twin), water)[0].energy) == float(predict(Gradient(model), water)[0].energy)


def test_parameters_can_be_fitted_to_forces():
    atoms = [disordered(seed=k) for k in range(2)]
    truth = [one.forces for one in predict(Gradient(LennardJones(0.02, 3.3, cutoff=6.0)), atoms)]
    model = LennardJones(0.012, 3.36, cutoff=6.0)
    potential = Gradient(model)
    batch, wanted = collate_for(potential, atoms), torch.cat(truth)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        potential.train()
        error = 1e4 * (potential(batch).forces - wanted).square().mean()
        error.backward()
        return error

    optimizer.step(loss)
    assert model.epsilon.item() == pytest.approx(0.02, rel=1e-3)
    assert model.sigma.item() == pytest.approx(3.3, rel=1e-4)


def test_energy_is_conserved_in_nve():
    atoms = bulk("Ar", "fcc", a=5.26, cubic=True).repeat(2)
    atoms.calc = Calculator(Gradient(LennardJones(0.0104, 3.4, cutoff=8.0, onset=6.0)))
    spread = np.sqrt(80 * BOLTZMANN * atoms.get_masses())
    atoms.set_momenta(np.random.default_rng(0).normal(size=(len(atoms), 3)) * spread[:, None])
    energies = []
    dynamics = VelocityVerlet(atoms, timestep=4 * units.fs)
    dynamics.attach(lambda: energies.append(atoms.get_total_energy() / len(atoms)), interval=5)
    dynamics.run(250)
    kinetic = atoms.get_kinetic_energy() / len(atoms)
    drift = np.polyfit(np.arange(len(energies)), energies, 1)[0] * len(energies)
    assert np.ptp(energies) < 0.01 * kinetic
    assert abs(drift) < 2e-3 * kinetic
    assert atoms.calc.n_searches < 60


@pytest.mark.parametrize("symbols", ["Si2", "OSi", "HU"])
def test_zbl_vanishes_with_slope_and_curvature_at_the_sum_of_the_radii(symbols):
    atoms = dimer(1.0, symbols)
    rc = sum(covalent_radii[atoms.numbers])
    model, h = ZBL(atoms.numbers), 1e-3
    energy, force = curve(model, [rc - 1e-9, rc - h, rc + h, rc / 2], symbols)
    assert abs(energy[0]) < 1e-10
    assert abs(force[0]) < 1e-8
    # a function with f = f' = f'' = 0 at rc falls as h³ there: its force as h², its curvature as h
    assert abs(energy[1]) < 1e-5
    assert abs(force[1]) < 1e-2
    assert abs(force[1]) / h < 0.05 * abs(force[3])
    assert energy[2] == force[2] == 0
    assert energy[3] > 0.1


def test_zbl_is_the_screened_coulomb_repulsion_at_short_range():
    r, z = 0.15, 14
    a = 0.46850 / (2 * z**0.23)
    d = np.array([0.20162, 0.40290, 0.94229, 3.19980])
    c = np.array([0.02817, 0.28022, 0.50986, 0.18175])

    def screened(x):
        return 14.399645478425668 * z * z / x * (c * np.exp(-d * x / a)).sum()

    rc, h = 2 * covalent_radii[z], 1e-3
    slope = (screened(rc + h) - screened(rc - h)) / (2 * h)
    bend = (screened(rc + h) - 2 * screened(rc) + screened(rc - h)) / h**2
    # the switching polynomial of LAMMPS, at a distance where it is nearly its constant
    shift = -screened(rc) + rc * slope / 2 - rc * rc * bend / 12
    energy, _ = curve(ZBL([z]), [r], "Si2")
    assert energy[0] == pytest.approx(screened(r) + shift, rel=1e-4)
    assert energy[0] > 1000


def test_zbl_ranges_as_far_as_its_largest_atom_needs_and_spares_the_small_ones():
    model = ZBL((1, 55))
    assert model.cutoff == pytest.approx(2 * 2.44)
    assert curve(model, [1.0], "H2")[0][0] == 0
    assert curve(model, [1.0], "HCs")[0][0] > 0


def test_zbl_takes_other_radii_and_keeps_them():
    model = ZBL([55, 1], radii=[0.2, 0.6])
    assert model.cutoff == 1.2
    assert curve(model, [1.1], "H2")[0][0] > 0
    assert curve(model, [0.85], "HCs")[0][0] == 0
    assert ZBL(**model.config()).config() == {"species": [55, 1], "radii": [0.2, 0.6]}


def test_zbl_is_exact_in_float32_batches():
    atoms = dimer(0.7, "Si2")
    (single,) = predict(Gradient(ZBL([14])).float(), atoms)
    assert single.forces.dtype == torch.float64


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LennardJones(0.01, {"Ar-Ar": 3.4, "Kr-Kr": 3.6}), r"sigma lacks 1 of 3 pairs of elements: Ar-Kr"),
        (lambda: LennardJones({"Ar-Ar": 1.0}, {"Kr-Kr": 3.6}), r"epsilon lacks 2 of 3 pairs"),
        (lambda: LennardJones(0.01, {"Ar": 3.4}), r"sigma has a value for 'Ar', expected two elements such as"),
        (lambda: LennardJones(0.01, {"Ar-Qq": 3.4}), r"sigma has a value for 'Ar-Qq', expected two elements"),
        (lambda: LennardJones(0.01, -3.4), r"sigma is -3.4 Å for a pair of elements; a positive length"),
        (lambda: Morse(0.01, 0.0), r"r0 is 0.0 Å for a pair of elements"),
        (lambda: LennardJones(cutoff=3.0, onset=4.0), r"the taper runs from 4.0 Å to the cutoff 3.0 Å"),
        (lambda: Morse(cutoff=-1.0, onset=0.0), r"expected 0 <= onset < cutoff"),
        (lambda: ZBL([]), r"ZBL cannot be made for the species \[\]"),
        (lambda: ZBL([1, 4], [0.3]), r"radii \[0.3\] Å for 2 species; expected one positive length each"),
        (lambda: ZBL([1], [-0.3]), r"expected one positive length each"),
        (lambda: ZBL([0, 4]), r"each from 1 to 118"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
