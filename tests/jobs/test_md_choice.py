"""The choice of multiple time steps: impulses of a weak force heat as its spectrum along the free motion says."""

import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.units import fs

import tumble
from analytic import lopsided, skewed_dimer
from tumble.jobs.md.choice import Candidate, Cost, Spectrum, choose, record, recording, selection
from tumble.jobs.md.motion import start
from tumble.jobs.md.settings import MDSettings
from tumble.jobs.md.trend import Trend
from tumble.models.pair import LennardJones
from tumble.models.pet import PET, PETSettings
from tumble.potential import Gradient, collate_for
from tumble.units import BOLTZMANN

MASS = 1.0 / fs**2  # of 1 amu in eV fs²/Å²
KT = 300 * BOLTZMANN
PERIOD_FS = 20.0


class Band:
    """Atoms in wells of frequencies spread by 8 %, at 300 K, and a weaker spring beside each of these."""

    def __init__(self, n, seed=0):
        random = np.random.default_rng(seed)
        self.omega = 2 * math.pi / PERIOD_FS * (1 + 0.08 * random.standard_normal((n, 3)))
        x = random.standard_normal((n, 3)) * np.sqrt(KT / MASS) / self.omega
        v = random.standard_normal((n, 3)) * np.sqrt(KT / MASS)
        # Each of them also a quarter of a period later, so that what is of first order in the spring cancels.
        self.x, self.v = np.concatenate([x, v / self.omega]), np.concatenate([v, -self.omega * x])
        self.omega = np.concatenate([self.omega, self.omega])
        self.spring = 0.004 * MASS * (2 * math.pi / PERIOD_FS) ** 2

    def free(self, time_fs, x, v):
        cos, sin = np.cos(self.omega * time_fs), np.sin(self.omega * time_fs)
        return cos * x + sin / self.omega * v, cos * v - self.omega * sin * x

    def powers(self, n_samples):
        """(n, atoms) eV/fs, the work of the weak spring on the free motion."""
        x, v, rows = self.x, self.v, []
        for _ in range(n_samples):
            rows.append(-self.spring * (x * v).sum(1))
            x, v = self.free(1.0, x, v)
        return np.array(rows)

    def heating(self, outer_fs, time_fs=400.0):
        """K/ns, of the exact motion between impulses of the weak spring."""
        x, v, n_steps = self.x, self.v, round(time_fs / outer_fs)
        before = self._energy(x, v)
        for _ in range(n_steps):
            v = v - outer_fs / 2 * self.spring * x / MASS
            x, v = self.free(outer_fs, x, v)
            v = v - outer_fs / 2 * self.spring * x / MASS
        return (self._energy(x, v) - before) / (3 * BOLTZMANN) / (n_steps * outer_fs) * 1e6

    def _energy(self, x, v):
        return (MASS * (v**2 + self.omega**2 * x**2) / 2 + self.spring * x**2 / 2).sum(1).mean()


def test_the_spectrum_of_white_noise_is_flat():
    powers = np.random.default_rng(0).normal(scale=0.3, size=(300, 40))
    found = Spectrum.of(powers, 0.5)
    assert found.density[20:].mean() == pytest.approx(0.5 * 0.3**2, rel=0.03)
    assert found.frequencies[-1] == pytest.approx(1.0)
    assert (found.shortest_fs, found.longest_fs) == (pytest.approx(1.0), pytest.approx(25.0))
    # Each of the 160 views is wrong by as much as it is large.
    assert found.density[20:].std() / found.density[20:].mean() == pytest.approx(found.n_views**-0.5, rel=0.3)


def test_the_area_below_a_line_is_its_power():
    t = np.arange(400.0)
    found = Spectrum.of(np.cos(2 * math.pi * t / 10)[:, None], 1.0)
    area = found.density.sum() * (found.frequencies[1] - found.frequencies[0])
    assert area == pytest.approx(1 / 4, rel=1e-3)  # half of 1/2, the other half is at negative frequencies
    inside = np.abs(found.frequencies - 0.1) < found.width
    assert found.density[inside].sum() > 0.95 * found.density.sum()


