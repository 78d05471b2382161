"""Thermal conductivity: phono3py called as one would by hand, repairs, orientations, and what is refused."""

import io
import lzma
import sys
import warnings
from functools import cache
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from torch import Tensor

import tumble
from analytic import PairFunction
from tumble.crystal import space_group
from tumble.jobs.conductivity import PHONONDB_V1, ConductivityResult, ConductivitySettings, conductivity
from tumble.jobs.conductivity.engine import Constants, differences, engine_of, give, irreducible, read_nac
from tumble.jobs.conductivity.engine import displaced as displaced_cells
from tumble.jobs.conductivity.transport import transport
from tumble.models.pair import LennardJones
from tumble.potential import Gradient, Outputs, Potential
from tumble.results import Curve, Table, load_result

pytest.importorskip("phono3py")
pytest.importorskip("symfc")

SHARED = Path(__file__).resolve().parents[3] / "shared"
A, NEAR, NEXT, SOFT = 3.0, 3.0, 2.0, 2.0
"""Å, edge of the cube; eV/Å², springs to first and second neighbours; eV/Å³, by how much they soften."""

SMALL = ConductivitySettings(
    supercell=(2, 2, 2),
    force=True,
    mesh=(3, 3, 3),
    temperatures_K=(50, 300),
    half_mesh=False,
    repairs=("raw",),
    turns=0,
)


def chromium() -> Atoms:
    return bulk("Cr", "bcc", a=A, cubic=True)


def springs(anisotropy: float = 0.0, following: float = NEXT) -> Potential:
    """Softening springs, at rest in `chromium`, stiffer along the axes of the lab by the anisotropy."""

    def energy(v: Tensor, _i: Tensor, _j: Tensor) -> Tensor:
        r = v.norm(dim=1)
        is_near = r < 0.93 * A
        off = r - torch.where(is_near, A * 3**0.5 / 2, A)
        stiff = torch.where(is_near, NEAR, following) * (1 + anisotropy * (v**4).sum(1) / r**4)
        return stiff * off**2 / 2 - SOFT * off**3

    return Gradient(PairFunction(energy, cutoff=1.2 * A))


def argon() -> Atoms:
    return bulk("Ar", "fcc", a=5.268, cubic=True)


def pairs() -> Potential:
    return Gradient(LennardJones(0.0104, 3.4, cutoff=5.0)).double()


@cache
def found(**changes: object) -> ConductivityResult:
    return conductivity(springs(), chromium(), SMALL.model_copy(update=changes))


def everything() -> ConductivityResult:
    return found(repairs=("raw", "plusminus", "projected", "averaged"), average="T", turns=1)


def table(result: ConductivityResult, title: str) -> Table:
    [one] = [fact for fact in result.facts() if isinstance(fact, Table) and fact.title.startswith(title)]
    return one


