"""Metrics of conductivities in closed form, and the files that references come in."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tumble.jobs.conductivity.metrics import by_mode, has_imaginary, mean_of, srd, srme
from tumble.jobs.conductivity.reference import Reference, check_modes, compare, read_reference
from tumble.jobs.conductivity.transport import IMAGINARY, Transport

WEIGHTS = np.array([1, 3])
MODES = np.array([[[1.0, 2.0], [6.0, 3.0]]])
"""One temperature, two wave vectors, two modes; their sum over four wave vectors is 3."""


def ours(modes: np.ndarray = MODES, *, is_refused: bool = False) -> Transport:
    kappa = modes.sum((1, 2))[:, None, None] / 4 * np.eye(3)
    nothing = np.zeros(modes.shape)
    reason = IMAGINARY if is_refused else ""
    none = Transport(
        np.array([300.0]), (2, 2, 1), np.zeros((2, 3)), WEIGHTS, nothing[0], np.zeros((2, 2, 3)), nothing, nothing[0],
        kappa, 0 * kappa, modes, reason, None,
    )  # fmt: skip
    return replace(none, kappa=none.kappa * np.nan) if is_refused else none


def test_identical_conductivities_have_no_error():
    kappa = np.array([3.0])
    assert srd(kappa, kappa).tolist() == [0.0]
    assert srme(kappa, MODES, kappa, MODES, WEIGHTS).tolist() == [0.0]


def test_modes_that_are_swapped_are_all_wrong_though_the_sum_is_right():
    first, second = np.array([[[4.0, 0.0], [0.0, 0.0]]]), np.array([[[0.0, 0.0], [0.0, 4.0]]])
    kappa = np.array([1.0])
    assert srd(kappa, kappa).tolist() == [0.0]
    assert srme(kappa, first, kappa, second, WEIGHTS).tolist() == [2.0]


def test_one_that_is_three_times_another_differs_by_its_size():
    assert srd(np.array([3.0]), np.array([1.0])).tolist() == [1.0]
    assert srd(np.array([1.0]), np.array([3.0])).tolist() == [-1.0]
    assert srme(np.array([9.0]), 3 * MODES, np.array([3.0]), MODES, WEIGHTS) == pytest.approx([1.0])


def test_what_could_not_be_computed_has_the_largest_error():
    nothing = np.array([np.nan])
    assert srd(nothing, np.array([3.0])).tolist() == [-2.0]
    assert srme(nothing, MODES * np.nan, np.array([3.0]), MODES, WEIGHTS).tolist() == [2.0]
    assert srd(np.zeros(1), np.zeros(1)).tolist() == [0.0]


def test_modes_share_a_coherence_in_the_ratio_of_their_heat_capacities():
    matrix = np.array([[[[5.0, 1.0], [1.0, 7.0]]]])
    shares = by_mode(matrix, np.array([[[1.0, 3.0]]]))
    assert shares == pytest.approx(np.array([[[5 + 2 * 3 / 4, 7 + 2 * 1 / 4]]]))
    assert shares.sum() == pytest.approx(matrix.sum())


def test_a_mode_without_heat_capacity_conducts_nothing():
    assert by_mode(np.zeros((1, 1, 2, 2)), np.zeros((1, 1, 2))).tolist() == [[[0.0, 0.0]]]


@pytest.mark.parametrize(
    ("at_gamma", "elsewhere", "expected"),
    [
        ((-0.009, 0.0, 0.0, 5.0), (1.0, 1.0, 1.0, 5.0), False),
        ((-0.011, 0.0, 0.0, 5.0), (1.0, 1.0, 1.0, 5.0), True),
        ((0.0, 0.0, 0.0, 5.0), (-1e-4, 1.0, 1.0, 5.0), True),
        ((-0.009, -0.009, -0.009, -0.001), (1.0, 1.0, 1.0, 5.0), True),
    ],
)
def test_modes_are_imaginary_as_the_benchmark_has_it(at_gamma, elsewhere, expected):
    assert has_imaginary(np.array([at_gamma, elsewhere]), 0, 0.01) is expected


def test_a_third_of_the_trace_is_the_mean():
    assert mean_of(np.diag([1.0, 2.0, 6.0])[None]).tolist() == [3.0]


@pytest.mark.parametrize("kind", ["json", "json#silicon", "npz", "hdf5", "tensors", "six"])
def test_references_are_read_from_every_kind_of_file(tmp_path, kind):
    stored = {
        "temperatures": [100.0, 300.0],
        "kappa_tot_avg": [9.0, 3.0],
        "mode_kappa_tot_avg": [MODES[0] * 3, MODES[0]],
    }
    if kind == "tensors":
        stored["kappa_tot_rta"] = [np.diag([9.0, 9, 9]), np.diag([1.0, 2, 6])]
        stored["mode_kappa_tot_rta"] = np.einsum("tqb,ij->tqbij", stored["mode_kappa_tot_avg"], np.eye(3))
        del stored["kappa_tot_avg"], stored["mode_kappa_tot_avg"]
    if kind == "six":
        stored["kappa"] = [[9.0, 9, 9, 0, 0, 0], [1.0, 2, 6, 7, 7, 7]]
        stored["mode_kappa"] = np.repeat(np.array(stored["mode_kappa_tot_avg"])[..., None], 6, axis=-1)
        del stored["kappa_tot_avg"], stored["mode_kappa_tot_avg"]
    plain = {key: np.asarray(value).tolist() for key, value in stored.items()}
    path = tmp_path / ("kappa.json" if kind in ("tensors", "six") else f"kappa.{kind.partition('#')[0]}")
    if path.suffix == ".npz":
        np.savez(path, **plain)
    elif path.suffix == ".hdf5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            for key, value in plain.items():
                file[key] = value
    else:
        path.write_text(json.dumps({"silicon": plain, "note": "x"} if "#" in kind else plain))
    found = read_reference(f"{path}#silicon" if "#" in kind else str(path))
    assert found.temperatures_K.tolist() == [100.0, 300.0]
    assert found.kappa.tolist() == [9.0, 3.0]
    assert found.modes == pytest.approx(np.concatenate([3 * MODES, MODES]))
    compared = compare(ours(), found)
    assert (compared.temperatures_K.tolist(), compared.sre.tolist(), compared.srme.tolist()) == ([300.0], [0.0], [0.0])


def test_a_refused_conductivity_is_compared_as_the_worst(tmp_path):
    reference = Reference("x", np.array([300.0]), np.array([3.0]), MODES)
    found = compare(ours(is_refused=True), reference)
    assert (found.srd.tolist(), found.sre.tolist(), found.srme.tolist()) == ([-2.0], [2.0], [2.0])
    assert compare(ours(), reference._replace(modes=None)).srme is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("not json", "cannot be read"),
        ("[1, 2]", "it has none, and no conductivities either"),
        ('{"a": {"kappa": [1]}, "b": {}}', r"the entry '' is not in the reference .*; it has a, b. Name one"),
        ('{"kappa": [1.0]}', "one of temperatures_K, temperatures, temperature was expected"),
        ('{"kappa": [1.0, 2.0], "temperature": [300]}', "a finite one, not negative, for each was expected"),
        ('{"kappa": [-1.0], "temperature": [300]}', "a finite one, not negative, for each was expected"),
        ('{"kappa": {"x": 1}, "temperature": [300]}', "Numbers were expected"),
        ('{"kappa": [1.0], "temperature": [300], "mode_kappa": [1.0]}', "of modes of shape"),
    ],
)
def test_bad_references_are_refused(tmp_path, text, reason):
    path = tmp_path / "kappa.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=reason):
        read_reference(str(path))


def test_a_missing_reference_is_named():
    with pytest.raises(ValueError, match=r"there is no reference file nowhere\.json"):
        read_reference("nowhere.json#silicon")


def test_a_reference_of_other_temperatures_or_modes_is_refused():
    reference = Reference("x", np.array([100.0]), np.array([3.0]), MODES)
    with pytest.raises(ValueError, match=r"has \[100.0\] K, and \[300.0\] K were computed"):
        compare(ours(), reference)
    check_modes(reference, 2, 2)
    with pytest.raises(ValueError, match="2 modes at each of 2 irreducible wave vectors; 6 at 56 were expected"):
        check_modes(reference, 56, 6)
