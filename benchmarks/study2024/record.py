"""What an experiment leaves: a page, its numbers, its figure, and under which potential and on which machine."""

import hashlib
import json
import os
import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

import tumble
from tumble.potential import Potential

SOURCE = (
    "`published` is the PET of Langer, Pozdnyakov, Ceriotti, Mach. Learn.: Sci. Technol. 5, 04LT01 (2024), its numbers "
    "from the paper's archive or read off its figures."
)


def digest(potential: Potential) -> str:
    """Of the weights: answers of other ones must not be mixed with theirs."""
    state = hashlib.sha256()
    for key, values in potential.state_dict().items():
        state.update(key.encode())
        state.update(values.detach().cpu().double().numpy().tobytes())
    return state.hexdigest()[:16]


def head(name: str, potential: Potential) -> str:
    """First line of a page: when, where, with what."""
    machine = f"{torch.get_num_threads()} of {os.cpu_count()} cores ({platform.machine()})"
    dtype = str(potential.dtype).removeprefix("torch.")
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {machine}, torch {torch.__version__}, tumble {tumble.__version__}, "
        f"`{name}` in {dtype}, weights {digest(potential)}."
    )


def write(
    results: Path,
    experiment: str,
    page: Callable[[str], Sequence[str]],
    numbers: dict[str, Any],
    draw: Callable[[Path], None],
) -> Path:
    """Write <date>-study2024-<experiment>.md, .json and .png.

    Args:
        results: folder, made if it is not there.
        experiment: c, m1, ...
        page: lines of the page, from the name of the figure.
        numbers: every number of the tables and more.
        draw: the figure, to a path.
    """
    results.mkdir(parents=True, exist_ok=True)
    target = results / f"{datetime.now(UTC):%Y-%m-%d}-study2024-{experiment}.md"
    draw(target.with_suffix(".png"))
    target.with_suffix(".json").write_text(json.dumps(plain(numbers), indent=1) + "\n")
    target.write_text("\n".join(page(target.with_suffix(".png").name)) + "\n")
    print(f"wrote {target}")
    return target


def plain(value: Any) -> Any:
    """The same in types that JSON has, with six digits."""
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def short(value: float | None, digits: int = 3) -> str | None:
    """So many digits, without an exponent; None for what is not known."""
    if value is None or not np.isfinite(value):
        return None
    text = f"{float(f'{value:.{digits}g}'):.12f}"
    return text.rstrip("0").rstrip(".")


def with_error(value: float, error: float) -> str:
    """A number with the last digits that its standard error knows, such as 1.23 ± 0.04."""
    if not np.isfinite(error) or error <= 0:
        return str(short(value))
    places = max(0, 1 - int(np.floor(np.log10(error))))
    return f"{value:.{places}f} ± {error:.{places}f}"


def bare(atoms: Atoms) -> Atoms:
    """Numbers, positions and cell, nothing else."""
    return Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