def test_conductivity_is_what_phono3py_gives_when_it_is_called_by_hand():
    from phono3py import Phono3py
    from phonopy.structure.atoms import PhonopyAtoms

    potential, atoms = springs(), chromium()
    cell = PhonopyAtoms(symbols=atoms.symbols, cell=atoms.cell, positions=atoms.positions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine = Phono3py(cell, supercell_matrix=[2, 2, 2], primitive_matrix="I")
        engine.generate_displacements(distance=0.03, is_plusminus=False)
        copies = [
            Atoms(one.symbols, cell=one.cell, positions=one.positions, pbc=True)
            for one in engine.supercells_with_displacements
        ]
        engine.forces = [answer.forces.numpy() for answer in tumble.predict(potential, copies)]
        engine.produce_fc3()
        engine.mesh_numbers = [3, 3, 3]
        engine.init_phph_interaction(average_degenerate_weights=True)
        engine.run_thermal_conductivity(temperatures=[50, 300])
    result = conductivity(potential, atoms, SMALL)
    expected = engine.thermal_conductivity.kappa[0]
    assert result.kappa[:, 0, 0] == pytest.approx(expected[:, 0], rel=1e-5)
    assert result.found.result.constants.third == pytest.approx(engine.fc3, rel=1e-6, abs=1e-9)
    assert result.found.result.n_supercells == len(copies)


def test_modes_add_up_to_the_conductivity():
    for kind in ("rta", "wigner"):
        one = found(kind=kind).found.result.transport
        mean = np.trace(one.kappa, axis1=1, axis2=2) / 3
        assert one.by_mode.sum((1, 2)) / one.weights.sum() == pytest.approx(mean, rel=1e-9)
        assert one.weights.sum() == 27


def test_wigner_adds_coherences_to_the_populations_of_rta():
    plain, wigner = found().found.result.transport, found(kind="wigner").found.result.transport
    assert wigner.kappa - wigner.kappa_coherence == pytest.approx(plain.kappa, rel=2e-3, abs=1e-9)
    assert np.trace(wigner.kappa_coherence[1]) > 0
    assert any("coherences" in fact.title for fact in found(kind="wigner").facts())


def test_the_direct_solution_conducts_more_than_relaxation_times():
    direct = found(kind="direct")
    assert np.isfinite(direct.kappa).all()
    assert direct.kappa[1, 0, 0] != pytest.approx(found().kappa[1, 0, 0], rel=1e-3)
    assert any("Chaput" in line for line in direct.citations)


def test_isotopes_lower_it_to_what_is_left_without_them():
    natural = found(isotopes=True)
    one = natural.found.result.transport
    without = np.trace(found().kappa, axis1=1, axis2=2) / 3
    assert (one.kappa[:, 0, 0] < found().kappa[:, 0, 0]).all()
    assert one.without_isotopes == pytest.approx(without, rel=1e-3)
    assert "populations without isotopes (W/(m K))" in table(natural, "Conductivity and temp").columns


def test_boundaries_lower_it():
    assert found(boundary_um=1e-3).kappa[0, 0, 0] < 0.9 * found().kappa[0, 0, 0]


def test_repairs_agree_for_a_potential_without_errors_and_share_their_calls():
    result = everything()
    raw, both, projected, averaged = result.found.routes
    assert [one.name for one in result.found.routes] == ["raw", "±", "projected", "averaged"]
    assert (raw.n_calls, both.n_calls) == (raw.n_supercells, 2 * raw.n_supercells)
    assert projected.n_supercells == averaged.n_supercells == both.n_supercells
    assert averaged.n_calls > 2 * projected.n_calls
    assert averaged.transport.kappa == pytest.approx(projected.transport.kappa, rel=2e-3, abs=1e-9)
    assert set(result.found.by_turning) == {"projected", "averaged"}
    assert max(result.found.by_turning.values()) < 2e-3
    assert projected.removed is not None
    assert projected.removed[1] < 0.05
    assert max(one.forbidden.max() for one in result.found.routes) < 1e-9
    assert result.kappa is averaged.transport.kappa


def test_projected_force_constants_obey_the_sum_rule_and_raw_ones_do_not():
    result = found(repairs=("raw", "projected"))
    drifts = [np.abs(one.constants.third.sum(1)).max() for one in result.found.routes]
    assert drifts[1] < 1e-10 < 1e-4 < drifts[0]


def test_a_fit_by_symfc_is_close_to_projected_differences():
    fitted = found(repairs=("projected",), solver="symfc").kappa[1, 0, 0]
    assert fitted == pytest.approx(found(repairs=("projected",)).kappa[1, 0, 0], rel=0.05)


def test_another_orientation_shows_what_a_cubic_error_hides():
    settings = SMALL.model_copy(update={"turns": 1, "share": 1e-3})
    result = conductivity(springs(0.3), chromium(), settings)
    assert result.found.by_turning["raw"] > 0.01
    assert (
        result.found.forbidden_forces[0] < 1e-12
    )  # along the axes of the lab the error has the symmetry of the crystal
    [verdict] = result.verdicts()
    assert (verdict.answer, verdict.key) == ("no", "conductivity")
    assert verdict.remedy == "add averaged, and ask again"
    assert "in another orientation" in verdict.reason


def test_averaging_is_the_remedy_if_it_stays_the_same_when_it_is_turned():
    wanted = {"repairs": ("raw", "averaged"), "turns": 1, "average": "O@generic"}
    result = conductivity(springs(0.3), chromium(), SMALL.model_copy(update=wanted))
    turning = result.found.by_turning
    assert turning["averaged"] < 0.1 * turning["raw"]
    [verdict] = result.verdicts()
    assert verdict.answer == "remedy"
    assert verdict.remedy == "average over O@generic: tumble symmetrize"
    assert "calls" in verdict.cost


def test_an_average_that_sees_one_orientation_only_is_no_remedy():
    wanted = {"repairs": ("averaged",), "turns": 1, "average": "i", "share": 1e-3}
    [verdict] = conductivity(springs(0.3), chromium(), SMALL.model_copy(update=wanted)).verdicts()
    assert (verdict.answer, verdict.remedy.split(",")[0]) == ("no", "average over a finer rule")


def test_one_repair_in_one_orientation_says_nothing_about_broken_symmetry():
    [verdict] = found().verdicts()
    assert verdict.answer == "unknown"
    assert verdict.remedy == "ask for more repairs, or for turns"


def test_a_change_within_the_limit_is_fine_as_is_and_one_beyond_is_repaired_by_projection():
    [verdict] = found(repairs=("raw", "projected"), share=1.0).verdicts()
    assert verdict.answer == "yes"
    [verdict] = found(repairs=("raw", "projected"), share=1e-6, turns=0).verdicts()
    assert (verdict.answer, verdict.remedy) == ("remedy", "take the projected result")


def test_rounding_is_not_called_broken_symmetry():
    [verdict] = found(repairs=("raw", "projected"), share=1e-9, floor_factor=1e13).verdicts()
    assert verdict.answer == "unknown"
    assert "float64" in verdict.remedy


def test_imaginary_modes_are_refused_without_an_error(tmp_path):
    reference = tmp_path / "kappa.json"
    reference.write_text(
        '{"temperatures": [300], "kappa": [1.0], "mode_kappa": [[[1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 1]]]}'
    )
    settings = {"repairs": ("raw", "projected"), "turns": 1, "half_mesh": True, "reference": str(reference)}
    result = conductivity(springs(following=-1.0), chromium(), SMALL.model_copy(update=settings))
    assert np.isnan(result.kappa).all()
    [verdict] = result.verdicts()
    assert (verdict.answer, verdict.value) == ("no", None)
    assert "imaginary modes" in verdict.reason
    comparison = result.compared["projected"]
    assert (comparison.srd.tolist(), comparison.srme.tolist()) == ([-2.0], [2.0])
    assert result.found.half is None
    assert set(result.files()) == {"phono3py_params.yaml"}
    load_result(result.save(tmp_path / "refused"))
    assert tumble.report(result, to=tmp_path / "card.html").is_file()


def test_modes_that_nothing_scatters_are_a_matter_of_the_mesh():
    result = found(mesh=(4, 4, 4))
    assert np.isnan(result.kappa).all()
    [verdict] = result.verdicts()
    assert verdict.answer == "unknown"
    assert "some modes are scattered by nothing on the mesh 4 × 4 × 4" in verdict.reason
    assert np.isfinite(found(mesh=(4, 4, 4), boundary_um=1.0).kappa).all()


def test_a_second_supercell_and_a_cutoff_of_pairs_change_what_is_asked():
    result = found(supercell_fc2=(3, 3, 3))
    assert result.found.result.constants.second.shape == (1, 54, 3, 3)
    assert result.found.result.n_supercells > found().found.result.n_supercells
    near = found(cutoff_pair_A=2.8)
    assert near.found.result.n_supercells < found().found.result.n_supercells


def test_half_the_mesh_shows_what_the_mesh_leaves():
    result = found(half_mesh=True, mesh=(5, 5, 5))
    assert result.found.half is not None
    assert result.found.half.mesh == (3, 3, 3)
    assert result.found.half.kappa == pytest.approx(found().kappa, abs=1e-9)
    assert result.found.result.transport.mesh == (5, 5, 5)
    assert ("half mesh", "3 × 3 × 3") in table(result, "How it was computed").rows
    by_length = found(half_mesh=True, mesh=None, mesh_A=11.0)
    assert by_length.found.result.transport.mesh == (5, 5, 5)
    assert found(half_mesh=True).found.half is None  # on (2, 2, 2) nothing scatters some modes


def test_the_engine_files_are_those_of_phono3py_and_nothing_is_written_elsewhere(tmp_path, monkeypatch):
    import h5py
    import phono3py

    monkeypatch.chdir(tmp_path)
    result = conductivity(springs(), chromium(), SMALL.model_copy(update={"repairs": ("projected",)}))
    assert list(tmp_path.iterdir()) == []
    folder = result.save(tmp_path / "kappa")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine = phono3py.load(folder / "phono3py_params.yaml", produce_fc=False, log_level=0)
    assert len(engine.forces) == result.found.result.n_supercells
    with h5py.File(folder / "kappa-m333.hdf5") as file:
        assert file["kappa"][1, 0] == pytest.approx(result.kappa[1, 0, 0])
        assert file["frequency"].shape == result.arrays["frequencies_THz"].shape
    read = load_result(folder)
    assert read.arrays["kappa"] == pytest.approx(result.kappa)
    assert {"fc2", "fc3", "kappa_projected", "mode_kappa_tot_avg"} <= set(read.arrays)


def test_a_result_is_a_reference_for_another(tmp_path):
    one = found(kind="wigner")
    folder = one.save(tmp_path / "first")
    [compared] = found(kind="wigner", reference=str(folder / "arrays.npz")).compared.values()
    assert compared.srme == pytest.approx([0, 0], abs=1e-9)
    other = found(kind="wigner", isotopes=True, reference=str(folder / "arrays.npz"))
    assert (other.compared["raw"].srd < 0).all()
    assert other.compared["raw"].srme == pytest.approx(other.compared["raw"].sre, rel=0.1)
    assert len(table(other, "Against the reference").rows) == 2


def test_figures_show_where_the_conductivity_comes_from(tmp_path):
    result = everything()
    curves = {fact.title: fact for fact in result.facts() if isinstance(fact, Curve)}
    last = curves["From which mean free paths, at 300 K"].series[-1].y[-1]
    assert last == pytest.approx(result.kappa[1, 0, 0], rel=1e-3)
    assert curves["From which frequencies, at 300 K"].series[0].y[-1] == pytest.approx(
        result.arrays["kappa_raw"][1, 0, 0]
    )
    assert curves["Conductivity and temperature"].log_y
    assert tumble.report(result, to=tmp_path / "card.html").is_file()


def test_progress_names_what_is_done():
    said: list[str] = []
    conductivity(springs(), chromium(), SMALL, tell=lambda progress: said.append(progress.message))
    assert any("displaced supercells, as they are" in one for one in said)
    assert any("force constants and conductivity, raw" in one for one in said)


def test_the_protocol_is_named_whatever_the_mesh_and_supercells():
    settings = PHONONDB_V1.model_copy(update={"supercell": (2, 2, 2), "mesh": (3, 3, 3)})
    result = conductivity(springs(), chromium(), settings)
    assert result.protocol == "PHONONDB_V1"
    assert found().protocol == ""
    assert result.settings.kind == "wigner"
    assert np.isfinite(result.kappa).all()


def test_a_structure_that_is_not_at_rest_is_refused():
    atoms = bulk("Si", "diamond", a=5.4, cubic=True)
    atoms = Atoms("Ar8", cell=atoms.cell, positions=atoms.positions + 0.1 * np.eye(8, 3), pbc=True)
    with pytest.raises(ValueError, match=r"not relaxed: the force on atom \d is .* conductivity .*tumble relax lj"):
        conductivity(pairs(), atoms, SMALL, name="lj")


def test_what_cannot_conduct_is_refused():
    atoms = argon()
    atoms.pbc = (True, True, False)
    with pytest.raises(ValueError, match=r"pbc is \[True, True, False\].* that repeats in three directions"):
        conductivity(pairs(), atoms, SMALL)
    with pytest.raises(ValueError, match=r"the supercell 1x1x1 is 5.27 Å wide.*At least 10 Å.*2x2x2"):
        conductivity(pairs(), argon(), SMALL.model_copy(update={"supercell": (1, 1, 1), "force": False}))
    with pytest.raises(ValueError, match="a supercell of 2x2x2 copies has 32 atoms; at most max_atoms = 20"):
        conductivity(pairs(), argon(), SMALL.model_copy(update={"supercell": None, "max_atoms": 20}))
    with pytest.raises(ValueError, match="third-order force constants vanish"):
        conductivity(pairs(), argon(), SMALL.model_copy(update={"supercell": (1, 1, 1)}))
    with pytest.raises(ValueError, match=r"the mesh \(3, 3, 4\) has less symmetry than the crystal"):
        conductivity(pairs(), argon(), SMALL.model_copy(update={"mesh": (3, 3, 4)}))


def test_a_potential_without_forces_is_refused():
    class Energies(Potential):
        cutoff, species, is_conservative = 3.0, None, True
        dtype, device = torch.float64, torch.device("cpu")

        def forward(self, batch):
            return tumble.Properties(torch.zeros(batch.n_structures, dtype=torch.float64), None, None)

    with pytest.raises(ValueError, match="a Energies gives no forces; forces were expected"):
        conductivity(Energies(), argon(), SMALL)


def test_forces_that_are_not_finite_end_the_job():
    class Broken(LennardJones.__mro__[1]):  # a Model whose energies break where an atom is moved
        cutoff, species = 5.0, None

        def forward(self, batch):
            r = batch.vectors.norm(dim=1)
            moved = (r - 5.268 / 2**0.5).abs().max() > 0.005
            energies = r * 0 + (float("nan") if moved else 0.0) * r
            return Outputs(torch.zeros(batch.n_atoms, dtype=r.dtype).index_add(0, batch.center, energies))

    with pytest.raises(RuntimeError, match=r"forces on displaced supercell 0 of \d+ are not finite"):
        conductivity(Gradient(Broken()), argon(), SMALL.model_copy(update={"dtype": "as is"}))


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "phono3py", None)
    with pytest.raises(
        ImportError, match=r"needs phono3py, which is not installed. Run: pip install 'tumble\[phonons\]'"
    ):
        conductivity(pairs(), argon(), SMALL)


