"""Measure: from one trajectory to what it says; what it cannot say is left out, with the reason."""

from collections.abc import Callable
from typing import Any

import numpy as np
from ase import Atoms

from tumble import trajectories as tj
from tumble.jobs.observe.finding import Finding, Moved, Span, Turned
from tumble.jobs.observe.settings import AUTO, ObserveSettings
from tumble.jobs.observe.warm import warmth
from tumble.trajectories import Mean, Molecule, Spectrum, Trajectory

MOST_SPACING_PS = 5e-3
"""Between frames of a spectrum with hydrogen, whose bonds vibrate at up to 120 THz."""

SLOW_SPACING_PS = 20e-3
"""The same without hydrogen."""

NOISY = 1.0
"""k_BT; a free energy with larger errors is not shown."""

FEWEST = 20
"""Frames of anything that depends on time."""


class Measure:
    """One trajectory, asked about one kind of observable after the other."""

    def __init__(self, trajectory: Trajectory, settings: ObserveSettings, target_K: float | None) -> None:
        """Args:
        trajectory: any.
        settings: what is asked for.
        target_K: K, of its thermostat, if there is one.
        """
        self.trajectory, self.settings, self.target_K = trajectory, settings, target_K
        self.said: dict[str, Any] = {}
        self.left_out: dict[str, str] = {}
        self.slowest: dict[str, Mean] = {}
        self._molecules: tuple[Molecule, ...] | None = None

    def finding(self, tell: Callable[[str], None]) -> Finding:
        """All that is asked for."""
        t = self.trajectory
        if "potential_eV" in t.series:
            self.said["energy"] = self.slowest["potential energy"] = tj.mean(t.series["potential_eV"])
        steps: dict[str, Callable[[], None]] = {
            "rdf": self._radials,
            "msd": self._moved,
            "spectra": self._spectra,
            "orientations": self._turned,
            "checks": self._warmth,
        }
        for kind in self.settings.kinds:
            tell(kind)
            self._try(kind, steps[kind])
        atoms = Atoms(t.numbers, t.positions[0], cell=t.cells[0], pbc=t.pbc, info={"name": t.name})
        return Finding(t.name, atoms, self._span(), **self.said, slowest=self.slowest, left_out=self.left_out)

    def _try(self, kind: str, step: Callable[[], None]) -> None:
        """What was asked for by name must be there; auto passes over what cannot be."""
        try:
            step()
        except (ValueError, ImportError) as error:
            if self.settings.what != AUTO:
                raise
            self.left_out[kind] = str(error)

    def _span(self) -> Span:
        times = self.trajectory.times_ps
        return Span(len(times), float(times[0]), float(times[-1]), self._spacing())

    def _spacing(self) -> float | None:
        try:
            return self.trajectory.spacing_ps
        except ValueError:
            return None

    @property
    def molecules(self) -> tuple[Molecule, ...]:
        """Found when they are first asked for."""
        if self._molecules is None:
            self._molecules = tj.molecules(self.trajectory)
        return self._molecules

    def _thinned(self) -> slice:
        """Frames for what is asked about all pairs."""
        return slice(None, None, max(1, len(self.trajectory) // self.settings.pair_frames))

    def _radials(self) -> None:
        chosen, thin = self.settings, self.trajectory.frames(self._thinned())
        self.said["radials"] = {
            f"{first}-{second}": tj.radial(
                thin, first, second, r_max=chosen.r_max, smoothing=chosen.smoothing, n_blocks=chosen.n_blocks
            )
            for first, second in chosen.pairs_of(thin.symbols)
            if first != second or len(thin.where(first)) > 1
        }

    def _block_frames(self) -> int:
        count = len(self.trajectory)
        if count < FEWEST:
            raise ValueError(f"{self.trajectory.name} has {count} frames; {FEWEST} were expected for motion.")
        return self.settings.block_frames or count // self.settings.n_blocks

    def _moved(self) -> None:
        t, chosen = self.trajectory, self.settings
        if not t.pbc.any():
            raise ValueError(f"{t.name} does not repeat in any direction; what diffuses was expected to be in a box.")
        self.said["moved"] = moved = {}
        for symbol in t.symbols:
            decay = tj.displacements(t, symbol, block_frames=self._block_frames(), origins=chosen.origins)
            rate = tj.diffusion(decay, chosen.fit_from_ps, chosen.fit_to_ps)
            moved[symbol] = Moved(decay, rate, self._unbounded(rate))

    def _unbounded(self, rate: tj.Rate) -> tj.Rate | None:
        viscosity, cell = self.settings.viscosity_mPas, self.trajectory.cells.mean(0)
        if viscosity is None:
            return None
        length = float(np.cbrt(abs(np.linalg.det(cell))))
        if np.abs(cell - length * np.eye(3)).max() > 1e-3 * length or not self.trajectory.pbc.all():
            raise ValueError(f"the box of {self.trajectory.name} is not a cube, for which diffusion can be corrected.")
        temperature = self.target_K or self._temperature()
        return tj.unbounded(rate, length_A=length, temperature_K=temperature, viscosity_mPas=viscosity)

    def _temperature(self) -> float:
        found = warmth(self.trajectory, None)
        return found.mean.value

    def _spectra(self) -> None:
        t, chosen = self.trajectory, self.settings
        longest = MOST_SPACING_PS if 1 in t.numbers else SLOW_SPACING_PS
        if t.spacing_ps > longest * (1 + 1e-6) and chosen.what == AUTO:
            raise ValueError(
                f"frames are {1000 * t.spacing_ps:g} fs apart; at most {1000 * longest:g} fs were expected for a "
                f"spectrum, which would fold back what is faster than {0.5 / t.spacing_ps:.3g} THz."
            )
        segments = chosen.n_blocks
        self.said["spectra"] = {
            symbol: _rescaled(tj.velocity_spectrum(t, symbol, n_segments=segments), t) for symbol in t.symbols
        }
        if chosen.charges:
            self.said["dipole"] = tj.dipole_spectrum(t, chosen.charge_of, n_segments=segments)

    def _turned(self) -> None:
        t, chosen = self.trajectory, self.settings
        axes = tj.axes(self.molecules, t, chosen.molecule)
        formula = next(one.formula for one in self.molecules if axes[0, 0] in one.members)
        u = tj.directions(t, axes)
        found = tj.vector(u)
        for axis, name in enumerate("xyz"):
            self.slowest[f"direction of {formula}, {name}"] = tj.mean(u[..., axis].mean(1))
        memory = time = None
        if len(t) >= FEWEST and self._spacing() is not None:
            memory = tj.reorientation(t, u, block_frames=self._block_frames(), origins=chosen.origins)
            try:
                time = tj.correlation_time(memory, chosen.fit_from_ps, chosen.fit_to_ps)
            except ValueError as error:
                self.left_out["correlation time"] = str(error)
        pairs = None
        if len(axes) > 1 and t.pbc.all():
            thin = self._thinned()
            options: dict[str, Any] = {"r_max": chosen.r_max, "smoothing": chosen.smoothing}
            options["n_blocks"] = chosen.n_blocks
            pairs = tj.correlations(t.frames(thin), axes, u[thin], **options)
        noise = tj.noise(len(axes) * found.n_independent, chosen.bandwidth)
        shown = tj.free_energy(u, bandwidth=chosen.bandwidth) if noise < NOISY else None
        if shown is None:
            self.left_out["free energy of orientations"] = (
                f"there are {len(axes) * found.n_independent:.3g} independent directions, by which the free energy is "
                f"known to {noise:.2g} k_BT; {NOISY:g} was expected. Run longer, or take a larger bandwidth."
            )
        self.said["turned"] = Turned(formula, len(axes), found, noise, shown, memory, time, pairs)

    def _warmth(self) -> None:
        found = warmth(self.trajectory, self.target_K, self.molecules)
        self.slowest["temperature"] = found.mean
        self.said["warmth"] = found


def _rescaled(spectrum: Spectrum, trajectory: Trajectory) -> Spectrum:
    """Per atom of the system, so that systems of different size can be compared."""
    n = trajectory.n_atoms
    return spectrum._replace(density=spectrum.density / n, error=spectrum.error / n)
