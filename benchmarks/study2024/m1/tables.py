"""The page of experiment M1 in Markdown."""

from typing import Any

import numpy as np
from speed.numbers import table

from study2024.m1.facts import Found, Turning
from study2024.published import LEVELS, ANGULAR_MOMENTUM_AVERAGED_eVfs, ANGULAR_MOMENTUM_eVfs, TORQUE_meV
from study2024.record import SOURCE, short, with_error
from tumble.rotations import Rotations

SLOW = 1000.0
"""cm⁻¹, below which the molecule turns and above which it vibrates."""


def page(head: str, found: Found, figure: str) -> list[str]:
    """Tables, and what has to be said to read them."""
    low = found.spectra.below(SLOW)
    return [
        "# M1: a molecule at constant energy",
        "",
        head,
        "",
        "One molecule, steps of 0.5 fs, from the study's geometry and velocities drawn at 300 K, the same for both "
        f"runs. {SOURCE} Written by `benchmarks/study2024/m1/run.py`; what it means is in the README there.",
        "",
        f"![torque, angular momentum, spectra]({figure})",
        "",
        "## Torque",
        "",
        f"About the centre of mass, root mean square over {found.n_frames} frames of the raw run, meV:",
        "",
        *_torques(found),
        "",
        "## Angular momentum and energy",
        "",
        *_turning(found),
        "",
        "Published: |L| is constant in the averaged run; its direction goes by 6° in 25 ps. In the raw run one "
        "component goes from +3 to −3 eV fs and back within 12 ps.",
        "",
        "## Spectra",
        "",
        f"Along the raw run V varies by {short(found.spectra.potential_std)} meV and E_avg − E_raw by "
        f"{short(found.spectra.difference_std)} meV (standard deviations). Below {SLOW:.0f} cm⁻¹ lies "
        f"{100 * low[0]:.0f} % of the variance of the first and {100 * low[1]:.0f} % of that of the second.",
    ]


def _torques(found: Found) -> list[str]:
    rows = [
        [
            level,
            f"`{spec}`",
            len(Rotations.parse(spec)),
            short(found.torques[level]),
            short(TORQUE_meV[level]),
            *(short(of["0"] / of[level]) for of in (found.torques, TORQUE_meV)),
        ]
        for level, spec in LEVELS.items()
    ]
    return table(["level", "rule", "calls", "ours", "published", "raw / ours", "raw / published"], rows)


def _turning(found: Found) -> list[str]:
    names = {"raw": "raw", "averaged": "averaged over 2i"}
    rows = [[names[name], *_run(run)] for name, run in found.runs.items()]
    first, last = (np.array(one) for one in ANGULAR_MOMENTUM_AVERAGED_eVfs)
    angle = float(np.degrees(np.arccos(first @ last / np.linalg.norm(first) / np.linalg.norm(last))))
    rows.append(["published, averaged over 2i", 25, short(ANGULAR_MOMENTUM_eVfs), None, f"{angle:.0f}", *[None] * 3])
    head = ["run", "ps", "\\|L\\| at the start, eV fs", "\\|L\\| along it", "angle of L at the end, °"]
    return table([*head, "largest angle, °", "drift, meV/atom/ns", "rms about it, meV/atom"], rows)


def _run(run: Turning) -> list[Any]:
    norms = np.linalg.norm(run.momentum, axis=1)
    return [
        short(float(run.times_ps[-1])),
        short(float(norms[0])),
        f"{norms.min():.3f} to {norms.max():.3f}",
        f"{run.angle[-1]:.0f}",
        f"{run.angle.max():.0f}",
        with_error(run.drift.rate, run.drift.error),
        short(run.drift.scatter / 1000),
    ]
