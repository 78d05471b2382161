import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene, make_supercell, molecule

from tumble.crystal import check_width, group_of, groups_at, multiples_for, standardised, widths

LOPSIDED = Atoms("HFCN", [[0, 0, 0], [1.1, 0.2, 0.3], [0.3, 1.4, 0.1], [0.2, 0.5, 1.9]], cell=[4, 5, 6], pbc=True)


@pytest.mark.parametrize(
    ("atoms", "symbol", "number", "n_operations"),
    [
        (bulk("Si", "diamond", a=5.43), "Fd-3m", 227, 48),
        (bulk("Si", "diamond", a=5.43, cubic=True), "Fd-3m", 227, 192),
        (bulk("NaCl", "rocksalt", a=5.6), "Fm-3m", 225, 48),
        (bulk("GaAs", "zincblende", a=5.65), "F-43m", 216, 24),
        (bulk("Mg", "hcp", a=3.2, c=5.2), "P6_3/mmc", 194, 24),
        (bulk("Po", "sc", a=3.3), "Pm-3m", 221, 48),
        (LOPSIDED, "P1", 1, 1),
    ],
)
def test_crystals_have_the_groups_of_the_tables(atoms, symbol, number, n_operations):
    found = group_of(atoms)
    assert found == (number, symbol, n_operations, 1e-5)
    assert str(found) == f"{symbol} ({number})"


def test_a_displacement_hides_beyond_its_tolerance():
    atoms = bulk("Si", "diamond", a=5.43)
    atoms.positions[1] += [0.01, 0.004, 0.0]
    below, above = groups_at(atoms, (1e-4, 5e-2))
    assert below is not None
    assert above is not None
    assert below.number < 227
    assert above.number == 227
    assert (below.symprec, above.symprec) == (1e-4, 5e-2)


def test_a_tolerance_that_merges_atoms_has_no_group():
    atoms = Atoms("H2", [[0, 0, 0], [0.4, 0, 0]], cell=[3, 3, 3], pbc=True)
    small, large = groups_at(atoms, (1e-3, 0.9))
    assert small is not None
    assert large is None
    with pytest.raises(ValueError, match=r"no space group was found for H2 within 0.9 Å.*Use a smaller symprec"):
        group_of(atoms, 0.9)


@pytest.mark.parametrize("atoms", [molecule("H2O"), graphene(vacuum=5.0)])
def test_names_of_groups_are_for_crystals(atoms):
    with pytest.raises(ValueError, match=r"pbc is \[.*False\]; space groups by name .* tumble.crystal.space_group"):
        group_of(atoms)
    with pytest.raises(ValueError, match="space groups by name"):
        groups_at(atoms, (1e-5, 1e-2))
    with pytest.raises(ValueError, match="space groups by name"):
        standardised(atoms)


def test_the_standard_cell_is_exact_and_in_the_standard_setting():
    atoms = make_supercell(bulk("Si", "diamond", a=5.43), [[2, 1, 0], [0, 1, 0], [0, 0, 1]])
    atoms.rotate(20, (1, 2, 3), rotate_cell=True)
    atoms.positions += 1e-3 * np.random.default_rng(0).uniform(-1, 1, atoms.positions.shape)
    assert group_of(atoms).number != 227
    cell, primitive = standardised(atoms, 1e-2), standardised(atoms, 1e-2, primitive=True)
    assert (len(cell), len(primitive)) == (8, 2)
    assert cell.cell.array == pytest.approx(5.43 * np.eye(3), abs=1e-3)
    assert cell.cell.array == pytest.approx(cell.cell[0, 0] * np.eye(3), abs=1e-12)
    assert group_of(cell, 1e-8) == (227, "Fd-3m", 192, 1e-8)
    assert group_of(primitive, 1e-8).n_operations == 48
    assert cell.get_chemical_symbols() == ["Si"] * 8


def test_widths_are_distances_between_faces():
    assert widths(np.diag([2.0, 3.0, 4.0])) == pytest.approx([2, 3, 4])
    # Faces of the primitive cell of an fcc crystal are {111} planes, a / √3 apart.
    assert widths(bulk("Ar", "fcc", a=5.0).cell.array) == pytest.approx([5 / 3**0.5] * 3)


def test_as_many_copies_are_taken_as_a_width_needs_and_no_more():
    atoms = bulk("Ar", "fcc", a=5.0, cubic=True)
    assert multiples_for(atoms, 5.0) == (1, 1, 1)
    assert multiples_for(atoms, 5.0001) == (2, 2, 2)
    assert multiples_for(atoms, 14.9) == (3, 3, 3)
    assert multiples_for(graphene(vacuum=3.0), 10.0)[2] == 1
    assert multiples_for(molecule("H2O"), 10.0) == (1, 1, 1)


def test_a_supercell_must_be_as_wide_as_two_cutoffs():
    atoms = bulk("Ar", "fcc", a=5.0, cubic=True)
    check_width(atoms, (2, 2, 2), 5.0)
    check_width(atoms, (1, 1, 1), 0.0)
    check_width(molecule("H2O"), (1, 1, 1), 5.0)
    with pytest.raises(ValueError, match=r"supercell 2x2x1 is 5.00 Å wide.*cutoff of the potential is 5 Å.*use 2x2x2"):
        check_width(atoms, (2, 2, 1), 5.0)
