"""The page of experiment C in Markdown."""

from typing import Any

from speed.numbers import table

from study2024 import published
from study2024.c.facts import Found, relative
from study2024.c.walks import TURNED
from study2024.record import SOURCE, short
from study2024.structures import FILES


def page(head: str, found: Found, settings: dict[str, Any], figure: str) -> list[str]:
    """Tables, and what has to be said to read them."""
    raw, mean = found.walks["raw"], found.walks["averaged"]
    return [
        "# C: proton orders in ice",
        "",
        head,
        "",
        f"{len(found.cells)} of nine proton-disordered cells of ice Ih of J. A. Hayward and J. R. Reimers, J. Chem. "
        f"Phys. 106, 1518 (1997), relaxed at fixed cell by L-BFGS below {settings['fmax']} eV/Å: raw from the geometry "
        f"that the study began with, averaged over `{settings['average']}` from where that ended. {raw['n_converged']} "
        f"raw and {mean['n_converged']} averaged walks got there in {raw['n_calls']} and {mean['n_calls']} calls; the "
        f"study stopped below 0.005 eV/Å. {SOURCE} `same cells` is computed from its archive for the cells at hand. "
        "Written by `benchmarks/study2024/c/run.py`; what it means is in the README there.",
        "",
        f"![relative energies]({figure})",
        "",
        "## Relative energies",
        "",
        "meV per molecule, roots of means over the cells (the archive's post-processing prints √Σ, three times more).",
        "",
        *_orders(found),
        "",
        "## In random frames",
        "",
        f"All cells lie in the lab in the same way, and so does their shift. Raw energies of the cells at rest on the "
        f"average, turned in {len(found.frames)} random ways, minus averaged ones, meV per molecule:",
        "",
        *_frames(found),
        "",
        "## Forces and geometries",
        "",
        *_pushes(found),
        "",
        *table(["root mean square distance, Å per atom", "ours", "published"], _distances(found)),
        "",
        "## Cell by cell",
        "",
        "Energies at rest from the mean of the cells, meV per molecule.",
        "",
        *_cells(found),
    ]


def _orders(found: Found) -> list[str]:
    names = {
        "std": "standard deviation over proton orders, averaged",
        "std_raw": "standard deviation over proton orders, raw",
        "spread": "largest minus smallest, averaged",
        "rmse": "raw minus averaged relative energies, rms",
        "mae": "raw minus averaged relative energies, mean absolute",
        "shift": "shift of raw energies that all cells share",
        "pearson": "correlation of raw and averaged",
    }
    ours, start, same = (found.orders[name] for name in ("rest", "start", "theirs"))
    rows = []
    for key, text in names.items():
        digits = 5 if key == "pearson" else 3
        values = (getattr(ours, key), getattr(same, key), published.ICE[key], getattr(start, key))
        rows.append([text, *(short(value, digits) for value in values)])
    head = ["", "ours", "published, same cells", "published, nine cells", "ours, not relaxed"]
    against = found.orders["against theirs"]
    return [
        *table(head, rows),
        "",
        f"Not relaxed, published raw and averaged energies differ by {short(published.ICE_START_RMSE_meV)} meV "
        "(rms, nine cells). "
        f"Our averaged relative energies and the published averaged ones of the same cells differ by "
        f"{short(against.rmse)} meV (rms), correlation {short(against.pearson, 4)}: two models, one reference method.",
    ]


def _frames(found: Found) -> list[str]:
    rest, frames = found.orders["rest"], found.in_frames
    rows = [
        ["relative energies, cells as they lie (at rest, from above)", short(rest.rmse)],
        ["relative energies, cells turned together", short(frames.rmse_common)],
        ["relative energies, every cell turned by itself", short(frames.rmse_apart)],
        ["shift that all cells share, as they lie", short(rest.shift)],
        ["shift that all cells share, standard deviation over frames", short(frames.shift_std)],
    ]
    rows += [
        [f"relaxed anew in frame {k}: relative energies (shift)", f"{short(one.rmse)} ({short(one.shift)})"]
        for k, one in ((k, found.orders[f"rest turned {k}"]) for k in range(TURNED))
    ]
    return table(["rms difference of raw from averaged", "ours"], rows)


def _pushes(found: Found) -> list[str]:
    start, frames = found.pushes["start"], found.pushes["frames"]
    names = {"rmse": "rms per component", "mae": "mean absolute per component", "rmse_vector": "rms per atom"}
    rows = [
        [text, short(getattr(start, key)), short(published.ICE_FORCES_meV_per_A[key]), short(getattr(frames, key))]
        for key, text in names.items()
    ]
    head = ["meV/Å", "raw minus averaged, geometries given", "published, nine cells", "raw, turned minus as it lies"]
    return table(head, rows)


def _distances(found: Found) -> list[list[str | None]]:
    ours = found.distances
    rows: list[list[str | None]] = [
        [
            "averaged, from the geometries given",
            short(ours["averaged from given"]),
            short(published.ICE_DISPLACEMENT_A),
        ],
        ["averaged, from the study's at rest", short(ours["averaged from theirs"]), None],
        ["raw from averaged", short(ours["raw from averaged"]), None],
    ]
    return rows + [
        [f"raw in frame {k} from raw as it lies", short(ours[f"raw turned {k} from raw"]), None] for k in range(TURNED)
    ]


def _cells(found: Found) -> list[str]:
    ours, theirs = found.energy["rest"], found.theirs
    columns = [relative(values) for values in (ours["averaged"], ours["raw"], theirs["averaged"], theirs["raw"])]
    rows = [
        [f"{cell:02}", n, *(f"{column[k]:+.4f}" for column in columns)]
        for k, (cell, n) in enumerate(zip(found.cells, found.n_molecules, strict=True))
    ]
    names = ["averaged", "raw", "published, averaged", "published, raw"]
    return [*table(["cell", "molecules", *names], rows), "", f"Cells are those of `{FILES['ice']}`."]
