"""Finding: what one trajectory says."""

from dataclasses import dataclass, field
from typing import NamedTuple

from ase import Atoms

from tumble.trajectories import Correlations, Decay, Mean, Radial, Rate, Spectrum, SphereMap, Vector
from tumble.trajectories.checks import Kinetic


class Span(NamedTuple):
    """What was looked at.

    n_frames:   K.
    from_ps, to_ps: ps, of the first and the last frame.
    spacing_ps: ps between frames; None if they are not evenly spaced.
    """

    n_frames: int
    from_ps: float
    to_ps: float
    spacing_ps: float | None

    @property
    def length_ps(self) -> float:
        """From the first frame to the last."""
        return self.to_ps - self.from_ps


class Moved(NamedTuple):
    """How far atoms of an element went.

    decay:     mean square displacement, Å².
    rate:      diffusion coefficient, Å²/ps.
    unbounded: the same without periodic images; None if that was not asked for.
    """

    decay: Decay
    rate: Rate
    unbounded: Rate | None


class Turned(NamedTuple):
    """Where the axes of molecules pointed.

    formula:      of the molecules.
    n_molecules:  M, how many there are.
    vector:       ℓ = 1 part of the free energy.
    noise:        k_BT, standard error of the free energy of one direction, by the number of directions.
    map:          the free energy; None where it would be noise.
    memory:       c_uu(t); None of frames that are not evenly spaced.
    time:         its correlation time; None where it cannot be fitted, see the reasons for what was left out.
    correlations: between molecules; None of one molecule, or without a volume.
    """

    formula: str
    n_molecules: int
    vector: Vector
    noise: float
    map: SphereMap | None
    memory: Decay | None
    time: Rate | None
    correlations: Correlations | None


class Warmth(NamedTuple):
    """How warm it was.

    mean:       temperature, K, with its error and correlation.
    of_species: element → the same.
    target_K:   of the thermostat; None if it is not known, or there was none.
    n_freedoms: degrees of freedom that moved.
    kinetic:    kinetic energies against those of the thermostat; None if they were not checked.
    motions:    kind of motion of molecules → deviations of mean and width from the thermostat, in standard errors.
    """

    mean: Mean
    of_species: dict[str, Mean]
    target_K: float | None
    n_freedoms: int
    kinetic: Kinetic | None
    motions: dict[str, tuple[float, float]]


@dataclass(frozen=True, eq=False)
class Finding:
    """What one trajectory says; what is missing was not asked for, or is in `left_out`.

    name:     what tables call it.
    first:    its first frame.
    span:     what was looked at.
    radials:  "O-H" → distribution.
    moved:    element → how far its atoms went.
    spectra:  element → density of states.
    dipole:   spectrum of the dipole.
    turned:   where molecules pointed.
    warmth:   how warm it was.
    energy:   potential energy, eV.
    slowest:  observable → independent samples of it.
    left_out: what was left out → why.
    """

    name: str
    first: Atoms
    span: Span
    radials: dict[str, Radial] = field(default_factory=dict)
    moved: dict[str, Moved] = field(default_factory=dict)
    spectra: dict[str, Spectrum] = field(default_factory=dict)
    dipole: Spectrum | None = None
    turned: Turned | None = None
    warmth: Warmth | None = None
    energy: Mean | None = None
    slowest: dict[str, Mean] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
