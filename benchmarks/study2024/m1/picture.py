"""The figure of experiment M1: torque by level, L(t) raw and averaged, spectra of V and of what averaging changes."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from study2024.m1.facts import PER_THZ, Found
from study2024.published import LEVELS, TORQUE_meV
from tumble.page.palette import LIGHT
from tumble.rotations import Rotations

OURS, THEIRS, SECOND = LIGHT["c0"], LIGHT["c5"], LIGHT["c1"]


def draw(found: Found, path: Path) -> None:
    """Four panels."""
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    (torque, raw), (spectra, averaged) = figure.subplots(2, 2)
    _torques(torque, found)
    _spectra(spectra, found)
    for axes, name in ((raw, "raw"), (averaged, "averaged")):
        _momentum(axes, found, name)
    for axes in (torque, raw, spectra, averaged):
        axes.grid(which="major", color=LIGHT["rule"], lw=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=100)


def _torques(axes: Axes, found: Found) -> None:
    calls = [len(Rotations.parse(spec)) for spec in LEVELS.values()]
    axes.plot(calls, [TORQUE_meV[level] for level in LEVELS], "s--", color=THEIRS, mfc="white", label="published")
    axes.plot(calls, [found.torques[level] for level in LEVELS], "o-", color=OURS, label="this potential")
    for level, x in zip(LEVELS, calls, strict=True):
        axes.annotate(level, (x, found.torques[level]), (4, 5), textcoords="offset points", fontsize=8)
    axes.set(xscale="log", yscale="log", xlabel="evaluations", ylabel="torque, rms, meV")


def _momentum(axes: Axes, found: Found, name: str) -> None:
    if name in found.runs:
        run = found.runs[name]
        for component, colour, values in zip("xyz", (OURS, SECOND, LIGHT["c2"]), run.momentum.T, strict=True):
            axes.plot(run.times_ps, values, color=colour, lw=1, label=f"L_{component}, {name}")
        axes.plot(run.times_ps, (run.momentum**2).sum(1) ** 0.5, color=LIGHT["edge"], lw=1, label="|L|")
    axes.set(xlabel="ps", ylabel="angular momentum, eV fs")


def _spectra(axes: Axes, found: Found) -> None:
    one = found.spectra
    wavenumbers = one.frequencies_THz * PER_THZ
    axes.semilogy(wavenumbers[1:], one.potential[1:], color=THEIRS, lw=0.8, label="V")
    axes.semilogy(wavenumbers[1:], one.difference[1:], color=OURS, lw=0.8, label="E_avg − E_raw")
    axes.set(xlabel="cm⁻¹", ylabel="power, meV²/THz")