@pytest.mark.parametrize(
    ("setting", "value", "reason"),
    [
        ("mesh", (0, 3, 3), "three whole numbers, 1 or more, were expected"),
        ("supercell", (1, -1, 1), "three whole numbers, 1 or more, were expected"),
        ("temperatures_K", (0.0, 300.0), "different ones above 0 were expected"),
        ("average", "Q", "Q"),
        ("repairs", (), "repairs"),
        ("mesh_A", 0.0, "greater than 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting, value, reason):
    with pytest.raises(ValueError, match=reason):
        ConductivitySettings(**{setting: value})


def test_repairs_are_put_in_their_order():
    assert ConductivitySettings(repairs=("projected", "raw")).repairs == ("raw", "projected")


def salt() -> tuple[Atoms, object]:
    atoms = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    return atoms, engine_of(atoms, 0.0, SMALL)


def test_born_charges_are_read_and_bad_files_refused(tmp_path):
    _, engine = salt()
    file = tmp_path / "BORN"
    file.write_text("# charges\n2.4 0 0 0 2.4 0 0 0 2.4\n1.1 0 0 0 1.1 0 0 0 1.1\n-1.1 0 0 0 -1.1 0 0 0 -1.1\n")
    read_nac(engine, str(file))
    assert engine.nac_params["born"][0] == pytest.approx(1.1 * np.eye(3))
    assert engine.nac_params["factor"] == pytest.approx(14.4, abs=0.01)
    with pytest.raises(ValueError, match="there is no file nowhere of Born charges"):
        read_nac(engine, "nowhere")
    for text in ("1\n2 3\n", "1\n0 0 0 0 0 0 0 0 0\n" + 2 * "1 0 0 0 1 0 0 0 1\n", "1\n" + 3 * "nan 0 0 0 1 0 0 0 1\n"):
        file.write_text(text)
        with pytest.raises(ValueError, match="is not a BORN file of phonopy for this crystal"):
            read_nac(engine, str(file))


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data beside the repository")
def test_forces_of_density_functional_theory_give_the_conductivity_of_silicon():
    file = SHARED / "data" / "phonopy_sets" / "Si_PBEsol_fd111.extxyz.xz"
    with lzma.open(file, "rt") as text:
        frames = ase.io.read(io.StringIO(text.read()), ":", format="extxyz")
    faces = np.array([(0, 0, 0), (0, 4, 4), (4, 0, 4), (4, 4, 0)])
    places = np.concatenate([7 - faces, 1 + faces]) / 8  # in the order of the example
    cell = frames[0].cell.array / 2
    shifted = Atoms("Si8", cell=cell, scaled_positions=places, pbc=True)
    settings = ConductivitySettings(supercell=(2, 2, 2), mesh=(11, 11, 11), temperatures_K=(300,))
    engine = engine_of(shifted, 5.0, settings)
    cells = displaced_cells(engine, settings, "auto")
    assert irreducible(engine) == (56, 6)
    for ours, theirs in zip(cells.structures, frames, strict=True):
        assert space_group(ours).n_atoms == len(theirs)
        steps = ours.get_scaled_positions(wrap=False) - theirs.get_scaled_positions(wrap=False)
        assert np.abs(steps - np.round(steps)).max() < 1e-6
    give(engine, cells, [frame.get_forces() for frame in frames])
    constants = differences(engine)
    assert isinstance(constants, Constants)
    kappa = transport(engine, constants, settings).kappa[0]
    assert np.diag(kappa) == pytest.approx(109.0, abs=0.2)
