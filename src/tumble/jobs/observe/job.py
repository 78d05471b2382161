"""observe(): what trajectories say, side by side."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from tumble.jobs.observe.finding import Finding
from tumble.jobs.observe.measure import Measure
from tumble.jobs.observe.result import ObserveResult
from tumble.jobs.observe.settings import ObserveSettings
from tumble.results import Progress
from tumble.trajectories import Trajectory, read

Source: TypeAlias = str | Path | Trajectory


def observe(
    trajectories: Source | Sequence[Source],
    settings: ObserveSettings | None = None,
    *,
    tell: Callable[[Progress], None] = lambda progress: None,
) -> ObserveResult:
    """Say what trajectories say: distributions, diffusion, spectra, orientations, temperatures, with error bars.

    Args:
        trajectories: files, folders of runs, or trajectories that are read already; one, or several to compare.
        settings: None: the defaults.
        tell: called before every kind of observable of each.

    Raises:
        ValueError: no trajectory, a file that cannot be read as one, or an observable that was asked for by name and
            cannot be had of it.
        ImportError: what is asked for needs a package that is not installed.
    """
    settings = settings or ObserveSettings()
    given = [trajectories] if isinstance(trajectories, str | Path | Trajectory) else list(trajectories)
    if not given:
        raise ValueError(
            "there is no trajectory to observe; at least one was expected. Name a file or the folder of a run."
        )
    names = _names(given)
    findings: list[Finding] = []
    steps = len(settings.kinds) + 1
    for index, (source, name) in enumerate(zip(given, names, strict=True)):
        tell(Progress(steps * index, steps * len(given), f"{name}: reading"))

        def told(kind: str, name: str = name, before: int = steps * index + 1) -> None:
            place = before + settings.kinds.index(kind)
            tell(Progress(place, steps * len(given), f"{name}: {kind}"))

        findings.append(Measure(_trajectory(source, name, settings), settings, _target(source, settings)).finding(told))
    tell(Progress(steps * len(given), steps * len(given), "done"))
    return ObserveResult.of(settings, findings)


def _trajectory(source: Source, name: str, settings: ObserveSettings) -> Trajectory:
    if isinstance(source, Trajectory):
        inside = slice(int((source.times_ps < settings.start_ps - 1e-9).sum()), None, settings.stride)
        return source.frames(inside).named(name)
    return read(
        source,
        stride=settings.stride,
        start_ps=settings.start_ps,
        structure=settings.structure,
        spacing_fs=settings.spacing_fs,
    ).named(name)


def _names(given: Sequence[Source]) -> list[str]:
    """What tables call them: as short as can be without two being the same."""
    whole = [(one.name,) if isinstance(one, Trajectory) else Path(one).resolve().parts for one in given]
    for count in range(1, 1 + max(map(len, whole))):
        names = ["/".join(parts[-count:]) for parts in whole]
        if len(set(names)) == len(names):
            return names
    return [f"{parts[-1]} ({index})" for index, parts in enumerate(whole)]


def _target(source: Source, settings: ObserveSettings) -> float | None:
    """K, of the thermostat: as it was asked for, else what the settings of the run say."""
    if settings.temperature_K is not None or isinstance(source, Trajectory):
        return settings.temperature_K
    path = Path(source)
    stored = (path if path.is_dir() else path.parent) / "settings.json"
    try:
        said = json.loads(stored.read_text(encoding="utf-8"))
        return None if said["ensemble"] == "nve" else float(said["temperature_K"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # it is no folder of a run
