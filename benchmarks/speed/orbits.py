"""Section: what an orbit costs, in time and memory, against the symmetrized calculator of metatomic-ase."""

import statistics
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from speed.numbers import Ratio, megabytes, milliseconds, table
from speed.plan import Plan, say
from speed.processes import Process, interleave, start

MODEL, SYSTEM = "XS", "water192"
NODES = {"O": 24, "Oh": 48, "3": 42, "3i": 84}
"""Rotations of each rule: ours of degree 3, and theirs for l_max = 3, without and with inversion."""

COPIES = (1, 4, 24)
"""Structures in one batch, to find what a raw call costs inside one at best."""

MEMORY_RULES = {"none": 1, "O": 24, "I": 60, "Ih": 120}


def measure(plan: Plan, keep: Callable[[Any], None]) -> dict[str, Any]:
    """Times, asked for energy then forces, and peak memory for more and more rotations."""
    result: dict[str, Any] = {"model": MODEL, "system": SYSTEM, "nodes": NODES}
    stem = plan.stem(MODEL)
    with ExitStack() as stack:
        processes, warm = {}, {}

        def add(name: str, process: Process, warm_up: list[float]) -> None:
            processes[name], warm[name] = stack.enter_context(process), min(warm_up)

        for name, engine, rule in (
            ("tumble O", "tumble", "O"),
            ("tumble Oh", "tumble", "Oh"),
            ("metatomic 3", "metatomic", "3"),
            ("metatomic 3i", "metatomic", "3i"),
        ):
            say(f"loading {name}")
            process = start(engine, plan.threads)
            reply = process.ask("load", **_request(plan, engine, stem, rule))
            if "missing" in reply:
                say(f"{name} is left out: {reply['missing']}")
                process.__exit__(None, None, None)
                continue
            add(name, process, reply["warm_up"])
        for copies in COPIES:
            process = start("tumble", plan.threads)
            reply = process.ask("pack", stem=stem, system=SYSTEM, copies=copies, device=plan.device)
            add(f"raw, {copies} in a batch", process, reply["warm_up"])
        say("orbits in turn")
        result["seconds"] = interleave(processes, plan.repeats, warm)
        result["bytes"] = {name: one.ask("peak")["bytes"] for name, one in processes.items()}
    result["orbit_bytes"] = {rule: _memory(plan, stem, rule) for rule in MEMORY_RULES}
    return result


def _request(plan: Plan, engine: str, stem: str, rule: str) -> dict[str, Any]:
    case = {"engine": engine, "stem": stem, "system": SYSTEM, "device": plan.device, "rule": rule}
    return case | {"order": ("energy", "forces"), "warm_up": 1}


def _memory(plan: Plan, stem: str, rule: str) -> float:
    say(f"memory of {MEMORY_RULES[rule]} rotations")
    with start("tumble", plan.threads) as process:
        process.ask("load", **_request(plan, "tumble", stem, rule))
        process.ask("steps", n=1)
        return float(process.ask("peak")["bytes"])


def raw_seconds(result: dict[str, Any]) -> list[float]:
    """Per round, one raw call inside the batch in which it costs least."""
    raw = {name: times for name, times in result["seconds"].items() if name.startswith("raw")}
    return min(raw.values(), key=statistics.median)


def report(result: dict[str, Any]) -> list[str]:
    """The tables of this section."""
    times, raw = result["seconds"], raw_seconds(result)
    reference = times.get("metatomic 3i")
    rows = []
    for name, seconds in times.items():
        row: list[Any] = [name, None, milliseconds(seconds), megabytes(result["bytes"][name]), None, None]
        if not name.startswith("raw"):
            row[1] = result["nodes"][name.split()[1]]
            row[4] = Ratio.of(seconds, [row[1] * one for one in raw])
            row[5] = Ratio.of(reference, seconds) if reference else None
        rows.append(row)
    head = ["rule", "nodes", "ms", "MB", "/ (nodes × raw in a batch)", "metatomic 3i / this"]
    growth = [[MEMORY_RULES[rule], megabytes(size)] for rule, size in result["orbit_bytes"].items()]
    return [
        f"## Orbits: {result['model']}, {result['system']}, energy then forces",
        "",
        "`O` and `Oh` are exact to degree 3; `Oh` and `3i` remove the parity-odd part too. `raw` is one call of the "
        "potential on copies of the box, per copy, without neighbour search.",
        "",
        *table(head, rows),
        "",
        "Peak memory of an orbit by the number of its rotations.",
        "",
        *table(["rotations", "MB"], growth),
    ]
