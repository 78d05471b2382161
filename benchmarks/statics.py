"""Statics against DFT: frequencies, degeneracies, thermal conductivity and elasticity of three crystals.

    python benchmarks/statics.py silicon --data ../shared/data -o runs/statics
    python benchmarks/statics.py silicon MgO=runs/MgO/best.safetensors NaCl=runs/NaCl/best.safetensors --data ...

A crystal is silicon, MgO or NaCl; behind = stands a packaged name or a file, and nothing where both have one name. The
folder of data holds phonopy_sets and phonon_inputs: supercells with displaced atoms and DFT's forces, from which
reference force constants are recomputed with the procedure that they were published with. The potential answers at
DFT's lattice constant, in float64, with second-order force constants of 64 atoms (what it was trained on) and, as far
as --large says so, of 512:

    same       on the supercells that DFT was asked for, force constants found in the same way
    raw        every atom of the primitive cell moved by 0.03 Å one way, nothing symmetrised
    ±          both ways
    projected  ± with the crystal's symmetry, permutations and acoustic sums
    averaged   ± with the potential averaged over --average

Third-order force constants take the displacements that phono3py leaves after symmetry, in all variants. What is known
is kept in the folder after -o: a run that was killed goes on where it was. Writes <date>-statics.md and .json to
benchmarks/results and the figure to docs/statics.svg.
"""

import argparse
import contextlib
import json
from datetime import UTC, datetime
from pathlib import Path

import torch
from statics.answers import VARIANTS, Subject
from statics.constants import Kept, MissingError
from statics.crystals import CRYSTALS, LARGE, SMALL
from statics.facts import Found, facts
from statics.picture import draw
from statics.rest import at_rest
from statics.tables import page

import tumble
from tumble.jacobian import precise

HERE = Path(__file__).resolve().parent


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("crystals", nargs="+", help=f"{', '.join(CRYSTALS)}; with =FILE where the potential has another name")
    add("--data", type=Path, required=True, help="folder with phonopy_sets and phonon_inputs")
    add("-o", "--out", type=Path, required=True, help="folder in which force constants are kept, and found again")
    add("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    add("--kappa", nargs="*", choices=VARIANTS, default=list(VARIANTS), help="variants whose κ is computed")
    add("--large", nargs="*", choices=VARIANTS, default=["same"], help="variants that 512 atoms are asked for too")
    add("--large-kappa", nargs="*", choices=VARIANTS, default=["same"], help="and whose κ is computed with them")
    add("--average", default="O", help="rule that is averaged over")
    add("--no-rest", action="store_true", help="leave out the potential's own lattice constant and elasticity")
    add("--report", action="store_true", help="compute no forces and no κ, write what there is so far")
    add("--threads", type=int, default=torch.get_num_threads())
    add("--results", type=Path, default=HERE / "results", help="folder of the tables")
    add("--figure", type=Path, default=HERE.parent / "docs" / "statics.svg")
    chosen = parser.parse_args(words)
    for word in chosen.crystals:
        if word.partition("=")[0] not in CRYSTALS:
            parser.error(f"{word!r} names no crystal; known are {', '.join(CRYSTALS)}")
    for folder in ("phonopy_sets", "phonon_inputs"):
        if not (chosen.data / folder).is_dir():
            parser.error(f"{chosen.data / folder} is missing; --data names the folder that holds it")
    return chosen


def main() -> None:
    """Compute what is missing, compare, write."""
    chosen = arguments()
    torch.set_num_threads(chosen.threads)
    every: list[Found] = []
    for word in chosen.crystals:
        name, _, file = word.partition("=")
        potential = precise(tumble.load(file or name))
        kept = Kept(chosen.out, is_closed=chosen.report)
        subject = Subject(name, chosen.data, potential, kept, chosen.average)
        asked = {SMALL: (chosen.variants, chosen.kappa), LARGE: (chosen.large, chosen.large_kappa)}
        answers = {size: subject.answers(names, size, kappa) for size, (names, kappa) in asked.items() if names}
        rest = None
        with contextlib.suppress(MissingError):
            rest = None if chosen.no_rest else at_rest(potential, subject)
        every.append(facts(subject, answers, rest))
        write(every, chosen)
    print(page(every, "Statics against DFT"))


def write(every: list[Found], chosen: argparse.Namespace) -> None:
    """Tables, numbers and figure of what there is so far."""
    day = datetime.now(UTC).date().isoformat()
    text = page(every, f"Statics against DFT, {day}, tumble {tumble.__version__}")
    (chosen.results / f"{day}-statics.md").write_text(text)
    numbers = {found.name: found.numbers() for found in every}
    (chosen.results / f"{day}-statics.json").write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n")
    draw(every, chosen.figure)


if __name__ == "__main__":
    main()
