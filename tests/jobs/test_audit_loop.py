"""Loop work: a curl field does 2 κ times the area, a gradient nothing, whatever it is made of."""

import math
from typing import final

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from analytic import Handed, Recorder, lopsided
from tumble.batch import Batch, Properties
from tumble.jobs.audit.measures import loop as measure
from tumble.jobs.audit.measures.loop import loop_work
from tumble.potential import Potential
from tumble.symmetry import symmetrize

K, KAPPA = 3.0, 0.4


@final
class Field(Potential):
    """F = -k x + κ ẑ × x + g x³, and a uniform push, of every atom."""

    cutoff, species, is_conservative = 0.0, None, False

    def __init__(self, kappa: float = KAPPA, cubic: float = 0.0) -> None:
        super().__init__()
        self.kappa, self.cubic = kappa, cubic

    def forward(self, batch: Batch) -> Properties:
        x = batch.positions
        turned = torch.stack([-x[:, 1], x[:, 0], torch.zeros_like(x[:, 0])], 1)
        forces = -K * x + self.kappa * turned + self.cubic * x**3 + 0.7
        return Properties(torch.zeros(batch.n_structures, dtype=torch.float64), forces)


def test_work_in_the_plane_of_a_curl_is_twice_kappa_times_the_area(monkeypatch):
    a = 0.05
    plane = np.zeros((1, 2, 1, 3))
    plane[0, 0, 0, 0] = plane[0, 1, 0, 1] = a
    monkeypatch.setattr(measure, "_planes", lambda *_: plane)
    found = loop_work(Field(), Atoms("O", [[1.0, 2.0, 3.0]]), amplitude_A=a, n_loops=1)
    assert found.work_meV == pytest.approx(1000 * 2 * KAPPA * math.pi * a**2, rel=1e-9)
    assert found.worst_meV == pytest.approx(found.work_meV)
    assert found.relative == pytest.approx(KAPPA / math.sqrt(K**2 + KAPPA**2), rel=1e-6)
    assert found.error_meV < 1e-9
    assert found.n_calls == 16


def test_random_planes_see_the_area_that_is_projected_on_the_plane_of_the_curl():
    atoms, a = molecule("C6H6"), 0.03
    found = loop_work(Field(), atoms, amplitude_A=a, n_loops=64)
    # ⟨(e₂ J_a e₁)²⟩ = ‖J_a‖² / 3N(3N - 1), and ‖J_a‖² = 2 κ² N.
    expected = 2 * math.pi * a**2 * 12 * math.sqrt(2 * KAPPA**2 * 12 / (36 * 35))
    assert found.work_meV == pytest.approx(1000 * expected, rel=0.25)
    ratio = math.sqrt(2 * KAPPA**2 / (3 * K**2 + 2 * KAPPA**2))
    assert found.relative == pytest.approx(ratio / math.sqrt(35), rel=0.25)
    assert found.worst_meV > found.work_meV
    assert found.error_meV < 1e-6


def test_a_conservative_black_box_does_no_work_beyond_quadrature_and_rounding():
    atoms = molecule("CH3CH2OH")
    found = loop_work(Recorder(lopsided()), atoms)
    assert found.work_meV <= 10 * found.error_meV + found.noise_meV
    assert found.relative < 1e-4
    none = loop_work(Field(kappa=0.0, cubic=2.0), atoms)
    assert none.work_meV <= none.noise_meV
    assert none.n_calls == 4 * 16


def test_the_points_are_doubled_until_the_work_is_stable_and_not_for_ever():
    @final
    class Rough(Potential):
        cutoff, species, is_conservative = 0.0, None, False

        def forward(self, batch: Batch) -> Properties:
            forces = torch.sign(torch.sin(900 * batch.positions))
            return Properties(torch.zeros(batch.n_structures, dtype=torch.float64), forces)

    found = loop_work(Rough(), molecule("H2O"))
    assert found.n_calls == 4 * measure.MOST
    assert found.error_meV > 0.1 * found.worst_meV
    assert "64 points" in found.how


def test_a_louder_rounding_is_believed():
    quiet, loud = (loop_work(Field(kappa=0.0), molecule("H2O"), rounding=r) for r in (0.0, 1e-3))
    assert loud.noise_meV == pytest.approx(1000 * 2 * math.pi * 0.05 * math.sqrt(3) * 1e-3 / 4)
    assert quiet.noise_meV < 1e-9


def test_a_gradient_costs_nothing_and_no_forces_do_no_work():
    assert loop_work(symmetrize(lopsided(), "T"), molecule("H2O")).n_calls == 0
    assert loop_work(Handed(), Atoms("He4", np.eye(4, 3))) is None
    still = loop_work(Field(kappa=0.0), Atoms("He"), amplitude_A=0.0)
    assert still.relative == 0
