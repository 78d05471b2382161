"""Non-conservation λ: a closed form, the same along every path to it, and what it says of distances and frequencies."""

import itertools
import math
from typing import final

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.lj import LennardJones as EngineLJ

from analytic import Handed, Recorder, lopsided
from tumble.batch import Batch, Properties
from tumble.bridges.ase import Foreign
from tumble.jacobian import conservation, frequency_THz, graph_of, jacobian, non_conservation, of_jacobian, parts
from tumble.jacobian.conservation import N_DIRECTIONS
from tumble.models.pair import LennardJones
from tumble.models.pet import PET
from tumble.potential import Direct, Gradient, Model, Outputs, Potential, Sum, collate_for
from tumble.symmetry import symmetrize

K, KAPPA = 3.0, 0.4
RATIO = math.sqrt(2 * KAPPA**2 / (3 * K**2 + 2 * KAPPA**2))


@final
class Field(Potential):
    """A black box of atoms in a curl field: F = -k x + κ ẑ × x."""

    cutoff, species, is_conservative = 0.0, None, False

    def forward(self, batch: Batch) -> Properties:
        x = batch.positions
        energy = torch.zeros(batch.n_structures, dtype=torch.float64)
        energy = energy.index_add(0, batch.structure, K * x.square().sum(1) / 2)
        return Properties(energy, -K * x + KAPPA * turned(x))


@final
class Springs(Model):
    """Springs between all atoms, and a force across each of them: F_i = Σ_j k v_ij - κ ẑ × v_ij."""

    cutoff, species, has_direct_forces = 9.0, None, True

    def __init__(self, kappa: float = KAPPA) -> None:
        super().__init__()
        self.kappa = kappa
        self.scale = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, batch: Batch) -> Outputs:
        v = self.scale * batch.vectors
        energies = torch.zeros(batch.n_atoms, dtype=torch.float64)
        energies = energies.index_add(0, batch.center, K * v.double().square().sum(1) / 4)
        forces = torch.zeros_like(batch.positions)
        return Outputs(energies, forces.index_add(0, batch.center, K * v - self.kappa * turned(v)))


@final
class Closed(Potential):
    """What autograd is not to see through."""

    def __init__(self, inner: Potential) -> None:
        super().__init__()
        self.inner = inner
        self.cutoff, self.species, self.is_conservative = inner.cutoff, inner.species, inner.is_conservative

    def forward(self, batch: Batch) -> Properties:
        return self.inner(batch)