def test_impulses_of_white_noise_heat_like_random_kicks():
    # P = v f with a force that is another one at each sample: the work of kicks is dt σ²/2m for each degree of freedom.
    random, sigma, shape = np.random.default_rng(0), 0.02, (400, 100, 3)
    velocities = random.normal(scale=math.sqrt(KT / MASS), size=shape)
    found = Spectrum.of((velocities * random.normal(scale=sigma, size=shape)).sum(2), 1.0)
    # One harmonic at 2 fs: S/kT = 3 dt σ² <v²>/kT = 3 dt σ²/m, for three degrees of freedom with k_B each.
    assert found.heating(2.0, 300.0, 1)[0] == pytest.approx(1.0 * sigma**2 / MASS / BOLTZMANN * 1e6, rel=0.1)
    values = [found.heating(h, 300.0, 1)[0] for h in (8.0, 16.0)]
    assert values[1] / values[0] == pytest.approx(2.0, rel=0.1)


@pytest.fixture(scope="module")
def seen():
    """The spectrum of the work of the weak springs."""
    return Spectrum.of(Band(1500).powers(800), 1.0)


@pytest.mark.parametrize("outer_fs", [9.0, 9.5, 10.0, 10.5, 11.0])
def test_impulses_near_half_a_period_heat_as_predicted(seen, outer_fs):
    predicted, error = seen.heating(outer_fs, 300.0, 1)
    assert error < 0.02 * predicted
    assert Band(10_000, seed=1).heating(outer_fs) == pytest.approx(predicted, rel=0.15)


def test_impulses_between_resonances_do_not_heat(seen):
    band = Band(10_000, seed=1)
    on = band.heating(10.0)
    for outer_fs in (5.0, 7.0, 14.0):
        assert abs(band.heating(outer_fs)) < 0.02 * on
        assert seen.heating(outer_fs, 300.0, 1)[0] < 1e-3 * on


def test_the_cost_of_a_step_counts_slow_calls_where_they_are():
    cost = Cost(fast=1.0, slow=12.0, raw=1.0)
    assert (cost.of(1), cost.of(10)) == (12.0, 2.2)
    assert Cost(fast=1.0, slow=3.0, raw=3.0).of(6) == pytest.approx(0.5)


# ------------------------------------------------------------------------------------------------------------- a choice


def moving(atoms, **chosen):
    settings = MDSettings(mts="auto", ensemble="nve", timestep_fs=1.0, time_ps=0.2, **chosen)
    return start(atoms, settings), settings


def argon():
    crystal = bulk("Ar", a=5.5, cubic=True) * (2, 1, 1)
    crystal.rattle(0.05, seed=1)
    return crystal


def test_forces_that_do_not_differ_take_the_longest_step():
    atoms, settings = moving(argon(), temperature_K=50, mts_heating_K_per_ns=1.0)
    lennard_jones = Gradient(LennardJones(0.0104, 3.4, cutoff=6.0))
    found = choose(tumble.symmetrize(lennard_jones, "T"), atoms, settings)
    longest = found.candidates[-1]
    assert found.steps == longest.steps
    assert longest.outer_fs <= found.spectrum.longest_fs < longest.outer_fs + 1
    assert found.heating_K_per_ns == pytest.approx(0.0, abs=1e-6)
    assert found.cost < found.cost_without
    assert abs(found.tried.rate) < 5 * found.tried.error + 1.0
    assert found.conservation is None
    assert found.drift is None
    assert "fast steps to a slow one every" in found.reason
    assert found.facts()[0].rows[-1][-1] is True


def test_where_all_heat_too_much_none_is_chosen_and_the_best_is_named():
    atoms, settings = moving(argon(), temperature_K=50, mts_heating_K_per_ns=1e-9)
    found = choose(tumble.symmetrize(lopsided(4.5), "T"), atoms, settings)
    assert found.steps == ()
    assert found.heating_K_per_ns == 0
    assert found.outer_fs == 1.0
    assert found.cost == found.cost_without > 1
    assert found.tried is None
    assert found.reason.startswith("no number of fast steps heats less than the")
    assert "the least is" in found.reason


def test_a_choice_says_what_it_saw():
    atoms, settings = moving(argon(), temperature_K=50, mts_heating_K_per_ns=1e-9)
    table, heating, density = choose(tumble.symmetrize(lopsided(4.5), "T"), atoms, settings).facts()
    assert table.columns[:3] == ("fast steps", "outer step, fs", "cost, × raw")
    assert all(row[-1] is False for row in table.rows)
    [predicted] = heating.series
    assert len(predicted.x) == len(predicted.error)
    assert max(density.series[0].x) == pytest.approx(0.5 * 33356.4, rel=0.02)


