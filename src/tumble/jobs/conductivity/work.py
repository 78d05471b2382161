"""Work: every repair of a conductivity, the other orientations, and half the mesh, one after the other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from tumble.crystal import SpaceGroup
from tumble.jobs.conductivity.engine import Back, Displaced, displaced, give, set_mesh
from tumble.jobs.conductivity.finding import Finding
from tumble.jobs.conductivity.route import LABELS, Answers, Route, asked, forbidden_forces, route_of
from tumble.jobs.conductivity.settings import ConductivitySettings, Repair
from tumble.jobs.conductivity.transport import Transport, transport
from tumble.potential import Potential
from tumble.results import Progress
from tumble.rotations import Rotations
from tumble.symmetry import Symmetrized, symmetrize


@dataclass(frozen=True, eq=False)
class Work:
    """What all repairs of one crystal share.

    engine:   phono3py.Phono3py, which holds one set of forces at a time.
    group:    the space group of the crystal.
    settings: everything that may be chosen.
    cells:    the displaced supercells that each repair needs; some need the same.
    tell:     called as the work goes on.
    """

    engine: Any
    group: SpaceGroup
    settings: ConductivitySettings
    cells: dict[Repair, Displaced]
    tell: Callable[[Progress], None]

    @classmethod
    def of(
        cls, engine: Any, group: SpaceGroup, settings: ConductivitySettings, tell: Callable[[Progress], None]
    ) -> Self:
        """Displace atoms as the repairs need it. No call."""
        chosen: Back = True if settings.back == "always" else "auto"
        backs: dict[Repair, Back] = {"raw": False, "plusminus": True, "projected": chosen, "averaged": chosen}
        sets = {back: displaced(engine, settings, back) for back in {backs[one] for one in settings.repairs}}
        return cls(engine, group, settings, {one: sets[backs[one]] for one in settings.repairs}, tell)

    def finding(self, potential: Potential) -> Finding:
        """Everything about one potential."""
        settings, routes = self.settings, list[Route]()
        plain: tuple[Repair, ...] = tuple(one for one in settings.repairs if one != "averaged")
        base: Repair = plain[-1] if plain else "averaged"
        mean = symmetrize(potential, settings.average) if "averaged" in settings.repairs else potential
        if plain:
            answers = self.ask(potential, plain, "as they are")
            forbidden = forbidden_forces(self.cells[base], answers, settings.symprec)
            routes += [self.make(one, answers, LABELS[one]) for one in plain]
        if "averaged" in settings.repairs:
            answers = self.ask(mean, ("averaged",), f"averaged over {settings.average}")
            routes.append(self.make("averaged", answers, LABELS["averaged"]))
            if not plain:
                forbidden = forbidden_forces(self.cells[base], answers, settings.symprec)
        asked_again = [(potential, base)] * bool(plain) + [(mean, settings.repairs[-1])] * (mean is not potential)
        turned = {LABELS[repair]: self.turned(one, repair) for one, repair in asked_again}
        half = self.on_half(routes[-1])
        # What the engine holds from now on is what the result is about.
        last = self.cells[settings.repairs[-1]]
        give(self.engine, last, answers.of(last))
        self.engine.fc2, self.engine.fc3 = routes[-1].constants
        return Finding(tuple(routes), turned, half, forbidden)

    def ask(self, potential: Potential, repairs: Sequence[Repair], what: str) -> Answers:
        """Forces on the displaced supercells of some repairs."""

        def passed_on(progress: Progress) -> None:
            self.tell(progress._replace(message=f"displaced supercells, {what}: {progress.message}"))

        return asked(potential, [self.cells[one] for one in repairs], passed_on)

    def make(self, repair: Repair, answers: Answers, what: str) -> Route:
        """Force constants and conductivity of one repair."""
        self.tell(Progress(0, 0, f"force constants and conductivity, {what}"))
        return route_of(self.engine, self.group, self.cells[repair], answers, repair, self.settings)

    def turned(self, potential: Potential, repair: Repair) -> tuple[Transport, ...]:
        """A repair with the crystal in other orientations, and the forces turned back."""
        found = []
        for index in range(1, self.settings.turns + 1):
            other, what = Symmetrized(potential, Rotations.random(1, seed=index), prune=False), f"orientation {index}"
            found.append(self.make(repair, self.ask(other, (repair,), what), what).transport)
        return tuple(found)

    def on_half(self, route: Route) -> Transport | None:
        """The same force constants on about half the mesh, which the engine then forgets; None if it is too coarse."""
        settings, length = self.settings, self.settings.mesh_A
        if not settings.half_mesh or route.transport.is_refused:
            return None
        mesh = settings.mesh
        set_mesh(self.engine, length / 2 if mesh is None else [(n + 1) // 2 for n in mesh])
        found = transport(self.engine, route.constants, settings)
        set_mesh(self.engine, length if mesh is None else mesh)
        return None if found.is_refused else found
