"""What each command does between its words and a function of the package. Imported only when a command runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from cyclopts import Parameter

import tumble
from tumble import checkpoint, data
from tumble.batch import Properties
from tumble.cli import DONE, NOT_TRUSTED
from tumble.cli.screen import progress_bar, show, show_verdicts
from tumble.results import Table, load_result
from tumble.units import EV_PER_A3_TO_GPa

if TYPE_CHECKING:
    from tumble.jobs.audit import AuditSettings
    from tumble.jobs.train import TrainSettings
    from tumble.potential import Potential

Name = Annotated[str, Parameter(help="Packaged name, file, or ase:package.module:factory.")]
Files = Annotated[list[Path], Parameter(help="Structures, in any format that ASE reads.", negative_iterable=())]
Overwrite = Annotated[bool, Parameter(negative="", show_default=False, help="Replace what an earlier run wrote there.")]


@Parameter(name="*")
@dataclass(frozen=True)
class Where:
    """Where a potential answers, and how precisely."""

    device: Annotated[str | None, Parameter(help="cpu, cuda, cuda:1, ...; cpu if not given.")] = None
    dtype: Annotated[Literal["float32", "float64"] | None, Parameter(help="As it was saved if not given.")] = None

    def load(self, model: str) -> "Potential":
        """The potential of this name."""
        return tumble.load(model, device=self.device, dtype=self.dtype)


HERE = Where()


def predict(
    model: Name,
    files: Files,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"], help="File for the answers, .extxyz.")] = None,
    where: Where = HERE,
    overwrite: Overwrite = False,
) -> int:
    """Energy, forces and stress of structures."""
    if output is not None:
        refuse_existing(output, overwrite)
    structures = data.read([str(file) for file in files], require=()).atoms
    answers = tumble.predict(where.load(model), structures)
    show(_answers(structures, answers))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        labelled = [_labelled(*pair) for pair in zip(structures, answers, strict=True)]
        ase.io.write(output, labelled, format="extxyz")
        print(f"wrote {output}")
    return DONE


def symmetrize(
    model: Name,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"], help="File for the new potential, .safetensors.")],
    rotations: Annotated[str, Parameter(help="T O I Th Oh Ih, i, so3:L, o3:L, euler:L, euler:Li or random:n.")] = "Ih",
    overwrite: Overwrite = False,
) -> int:
    """Average a potential over rotations; the result is a file that every other command takes."""
    refuse_existing(output, overwrite)
    potential = tumble.symmetrize(tumble.load(model), rotations)
    checkpoint.save(potential, output, {"made_by": f"tumble symmetrize {model} --rotations {rotations}"})
    print(f"wrote {output}")
    return DONE


def train(
    config: Annotated[Path | None, Parameter(help="Recipe, a YAML file.")] = None,
    *,
    settings: "Callable[[Path | None], TrainSettings]",
    output: Annotated[
        Path, Parameter(name=["--output", "-o"], help="Folder for checkpoints, curves and the potential.")
    ],
    resume: Annotated[
        bool, Parameter(negative="", show_default=False, help="Continue what the folder holds, with its recipe.")
    ] = False,
    max_minutes: Annotated[float | None, Parameter(help="Stop after so long; --resume continues.")] = None,
    overwrite: Overwrite = False,
) -> int:
    """Train a potential on labelled structures."""
    stored = output / "recipe.yaml"
    chosen = settings(stored if resume and stored.is_file() else None)
    refuse_existing(output / "result.json", overwrite or resume)
    flags: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "max_minutes": max_minutes}
    with progress_bar("training") as tell:
        result = tumble.train(chosen, output, tell=lambda one: tell(*one), show=show, **flags)
    result.save(output, overwrite=overwrite or resume)
    print(f"wrote {output / 'best.safetensors'} and {tumble.report(result, to=output / 'card.html')}")
    return DONE


def audit(
    model: Name,
    files: Files,
    *,
    settings: "Callable[[], AuditSettings]",
    output: Annotated[
        Path | None, Parameter(name=["--output", "-o"], help="Folder for the result and card.html.")
    ] = None,
    require: Annotated[
        Literal["remedy", "yes"] | None, Parameter(help="Exit with 6 unless every verdict is at least this.")
    ] = None,
    where: Where = HERE,
    overwrite: Overwrite = False,
) -> int:
    """Measure how much symmetry a potential breaks on these structures, and whether it matters."""
    if output is not None:
        refuse_existing(output / "result.json", overwrite)
    chosen = settings()
    structures = data.read([str(file) for file in files], require=())
    with progress_bar("auditing") as tell:
        result = tumble.audit(where.load(model), structures, chosen, tell=lambda one: tell(*one))
    show_verdicts(result)
    if output is not None:
        result.save(output, overwrite=overwrite)
        print(f"wrote {output} and {tumble.report(result, to=output / 'card.html')}")
    accepted = {"yes": {"yes"}, "remedy": {"yes", "remedy"}, None: None}[require]
    return DONE if accepted is None or all(one.answer in accepted for one in result.verdicts()) else NOT_TRUSTED


def report(
    folders: Annotated[list[Path], Parameter(help="Folders that commands have written.", negative_iterable=())],
    *,
    to: Annotated[Path, Parameter(help="The page to write.")] = Path("card.html"),
) -> int:
    """Turn result folders into one self-contained HTML page."""
    print(f"wrote {tumble.report(*(load_result(folder) for folder in folders), to=to)}")
    return DONE


def models() -> int:
    """List the packaged potentials."""
    rows = []
    for name, path in checkpoint.packaged().items():
        card = checkpoint.read_header(path)["card"]
        error = card.get("errors", {}).get("forces_mae_meV_per_A")
        size = f"{path.stat().st_size / 2**20:.1f}"
        rows.append((name, size, error, str(card.get("licence", "")), str(card.get("data", ""))))
    show(Table("packaged potentials", ("name", "MB", "force MAE (meV/Å)", "licence", "data"), rows))
    return DONE


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Refuse to write over a file.

    Raises:
        ValueError: the file exists and may not be replaced.
    """
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists already; a new file was expected. Give another name, or --overwrite.")


def _answers(structures: Sequence[Atoms], answers: Sequence[Properties]) -> Table:
    columns = ("structure", "formula", "energy (eV)", "per atom (eV)", "largest force (eV/Å)", "pressure (GPa)")
    rows = []
    for index, (atoms, one) in enumerate(zip(structures, answers, strict=True)):
        energy = float("nan") if one.energy is None else float(one.energy)
        force = None if one.forces is None else float(one.forces.norm(dim=1).max())
        pressure = None if one.stress is None else -float(one.stress.trace()) / 3 * EV_PER_A3_TO_GPa
        rows.append(
            (index, atoms.get_chemical_formula(), f"{energy:.6f}", f"{energy / len(atoms):.6f}", force, pressure)
        )
    return Table("predictions", columns, rows)


def _labelled(atoms: Atoms, answer: Properties) -> Atoms:
    fields = {name: np.asarray(value, dtype=float) for name, value in answer._asdict().items() if value is not None}
    if "energy" in fields:
        fields["energy"] = float(fields["energy"])  # type: ignore[assignment]
    if "stress" in fields:
        s = fields["stress"]
        fields["stress"] = np.array([s[0, 0], s[1, 1], s[2, 2], s[1, 2], s[0, 2], s[0, 1]])
    copy = atoms.copy()
    copy.calc = SinglePointCalculator(copy, **fields)
    return copy
