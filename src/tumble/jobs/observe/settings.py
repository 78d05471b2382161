"""What may be chosen for the analysis of trajectories."""

from typing import Final, Literal, final

from ase.data import atomic_numbers
from pydantic import Field, field_validator

from tumble.results import Settings

AUTO: Final = "auto"
KINDS: Final = ("rdf", "msd", "spectra", "orientations", "checks")


@final
class ObserveSettings(Settings):
    """Which observables, of which frames, and how they are averaged."""

    what: str = Field(
        AUTO,
        description="some of rdf, msd, spectra, orientations, checks, with commas between; auto: what the trajectory "
        "allows",
    )
    start_ps: float = Field(0.0, ge=0, description="ps; frames before it are left out")
    stride: int = Field(1, ge=1, description="every so many-th frame is looked at")
    structure: int | None = Field(
        None, ge=0, description="which of several that moved side by side; null: the only one"
    )
    spacing_fs: float | None = Field(
        None, gt=0, description="fs between frames, of files that do not state their times"
    )
    temperature_K: float | None = Field(
        None, gt=0, description="K, of the thermostat; null: as the folder of the run says; without one, not checked"
    )
    n_blocks: int = Field(
        5, ge=2, description="blocks of frames, or segments of a spectrum, whose scatter is the error"
    )
    pairs: str = Field(AUTO, description="of elements, for rdf: O-O,O-H; auto: all, of at most three elements")
    r_max: float = Field(8.0, gt=0, description="Å, of distributions; may exceed the box, for images count")
    smoothing: float = Field(0.1, ge=0, description="Å, Gaussian by which distances are spread; 0: shells")
    pair_frames: int = Field(500, ge=1, description="frames, evenly spread, that rdf and correlations of pairs look at")
    block_frames: int | None = Field(
        None, ge=2, description="frames per block of what depends on time; null: a part of n_blocks"
    )
    origins: Literal["all", "first"] = Field(
        "all", description="moments of a block from which time is counted: all, up to half of it, or the first alone"
    )
    fit_from_ps: float | None = Field(
        None, ge=0, description="ps, where straight lines for D and τ begin; null: a fifth of what there is"
    )
    fit_to_ps: float | None = Field(None, gt=0, description="ps, where they end; null: all there is")
    viscosity_mPas: float | None = Field(
        None, gt=0, description="mPa s, to correct diffusion in a cubic box for its images; null: not corrected"
    )
    charges: str = Field("", description="e, for a dipole spectrum: O:-0.8,H:0.4; empty: without one")
    molecule: str = Field("", description="formula of the molecules whose axes are followed; empty: the commonest")
    bandwidth: float = Field(0.1, gt=0.04, description="rad, of the kernel of an orientational free energy")
    enough: float = Field(30.0, gt=0, description="independent samples of the slowest observable that are enough")

    @field_validator("what")
    @classmethod
    def _are_kinds(cls, text: str) -> str:
        words = _words(text)
        unknown = [word for word in words if word not in KINDS]
        if text != AUTO and (unknown or not words):
            raise ValueError(
                f"{', '.join(unknown) or 'nothing'} cannot be observed; {', '.join(KINDS)}, or auto, was expected. "
                "Correct it."
            )
        return ",".join(words)

    @field_validator("pairs")
    @classmethod
    def _are_pairs(cls, text: str) -> str:
        for pair in _words(text) if text != AUTO else ():
            if len(pair.split("-")) != 2 or not set(pair.split("-")) <= set(atomic_numbers):
                raise ValueError(f"{pair!r} is no pair of elements; such as O-H was expected. Correct it.")
        return ",".join(_words(text))

    @field_validator("charges")
    @classmethod
    def _are_charges(cls, text: str) -> str:
        _charges(text)
        return text

    @property
    def kinds(self) -> tuple[str, ...]:
        """What is observed; all kinds with auto."""
        return KINDS if self.what == AUTO else tuple(_words(self.what))

    def pairs_of(self, symbols: tuple[str, ...]) -> list[tuple[str, str]]:
        """Pairs of elements whose distribution is wanted, of those that there are."""
        if self.pairs == AUTO:
            few = symbols[:3]
            return [(a, b) for k, a in enumerate(few) for b in few[k:]]
        given = [(pair.split("-")[0], pair.split("-")[1]) for pair in _words(self.pairs)]
        return [pair for pair in given if set(pair) <= set(symbols)]

    @property
    def charge_of(self) -> dict[str, float]:
        """Element → e."""
        return _charges(self.charges)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _charges(text: str) -> dict[str, float]:
    charges = {}
    for word in _words(text):
        symbol, _, charge = word.partition(":")
        try:
            if symbol not in atomic_numbers:
                raise ValueError
            charges[symbol] = float(charge)
        except ValueError:
            raise ValueError(f"{word!r} is no charge of an element; such as O:-0.8 was expected. Correct it.") from None
    return charges
