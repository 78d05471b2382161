"""md(): structures that move in time, and what the simulation says about itself."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from ase import Atoms

from tumble.checkpoint.subject import subject
from tumble.jacobian import Heating, turn_heating
from tumble.jobs.md.attribution import attribute
from tumble.jobs.md.desk import Desk, read_series
from tumble.jobs.md.finding import Finding, called, drift_of, momenta_of, temperatures_of
from tumble.jobs.md.motion import concerns, start
from tumble.jobs.md.result import MDResult, read_facts
from tumble.jobs.md.run import Plan, Run, run
from tumble.jobs.md.settings import AUTO, NONE, MDSettings
from tumble.orbit import Orbit
from tumble.potential import Potential, check_species, collate_for
from tumble.results import Progress
from tumble.rotations import Rotations
from tumble.symmetry import levels, symmetrize

Tell = Callable[[Progress], None]

ENGINES: Final = {"torchsim": "torchsim", "i-pi": "ipi", "lammps": "lammps"}
"""Where the engines are that take the steps themselves."""

TURNS: Final = "Th@generic"
"""Rule by which the scatter of forces over random turns is estimated."""


def md(
    potential: Potential,
    structures: Atoms | Sequence[Atoms],
    settings: MDSettings | None = None,
    *,
    folder: Path | None = None,
    resume: bool = False,
    name: str = "",
    tell: Tell = lambda progress: None,
) -> MDResult:
    """Let structures move, and say what was conserved, what was not, and why.

    SIGTERM and Ctrl-C end it in good order: it returns what there is, and can be resumed.

    Args:
        potential: any Potential.
        structures: one; several with the engine torchsim. They are not changed.
        settings: None: the defaults.
        folder: where series.csv, the trajectory and restart.npz grow; None: in the result alone.
        resume: go on with the run in the folder; its length may be another.
        name: what the result calls the potential; by default what it is made of.
        tell: called at every line of the series.

    Raises:
        ValueError: no structure or too many, an unknown element, velocities that are said to be given and are not, an
            ensemble for which there is no cell or no stress; a folder that holds a run already, or none to resume, or
            one with other settings.
        RuntimeError: the disk is full; what was written before is safe.
        ImportError: an engine that is not installed.
    """
    settings = settings or MDSettings()
    given = [structures] if isinstance(structures, Atoms) else list(structures)
    check(potential, given, settings)
    if folder is None and resume:
        raise ValueError("a run is to go on, and no folder is named. Name the folder of the run (-o FOLDER).")
    used = potential if settings.average == NONE else symmetrize(potential, settings.average)
    known = subject(potential, name)
    if folder is not None:
        with Desk(Path(folder), given, settings, known, resume=resume) as desk:
            return MDResult.of(settings, known, _simulated(used, given, settings, desk, tell))
    with TemporaryDirectory() as place, Desk(Path(place) / "run", given, settings, known) as desk:
        finding = _simulated(used, given, settings, desk, tell)
        paths = [path for path in (desk.series_path, desk.trajectory_path) if path is not None]
        return MDResult.of(settings, known, finding, {path.name: path.read_bytes() for path in paths})


def check(potential: Potential, structures: Sequence[Atoms], settings: MDSettings) -> None:
    """What is refused before anything is computed or written.

    Raises:
        ValueError: no structure or too many, an unknown element, a structure that `collate` refuses.
    """
    if not structures:
        raise ValueError("there is no structure to move; one was expected. Give Atoms.")
    if len(structures) > 1 and settings.engine != "torchsim":
        raise ValueError(
            f"{len(structures)} structures were given, and the engine {settings.engine} moves one. Use --engine "
            "torchsim, which moves many side by side, or one run for each."
        )
    check_species(potential.species, collate_for(potential, structures))


def _simulated(potential: Potential, given: list[Atoms], settings: MDSettings, desk: Desk, tell: Tell) -> Finding:
    """The simulation, and what is found in what it has written."""
    moving = start(given[0], settings)
    feared = concerns_of(potential, moving, settings)
    for line in feared:
        tell(Progress(0, 0, line))
    steps, heating = _steps(potential, moving, settings, desk, tell), _heating(potential, moving, settings)
    feared += Plan.of(settings, steps).in_words(settings)
    ended = _moved(potential, given, settings, steps, desk, tell)
    series, last = read_series(desk.series_path), [one for one in desk.last if one is not None]
    several = len(given) > 1
    is_cut = ended.ended != "arrived"  # then nobody waits for more
    is_traced = not several and not is_cut and settings.beads == 1
    n_atoms = sum(map(len, given)) / len(given)
    return Finding(
        name=called(given),
        atoms=last,
        n_atoms=n_atoms,
        series=series,
        steps=steps,
        is_conservative=potential.is_conservative,
        is_fast_gradient=levels(potential, len(steps) + 1)[0].is_conservative,
        run=ended,
        drift=drift_of(series, n_atoms),
        temperatures=temperatures_of(series, given),
        momenta=None if several else momenta_of(series, last[0] if last else given[0], settings),
        heating=heating,
        attribution=attribute(potential, moving, settings, steps, tell) if is_traced else None,
        choice=read_facts(desk.record.get("choice", [])),
        concerns=tuple(feared),
    )


def _moved(
    potential: Potential, given: list[Atoms], settings: MDSettings, steps: tuple[int, ...], desk: Desk, tell: Tell
) -> Run:
    """All steps, by the engine of the settings."""
    if settings.engine == "ase":
        return run(potential, given[0], settings, steps, desk, tell)
    engine: Any = import_module(f"tumble.jobs.md.engines.{ENGINES[settings.engine]}")
    chosen = settings if settings.mts != AUTO else settings.model_copy(update={"mts": _in_words(steps)})
    ended: Run = engine.run(potential, given, chosen, desk, tell)
    return ended


def _steps(potential: Potential, atoms: Atoms, settings: MDSettings, desk: Desk, tell: Tell) -> tuple[int, ...]:
    """Fast steps to a slow one; where they are chosen, a run that goes on keeps them."""
    if settings.mts != AUTO:
        return settings.steps_of_levels
    if "steps" not in desk.record:
        from tumble.jobs.md.choice import choose

        choice = choose(potential, atoms, settings, tell)
        desk.record["steps"] = list(choice.steps)
        desk.record["choice"] = [{"fact": type(fact).__name__} | asdict(fact) for fact in choice.facts()]
    return tuple(desk.record["steps"])


def _in_words(steps: tuple[int, ...]) -> str:
    return ",".join(map(str, steps)) or NONE


def _heating(potential: Potential, atoms: Atoms, settings: MDSettings) -> Heating | None:
    """What random turns add, from the scatter of forces at the start."""
    if settings.turns == NONE:
        return None
    spread = Orbit.of(potential, collate_for(potential, [atoms]), Rotations.parse(TURNS)).spread().forces
    assert spread is not None, "a potential that moves atoms has forces"
    return turn_heating(spread.cpu().numpy(), atoms, timestep_fs=settings.timestep_fs)


def concerns_of(potential: Potential, atoms: Atoms, settings: MDSettings) -> list[str]:
    """What is to be feared before the first step, as sentences for the user."""
    feared = concerns(atoms, settings)
    if not potential.is_conservative:
        if settings.ensemble == "nve":
            feared.append(
                "the forces are not the derivative of an energy, so that nothing is conserved: it will heat. Use the "
                "derivative, or mts with it as the slow forces."
            )
        elif settings.thermostat != "langevin":
            feared.append(
                f"the forces are not the derivative of an energy, and {settings.thermostat} takes from all atoms alike "
                "what they give to some: elements will have different temperatures. Use langevin, or mts with the "
                "derivative as the slow forces."
            )
    return feared