def turned(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([-x[:, 1], x[:, 0], torch.zeros_like(x[:, 0])], 1)


def small_pet() -> PET:
    torch.manual_seed(0)
    width = {"d_pet": 8, "d_node": 16, "d_head": 8, "d_feedforward": 8, "num_heads": 2, "num_attention_layers": 1}
    return PET((1, 6, 8), width | {"cutoff": 3.5, "direct_forces": True}).double().requires_grad_(False)


def bonded() -> Gradient:
    return Gradient(LennardJones(0.1, 1.2, cutoff=3.5))


def test_one_atom_in_a_curl_field_has_its_closed_form():
    found = non_conservation(Field(), Atoms("O", [[0.3, -0.2, 0.5]]))
    assert found.ratio == pytest.approx(RATIO, rel=1e-9)
    assert found.error == 0
    assert 0 < found.noise < 1e-9
    assert found.by_distance.ratio.tolist() == pytest.approx([RATIO])
    assert found.by_distance.share.tolist() == pytest.approx([1.0])


@pytest.mark.parametrize("small", [True, False], ids=["exact", "stochastic"])
@pytest.mark.parametrize("open_", [True, False], ids=["autograd", "differences"])
def test_all_paths_give_the_closed_form_for_a_molecule_of_curled_springs(open_, small):
    potential = Direct(Springs()) if open_ else Closed(Direct(Springs()))
    found = non_conservation(potential, molecule("C6H6"), exact_below=30 if small else 0)
    is_exact = small or open_  # Jv and vᵀJ of these springs have the same ratio for every v but one along z
    assert found.ratio == pytest.approx(RATIO, rel=1e-8 if small else 0.15)
    assert (found.error == 0) == small
    assert abs(found.ratio - RATIO) <= max(4 * found.error, 1e-9)
    assert found.error < (0.05 if is_exact else 0.3) * RATIO


def test_the_frequency_is_that_of_the_springs_along_every_path():
    atoms = molecule("C6H6")
    mean_square = K * 11 * (1 / atoms.get_masses()).mean()
    expected = math.sqrt(mean_square * 9.6485332e27) / (2 * math.pi) * 1e-12
    for potential in (Direct(Springs()), Closed(Direct(Springs()))):
        assert non_conservation(potential, atoms).frequency_THz == pytest.approx(expected, rel=1e-6)
        assert non_conservation(potential, atoms, exact_below=0).frequency_THz == pytest.approx(expected, rel=0.3)
    assert frequency_THz(-1.0) == -frequency_THz(1.0)


def test_stochastic_estimates_are_unbiased_and_know_their_error():
    atoms, squares, errors = molecule("H2O"), [], []
    exact = of_jacobian(jacobian(Direct(small_pet()), atoms))
    for seed in range(40):
        found = non_conservation(Closed(Direct(small_pet())), atoms, exact_below=0, seed=seed)
        squares.append(found.ratio)
        errors.append(found.error)
    assert np.mean(squares) == pytest.approx(exact, rel=0.15)
    assert 0.6 < np.mean(errors) / np.std(squares) < 2.5


@pytest.mark.parametrize("name", ["direct", "sum", "gradient"])
def test_autograd_and_differences_give_the_same_jacobian(name):
    pet = small_pet()
    made = {"direct": Direct(pet), "sum": Sum(Direct(pet), bonded()), "gradient": Gradient(pet)}[name]
    atoms = molecule("CH3OH")
    atoms.set_cell(np.diag([5.0, 5.0, 6.0]))
    atoms.pbc = (True, True, False)
    by_autograd, by_differences = jacobian(made, atoms), jacobian(Closed(made), atoms)
    np.testing.assert_allclose(by_autograd, by_differences, atol=1e-5 * np.abs(by_autograd).max())
    asymmetry = of_jacobian(by_autograd)
    assert asymmetry < 1e-12 if name == "gradient" else asymmetry > 1e-3


def test_probes_by_autograd_agree_with_the_whole_jacobian_of_a_sum():
    atoms = molecule("CH3CH2OH")
    made = Sum(Direct(small_pet()), bonded())
    exact, found = non_conservation(made, atoms), non_conservation(made, atoms, exact_below=0)
    assert found.error < 0.5 * exact.ratio
    assert abs(found.ratio - exact.ratio) < 4 * found.error


def test_the_squares_of_probes_average_to_those_of_the_jacobian():
    atoms, made = molecule("CO"), Direct(small_pet())
    whole = jacobian(made, atoms)
    graph = graph_of(made, collate_for(made, [atoms]))
    signs = np.array(list(itertools.product([-1.0, 1.0], repeat=6))).reshape(-1, 2, 3)
    found = np.mean([parts(graph.along(v), graph.against(v)) for v in signs], axis=0)
    expected = [np.square(whole - whole.T).sum() / 4, np.square(whole + whole.T).sum() / 4]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_the_graph_of_a_batch_answers_about_each_structure_alone():
    made, frames = Direct(small_pet()), [molecule("H2O"), molecule("CH3OH")]
    v = np.random.default_rng(0).standard_normal((9, 3))
    together = graph_of(made, collate_for(made, frames))
    for method in ("along", "against"):
        alone = [
            getattr(graph_of(made, collate_for(made, [one])), method)(part)
            for one, part in zip(frames, np.split(v, [3]), strict=True)
        ]
        np.testing.assert_allclose(getattr(together, method)(v), np.concatenate(alone), atol=1e-12)


def test_rows_and_columns_of_all_atoms_give_the_distances_of_the_whole_jacobian(monkeypatch):
    monkeypatch.setattr(conservation, "N_SAMPLED", 100)
    atoms, made = molecule("CH3OH"), Sum(Direct(small_pet()), bonded())
    exact, found = (non_conservation(made, atoms, exact_below=n).by_distance for n in (30, 0))
    for one, other in zip(exact, found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-15)
    assert exact.share.sum() == pytest.approx(1)


def test_a_force_across_long_pairs_shows_at_their_distance():
    class Far(Model):
        cutoff, species, has_direct_forces = 9.0, None, True

        def forward(self, batch: Batch) -> Outputs:
            v = batch.vectors
            is_far = (v.norm(dim=1, keepdim=True) > 4).to(v)
            forces = torch.zeros_like(batch.positions).index_add(0, batch.center, K * v - is_far * KAPPA * turned(v))
            return Outputs(torch.zeros(batch.n_atoms, dtype=torch.float64), forces)

    chain = Atoms("He4", [[0, 0, 1.5 * n] for n in range(4)])
    for limit in (30, 0):
        found = non_conservation(Direct(Far()), chain, exact_below=limit).by_distance
        assert found.distance_A.tolist() == [0.25, 1.75, 3.25, 4.75]
        assert found.ratio[[1, 2]] == pytest.approx([0, 0], abs=1e-12)
        assert found.ratio[3] == pytest.approx(RATIO)
        assert found.share[[0, 3]].sum() == pytest.approx(1)


def test_a_gradient_has_none_and_a_conservative_black_box_is_at_rounding():
    recorder = Recorder(lopsided())
    assert non_conservation(lopsided(), molecule("H2O")).ratio < 1e-12
    assert non_conservation(recorder, molecule("H2O")).ratio < 1e-6
    assert sum(n for n, _, _ in recorder.calls) == 1 + 2 * 9
    recorder.calls.clear()
    crystal = bulk("Ar", cubic=True, a=2.2) * (2, 2, 2)
    assert non_conservation(recorder, crystal).by_distance is None
    assert sum(n for n, _, _ in recorder.calls) == 1 + 2 * N_DIRECTIONS
    lj = Foreign(EngineLJ(sigma=1.2, epsilon=0.1, rc=3.5, smooth=True))
    assert non_conservation(lj, molecule("CH3CH2OH")).ratio < 1e-6


def test_an_averaged_direct_head_is_measured_by_differences():
    symmetric = symmetrize(Direct(Springs()), "T")
    # The group averages the axis of the curl away.
    assert non_conservation(symmetric, molecule("H2O")).ratio < 1e-9
    assert "differences" in non_conservation(symmetrize(Direct(small_pet()), "i"), molecule("H2O")).how


def test_a_single_precision_black_box_is_noticed_and_its_noise_told():
    @final
    class Single(Potential):
        cutoff, species, is_conservative = 9.0, None, True

        def forward(self, batch: Batch) -> Properties:
            answer = bonded()(batch)
            return answer._replace(forces=answer.forces.float().double())

    atoms = molecule("CH3CH2OH")
    for limit in (30, 0):
        found = non_conservation(Single(), atoms, exact_below=limit)
        assert 1e-8 < found.noise < 0.05
        assert "differences of 0.004 Å" in found.how
    assert "differences of 0.0001 Å" in non_conservation(Closed(bonded()), atoms).how
    assert non_conservation(Single(), atoms, rounding=1.0).noise > 0.5


def test_float32_models_are_measured_in_float64():
    single, double = Direct(small_pet().float()), Direct(small_pet())
    atoms = molecule("H2O")
    assert non_conservation(single, atoms).ratio == pytest.approx(non_conservation(double, atoms).ratio, rel=1e-5)
    assert single.dtype == torch.float32


def test_without_forces_there_is_nothing_to_measure():
    assert non_conservation(Handed(), Atoms("He4", np.eye(4, 3))) is None
    assert jacobian(Handed(), Atoms("He4", np.eye(4, 3))) is None


def test_lone_atoms_and_constant_forces_have_no_jacobian():
    found = non_conservation(Direct(small_pet()), Atoms("O"))
    assert (found.ratio, found.noise) == (0, 0)
    assert non_conservation(Direct(small_pet()), Atoms("O"), exact_below=0).ratio == 0
    assert of_jacobian(np.zeros((3, 3))) == 0
    assert np.allclose(jacobian(Sum(Direct(small_pet()), Gradient(small_pet())), Atoms("O")), 0)
