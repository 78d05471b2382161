"""Charges: Born charges and dielectric constant, which split longitudinal from transverse modes near Γ."""

from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from tumble.crystal import space_group
from tumble.jobs.phonons.cells import Cells, required

Floats = NDArray[np.float64]

NONE: Final = 1e-3
"""Elementary charges; a crystal whose Born charges are all smaller has none."""


class Charges(NamedTuple):
    """What phonopy takes as `nac_params`, and what was corrected in it.

    engine:        "born" (n, 3, 3) e, "dielectric" (3, 3), "factor".
    sum_violation: e, largest component of the sum of the given charges over the primitive cell.
    removed:       e, largest change of a component by the symmetry and the sum rule.
    """

    engine: dict[str, Any]
    sum_violation: float
    removed: float


def charges_of(file: str, cells: Cells, symprec: float) -> Charges:
    """Born charges and dielectric constant from a file, made symmetric and neutral.

    Args:
        file: BORN of phonopy; or YAML or JSON, by its ending.
        cells: the crystal.
        symprec: Å.

    Raises:
        ValueError: there is no such file, it cannot be read, or it is that of another crystal or of a metal.
    """
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"there is no file {file} of Born charges. Give the path of a BORN, YAML or JSON file.")
    engine = _of_yaml(path) if path.suffix.lower() in (".yaml", ".yml", ".json") else _of_born(path, cells)
    born, dielectric = engine["born"], engine["dielectric"]
    _check(file, born, dielectric, len(cells.chosen))
    group = space_group(cells.primitive, symprec)
    turns = group.turns
    symmetric = np.mean([turn.T @ born[image] @ turn for turn, image in zip(turns, group.images, strict=True)], axis=0)
    neutral = symmetric - symmetric.mean(0)
    units = required("phonopy.physical_units").get_calculator_physical_units(None)
    allowed = group.project_stress(dielectric)[0]
    engine |= {"born": neutral, "dielectric": (allowed + allowed.T) / 2}
    engine.setdefault("factor", units.nac_factor)
    return Charges(engine, float(np.abs(born.sum(0)).max()), float(np.abs(neutral - born).max()))


def _of_yaml(path: Path) -> dict[str, Any]:
    try:
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
        return {name: np.array(stored[name], dtype=np.float64) for name in ("born", "dielectric")}
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read as Born charges ({error}); 'born' with (n, 3, 3) numbers and 'dielectric' with "
            "(3, 3) were expected."
        ) from None


def _of_born(path: Path, cells: Cells) -> dict[str, Any]:
    try:
        found = required("phonopy.file_IO").parse_BORN(cells.engine.primitive, filename=path)
    except (ValueError, RuntimeError, UnicodeDecodeError) as error:
        n = len(cells.chosen)
        raise ValueError(
            f"{path} cannot be read as a BORN file of phonopy ({error}); a line of defaults, one with 9 components of "
            f"the dielectric constant, and one for each symmetry-independent of the {n} atoms of the primitive cell "
            "were expected."
        ) from None
    return dict(found)


def _check(file: str, born: Floats, dielectric: Floats, n_atoms: int) -> None:
    if born.shape != (n_atoms, 3, 3) or dielectric.shape != (3, 3):
        raise ValueError(
            f"{file} has Born charges of shape {born.shape} and a dielectric constant of shape {dielectric.shape}; "
            f"({n_atoms}, 3, 3) for the atoms of the primitive cell and (3, 3) were expected."
        )
    if not np.isfinite(born).all() or not np.isfinite(dielectric).all():
        raise ValueError(
            f"{file} has charges or a dielectric constant that are not finite: those of a metal, which screens them. "
            "Leave nac out for a metal."
        )
    lowest = float(np.linalg.eigvalsh((dielectric + dielectric.T) / 2).min())
    if lowest < 1:
        raise ValueError(
            f"the dielectric constant of {file} has the eigenvalue {lowest:.3g}; at least 1 was expected, that of the "
            "vacuum. Give the constant at high frequency, of an insulator; leave nac out for a metal."
        )
    largest = float(np.abs(born - born.mean(0)).max())
    if largest < NONE:
        raise ValueError(
            f"the Born charges of {file} are {largest:.1g} e at most, beyond what all atoms have together: a metal or "
            "an element has none, and there is nothing to correct. Leave nac out."
        )
