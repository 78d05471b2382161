"""The figure: error against evaluations, energies and forces, ours and published, groups beside grids."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from study2024.published import LEVELS, FORCES_meV_per_A
from study2024.s1.tables import GRID, REFERENCE, TITLES, Found
from tumble.page.palette import LIGHT
from tumble.rotations import Rotations

OURS, THEIRS, GROUP, LIMIT = LIGHT["c0"], LIGHT["c5"], LIGHT["c1"], LIGHT["no"]
UNITS: Final = ("energy, meV per structure", "forces, meV/Å per component")


def draw(sets: Sequence[Found], path: Path) -> None:
    """A column for each set, energies above forces."""
    figure = Figure(figsize=(5.2 * len(sets), 8.2), layout="constrained")
    axes = figure.subplots(2, len(sets), sharex=True, squeeze=False)
    for column, found in zip(axes.T, sets, strict=True):
        assert found.lab is not None
        column[0].set_title(f"{TITLES[found.name]} ({len(found.lab)} × {found.n_atoms} atoms)", fontsize=11)
        for row, one in enumerate(column):
            _panel(one, found, is_energy=row == 0)
    for row, unit in enumerate(UNITS):
        axes[row, 0].set_ylabel(f"mean absolute error against 3i\n{unit}")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.savefig(path, dpi=130)


def _panel(axes: Axes, found: Found, *, is_energy: bool) -> None:
    """One set and one quantity."""
    assert found.lab is not None

    def ours(spec: str) -> float:
        return found.ours(spec).energy_mae if is_energy else found.our_forces(spec)

    levels = [level for level in LEVELS if LEVELS[level] != GRID]
    calls = [_calls(LEVELS[level]) for level in levels]
    theirs = [found.theirs_meV(level) if is_energy else FORCES_meV_per_A[found.name][level] for level in levels]
    axes.plot(calls, theirs, "s--", color=THEIRS, mfc="white", label="grids of the study, published PET")
    axes.plot(
        calls, [ours(LEVELS[level]) for level in levels], "o-", color=OURS, label="grids of the study, this potential"
    )
    for level, x in zip(levels, calls, strict=True):
        _name(axes, level, (x, ours(LEVELS[level])), (5, 6), OURS)
    for is_proper, marker, side in ((True, "^", (-13, -10)), (False, "D", (6, -10))):
        some = [spec for spec in found.lab.energy if spec not in LEVELS.values() and is_proper != spec.endswith("h")]
        label = f"{', '.join(some)}, this potential"
        axes.plot([_calls(spec) for spec in some], [ours(spec) for spec in some], marker, color=GROUP, label=label)
        for spec in some:
            _name(axes, spec, (_calls(spec), ours(spec)), side, GROUP)
    if found.deep is not None:
        own = found.deeper(GRID)
        limit = own.energy_mae if is_energy else own.forces_mae
        axes.axhline(limit, color=LIMIT, lw=1, ls=":", label=f"3i itself, against {REFERENCE}")
    axes.set(xscale="log", yscale="log")
    axes.margins(y=0.1)
    axes.set_xlim(0.8, 190)
    axes.set_xticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
    axes.tick_params(labelbottom=True)
    axes.set_xlabel("evaluations")
    axes.grid(which="major", color=LIGHT["rule"], lw=0.7)
    axes.spines[["top", "right"]].set_visible(False)


def _name(axes: Axes, name: str, at: tuple[float, float], offset: tuple[int, int], color: str) -> None:
    axes.annotate(name, at, offset, textcoords="offset points", color=color, fontsize=9)


def _calls(spec: str) -> int:
    return len(Rotations.parse(spec))
