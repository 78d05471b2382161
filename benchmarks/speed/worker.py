"""One engine in one process: it reads a request per line, does it, and answers with a line of JSON.

Run as `python -m speed.worker` by `processes`, in the Python of the engine.
"""

import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, final

import numpy as np
from ase import Atoms

from speed import engines, memory, systems
from speed.clock import CLOCK

SMALL = {"si": "si8", "water": "water24"}
"""What an engine is warmed up with, before its memory is measured."""

PACKAGES = {"mace": "mace", "orb": "orb_models", "metatomic": "metatomic_ase"}


@final
class Case:
    """A calculator, a structure, and its next steps."""

    def __init__(self, calculator: Any, atoms: Atoms, order: list[str]) -> None:
        """Args:
        order: what is asked for at every step, first to last.
        """
        self.atoms, self.order, self.origin = atoms, order, atoms.positions.copy()
        atoms.calc = calculator
        self.move = systems.Moves(atoms)

    def step(self) -> float:
        """Seconds for the answers at new positions, neighbour list included."""
        self.move()
        ask = {"forces": self.atoms.get_forces, "energy": self.atoms.get_potential_energy}
        started = CLOCK()
        for name in self.order:
            ask[name]()
        return CLOCK() - started


@final
class Packed:
    """A potential of tumble on several copies of a structure in one batch, without neighbour search."""

    def __init__(self, potential: Any, atoms: Atoms, copies: int) -> None:
        self.potential, self.copies = potential, copies
        self.moves = [systems.Moves(atoms.copy(), seed) for seed in range(copies)]

    def step(self) -> float:
        """Seconds for one copy."""
        from tumble.potential import collate_for

        for move in self.moves:
            move()
        batch = collate_for(self.potential, [move.atoms for move in self.moves])
        started = CLOCK()
        answer = self.potential(batch)
        answer.forces.cpu()
        return (CLOCK() - started) / self.copies


@final
class Worker:
    """The requests that can be made, each a method."""

    def __init__(self) -> None:
        self.case: Any = None
        self.rest = 0
        self.device = "cpu"

    def load(
        self,
        engine: str,
        stem: str,
        system: str,
        *,
        device: str = "cpu",
        rule: str = "",
        order: tuple[str, ...] = ("forces", "energy"),
        warm_up: int = 2,
    ) -> dict[str, Any]:
        """Make a calculator, warm it up on a small structure and then on the one to measure."""
        package = PACKAGES.get(engine)
        if package and importlib.util.find_spec(package) is None:
            return {"missing": engines.INSTALL[engine]}
        self.device = device
        try:
            calculator = engines.ENGINES[engine](stem, device, rule)
        except engines.Missing as error:
            return {"missing": f"needs {error}"}
        small = Case(calculator, systems.structure(SMALL[system.rstrip("0123456789")]), list(order))
        for _ in range(1 if rule else 2):
            small.step()
        self.case = Case(calculator, systems.structure(system), list(order))
        self._forget()
        return {"warm_up": [self.case.step() for _ in range(warm_up)]}

    def pack(self, stem: str, system: str, copies: int, device: str = "cpu") -> dict[str, Any]:
        """One call of the potential on several copies of a structure."""
        import tumble

        self.device = device
        self.case = Packed(tumble.load(f"{stem}.ckpt", device=device), systems.structure(system), copies)
        self._forget()
        return {"warm_up": [self.case.step()]}

    def products(self, products: list[list[int]], device: str = "cpu") -> dict[str, Any]:
        """Matrix products of given shapes, alone."""
        from speed.floor import Product, Products

        self.case = Products([Product(*one) for one in products], device)
        return {"warm_up": [self.case.step()]}

    def steps(self, n: int) -> dict[str, Any]:
        """Seconds of each of so many steps."""
        return {"seconds": [self.case.step() for _ in range(n)]}

    def parts(self) -> dict[str, Any]:
        """Seconds that all steps of `products` spent in linear maps and in batched products, and their best rate."""
        return {"parts": self.case.parts}

    def peak(self) -> dict[str, Any]:
        """Bytes beyond what the warmed-up process held."""
        if self.device.startswith("cuda"):
            import torch

            return {"bytes": torch.cuda.max_memory_allocated() - self.rest}
        return {"bytes": memory.peak() - self.rest}

    def answer(self) -> dict[str, Any]:
        """Energy and forces at the first positions, where all engines started."""
        atoms = self.case.atoms
        atoms.positions = self.case.origin
        forces = atoms.get_forces()
        return {"energy": float(atoms.get_potential_energy()), "forces": np.asarray(forces, dtype=float).tolist()}

    def train(self, recipe: dict[str, Any], folder: str) -> dict[str, Any]:
        """Train with tumble, and time its epochs: loading, steps, validation and files included."""
        import tumble

        ends: list[float] = []
        rest = memory.forget()
        total = sum(phase["epochs"] for phase in recipe["phases"])

        def tell(progress: Any) -> None:
            if progress.done % (progress.total // total) == 0:
                ends.append(time.perf_counter())  # not CLOCK: the other one tells wall time only

        tumble.train(tumble.TrainSettings(**recipe), folder, tell=tell)
        return {"seconds": np.diff(ends).tolist(), "peak": memory.peak(), "rest": rest}

    def _forget(self) -> None:
        self.rest = memory.forget()
        if self.device.startswith("cuda"):
            import torch

            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.rest = torch.cuda.memory_allocated()


def main() -> None:
    """Serve until the input ends. What libraries print goes to the standard error."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        request = json.loads(line)
        method: Callable[..., dict[str, Any]] = getattr(worker, request.pop("do"))
        try:
            reply = method(**request)
        except MemoryError as error:
            reply = {"error": f"MemoryError: {error}"}
        except Exception as error:  # it is told to the one who asked, who goes on with other cases
            reply = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
