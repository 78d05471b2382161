"""Section: how time and memory grow with the number of atoms, on boxes of water."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from speed import memory
from speed.numbers import Ratio, megabytes, milliseconds, table
from speed.plan import Plan, say
from speed.processes import interleave, start
from speed.steps import REFERENCE

SIDES = (3, 4, 6, 8, 12, 14, 19, 32)
"""Molecules along an edge: 81 to 98,304 atoms."""

MOST_MEMORY = 0.7
"""Fraction of what the machine has left, above which a size is not tried."""

LONGEST_STEP = 120.0
"""Seconds of a step, above which the next size is not tried."""


def measure(plan: Plan, keep: Callable[[Any], None]) -> list[dict[str, Any]]:
    """The first of the models, in growing boxes, until the machine is full."""
    model, cases = plan.models[0], []
    names = [name for name in ("tumble", REFERENCE) if name in plan.engines]
    reached: dict[str, tuple[int, float, float]] = {}
    for side in SIDES:
        n_atoms = 3 * side**3
        names = [name for name in names if n_atoms <= plan.largest and _fits(plan, name, n_atoms, reached.get(name))]
        if not names:
            break
        say(f"{model} on {n_atoms} atoms: {', '.join(names)}")
        case = _case(plan, model, n_atoms, names)
        names = [name for name in names if name in case["seconds"]]
        reached = {name: (n_atoms, case["bytes"][name], case["seconds"][name][0]) for name in names}
        cases.append(case)
        keep(cases)
    return cases


def _fits(plan: Plan, name: str, n_atoms: int, before: tuple[int, float, float] | None) -> bool:
    """Whether a size is worth trying, judged by the one before."""
    if before is None:
        return True
    factor = n_atoms / before[0]
    is_large = plan.device == "cpu" and factor * before[1] > MOST_MEMORY * memory.available()
    if is_large or factor * before[2] > LONGEST_STEP:
        say(
            f"{name} stops before {n_atoms} atoms: {factor * before[1] / 1e9:.1f} GB, {factor * before[2]:.0f} s a step"
        )
        return False
    return True


def _case(plan: Plan, model: str, n_atoms: int, names: list[str]) -> dict[str, Any]:
    case: dict[str, Any] = {"model": model, "n_atoms": n_atoms, "seconds": {}, "bytes": {}, "failed": {}}
    with ExitStack() as stack:
        processes, warm = {}, {}
        for name in names:
            process = stack.enter_context(start(name, plan.threads))
            try:
                reply = process.ask(
                    "load", engine=name, stem=plan.stem(model), system=f"water{n_atoms}", device=plan.device, warm_up=1
                )
            except RuntimeError as error:
                reply = {"missing": str(error)}
            if "missing" in reply:
                say(f"{name} is left out: {reply['missing']}")
                case["failed"][name] = reply["missing"]
                continue
            processes[name], warm[name] = process, min(reply["warm_up"])
        rounds = min(plan.repeats, 3) if n_atoms > 2000 else plan.repeats
        case["seconds"] = interleave(processes, rounds, warm)
        case["bytes"] = {name: one.ask("peak")["bytes"] for name, one in processes.items()}
    return case


def report(cases: list[dict[str, Any]]) -> list[str]:
    """The table of this section."""
    names = list(dict.fromkeys(name for case in cases for name in case["seconds"]))
    rows = []
    for case in cases:
        times, sizes, n = case["seconds"], case["bytes"], case["n_atoms"]
        row: list[Any] = [n]
        for name in names:
            known = name in times
            row += [milliseconds(times[name]) if known else None, megabytes(sizes[name] / n) if known else None]
        is_comparable = REFERENCE in times and "tumble" in times
        rows.append([*row, Ratio.of(times[REFERENCE], times["tumble"]) if is_comparable else None])
    head = ["atoms", *(f"{name}, {unit}" for name in names for unit in ("ms", "MB/atom")), f"{REFERENCE} / tumble"]
    title = f"## Growth with the number of atoms: {cases[0]['model']}, water" if cases else "## Growth"
    return [title, "", *table(head, rows)]