def test_a_simulation_that_heats_refutes_what_was_predicted():
    # A dimer that swings in a well of its own making; impulses that undo the well, at about half a period.
    atoms = Atoms("HF", [[0, 0, 0], [1, 0, 0.02]])
    atoms, settings = moving(atoms, temperature_K=30, mts_heating_K_per_ns=10.0, velocities="draw")
    potential = tumble.symmetrize(skewed_dimer(1.0), "O")
    seen = record(skewed_dimer(1.0), potential, atoms, settings, lambda progress: None)
    wrong = tuple(Candidate((n,), float(n), 1.5, 0.0, 0.0) for n in range(20, 31))
    chosen, tried, n_raw = selection._first_that_holds(wrong, potential, seen, settings, lambda progress: None)
    assert chosen is None
    assert tried.scatter > 0.2 * seen.temperature_K
    assert n_raw > 0
    assert "heat more" in selection._reason(chosen, wrong, tried, settings, seen.cost)


def test_direct_heads_are_judged_by_lambda_too():
    torch.manual_seed(0)
    small = PETSettings(cutoff=3.0, d_pet=8, d_head=8, d_node=8, d_feedforward=8, num_heads=2, direct_forces=True)
    potential = Gradient(PET([1, 8], small).double()).requires_grad_(False)
    atoms, settings = moving(molecule("H2O"), mts_heating_K_per_ns=1e-12)
    found = choose(potential, atoms, settings)
    assert 0 < found.conservation.ratio <= 1
    assert found.drift.rate_K_per_ns > 0
    assert found.cost_without == pytest.approx(1.0)
    assert "λ = " in found.facts()[0].note


def test_a_potential_of_one_level_is_refused():
    atoms, settings = moving(argon())
    with pytest.raises(ValueError, match="levels of forces were asked for"):
        choose(Gradient(LennardJones(0.0104, 3.4)), atoms, settings)


def test_a_few_turns_stand_for_all_of_an_average(monkeypatch):
    """The work of differences between orientations is that of the deviation from the mean."""
    random = np.random.default_rng(0)
    gas = Atoms("Ar40", random.uniform(0, 14, (40, 3)), cell=[14] * 3, pbc=True)
    atoms, settings = moving(gas, temperature_K=300)
    weak = lopsided(4.5)
    averaged = tumble.symmetrize(weak, "o3:5")

    def squares(dear):
        monkeypatch.setattr(recording, "DEAR", dear)
        seen = record(weak, averaged, atoms, settings, lambda progress: None)
        return seen.powers.shape[1], np.square(seen.powers).mean()

    (few, of_few), (one, of_all) = squares(0.0), squares(math.inf)
    assert (few, one) == (recording.N_TURNS, 1)
    assert of_few == pytest.approx(of_all, rel=0.5)


# -------------------------------------------------------------------------------------------------------------- trends


def test_the_error_of_a_trend_is_that_of_repetitions():
    random, times = np.random.default_rng(0), np.linspace(0, 2, 160)
    noise = random.normal(size=(400, 160 + 9))
    noise = np.stack([noise[:, k : k + 160] for k in range(10)]).mean(0)  # remembers itself for 10 samples
    found = [Trend.of(times, 3.0 * times + row) for row in noise]
    spread = np.std([one.rate for one in found])
    assert np.mean([one.rate for one in found]) == pytest.approx(3.0, abs=4 * spread / 20)
    assert 0.8 * spread < np.median([one.error for one in found]) < 2.5 * spread
    assert np.mean([abs(one.rate - 3) < 2 * one.error for one in found]) > 0.85
    assert np.mean([one.scatter for one in found]) == pytest.approx(10**-0.5, rel=0.1)


def test_a_series_without_an_end_has_no_trend():
    assert Trend.of([0, 1, 2, 3], [0, 1, np.inf, 3]) == (math.inf, math.inf, math.inf)
    assert Trend.of([0, 1], [0, 1]).error == math.inf
    assert Trend.of([0, 1, 2, 3], [1, 3, 5, 7]) == pytest.approx((2.0, 0.0, 0.0))


def test_an_average_is_timed_where_atoms_have_left_a_symmetric_start(monkeypatch):
    crystal = bulk("Ar", a=5.5, cubic=True)
    atoms, settings = moving(crystal, temperature_K=50)
    timed = []
    monkeypatch.setattr(recording, "costs", lambda fast, slow, atoms: timed.append(atoms.copy()) or Cost(1.0, 3.0, 1.0))
    fast = lopsided(4.5)
    averaged = tumble.symmetrize(fast, "T")
    record(fast, averaged, atoms, settings, lambda progress: None)
    calls = [averaged.calls(collate_for(averaged, [one]))[0] for one in (crystal, timed[0])]
    assert calls[0] < calls[1] == 12
