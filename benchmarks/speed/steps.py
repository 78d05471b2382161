"""Section: energy and forces per step, with new positions at every step, neighbour list included."""

import statistics
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import astuple
from typing import Any

import numpy as np

from speed import floor
from speed.engines import PEERS
from speed.numbers import Ratio, megabytes, milliseconds, table
from speed.plan import Plan, say
from speed.processes import Process, interleave, start
from speed.shapes import hypers
from speed.systems import structure

OURS = ("tumble", "tumble-eager")
REFERENCE = "metatomic"
EXACT = "tumble-float64"
PRODUCTS = "products"
AGREEMENT = 1e-3
"""Relative difference of forces beyond which engines do not run the same model in float32."""


def measure(plan: Plan, keep: Callable[[Any], None]) -> list[dict[str, Any]]:
    """Every model on every system; a case is a dictionary of numbers."""
    cases = []
    for system in plan.systems:
        for model in plan.models:
            say(f"{model} on {system}")
            cases.append(_case(plan, model, system, [name for name in plan.engines if name not in PEERS]))
            keep(cases)
    peers = [name for name in plan.engines if name in PEERS]
    for system in plan.systems if peers else ():
        say(f"{', '.join(peers)} on {system}")
        cases.append(_case(plan, "", system, ["tumble", *peers]))
        keep(cases)
    return cases


def _case(plan: Plan, model: str, system: str, engines: list[str]) -> dict[str, Any]:
    """One model on one system, all engines in turn. Without a model: the peers, next to our default model."""
    shape = model or plan.models[0]
    case: dict[str, Any] = {"model": shape, "system": system, "with_peers": not model, "skipped": {}}
    with ExitStack() as stack:
        processes: dict[str, Process] = {}
        warm: dict[str, float] = {}
        for name in engines:
            process = stack.enter_context(start(name, plan.threads, plan.peer_python))
            try:
                reply = process.ask("load", engine=name, stem=plan.stem(shape), system=system, device=plan.device)
            except RuntimeError as error:
                if name in (OURS[0], REFERENCE):
                    raise  # without these two there is nothing to compare
                reply = {"missing": str(error)}
            if "missing" in reply:
                say(f"{name} is left out: {reply['missing']}")
                case["skipped"][name] = reply["missing"]
                continue
            processes[name], warm[name] = process, min(reply["warm_up"])
        if model:
            case |= _start_products(plan, stack, shape, system, processes, warm)
        case["seconds"] = interleave(processes, plan.repeats, warm)
        case["bytes"] = {name: one.ask("peak")["bytes"] for name, one in processes.items() if name != PRODUCTS}
        if model:
            case["product_parts"] = processes[PRODUCTS].ask("parts")["parts"]
            del processes[PRODUCTS]
            exact = stack.enter_context(start(EXACT, plan.threads))
            exact.ask("load", engine=EXACT, stem=plan.stem(shape), system=system, device=plan.device, warm_up=0)
            case["force_error"] = _difference(processes, exact)
    return case


def _start_products(
    plan: Plan,
    stack: ExitStack,
    model: str,
    system: str,
    processes: dict[str, Process],
    warm: dict[str, float],
) -> dict[str, Any]:
    """The matrix products of the model as one more engine."""
    n_atoms, n_pairs, length = floor.sizes(structure(system), hypers(model))
    products = floor.needed(hypers(model), n_atoms, n_pairs, length)
    process = stack.enter_context(start(PRODUCTS, plan.threads))
    reply = process.ask("products", products=[astuple(one) for one in products], device=plan.device)
    processes[PRODUCTS], warm[PRODUCTS] = process, min(reply["warm_up"])
    linear = floor.flops([one for one in products if one.batch == 1])
    return {
        "n_atoms": n_atoms,
        "n_pairs": n_pairs,
        "flops": floor.flops(products),
        "fewest_flops": floor.flops(floor.needed(hypers(model), n_atoms, n_pairs, length, is_shared=True)),
        "linear_flops": linear,
    }


def _difference(processes: dict[str, Process], exact: Process) -> dict[str, float]:
    """Largest difference of each engine's forces from those in float64, over their largest component.

    Raises:
        RuntimeError: it is so large that another model was measured.
    """
    known = np.array(exact.ask("answer")["forces"])
    found = {}
    for name, process in processes.items():
        forces = np.array(process.ask("answer")["forces"])
        found[name] = float(np.abs(forces - known).max() / np.abs(known).max())
        if not found[name] < AGREEMENT:
            raise RuntimeError(
                f"the forces of {name} differ from those in float64 by {found[name]:.1e} of the largest; at most "
                f"{AGREEMENT:g} was expected of the same weights in float32. The times would compare different models."
            )
    return found


def floor_seconds(case: dict[str, Any]) -> list[float]:
    """Per round: all FLOPs at the rate at which the linear maps ran."""
    parts = case["product_parts"]
    share = parts["linear"] / (parts["linear"] + parts["batched"])
    factor = share * case["flops"] / case["linear_flops"]
    return [factor * seconds for seconds in case["seconds"][PRODUCTS]]


def report(cases: list[dict[str, Any]]) -> list[str]:
    """The tables of this section."""
    lines = [
        "## Energy and forces per step",
        "",
        f"Milliseconds, median of rounds. Fastest rounds: {REFERENCE} / {OURS[0]}, each in its best round. ΔF: largest "
        "error of a force component against float64, over the largest component.",
        "",
    ]
    return lines + _times(cases) + [""] + _floors(cases) + [""] + _memory(cases)


def _times(cases: list[dict[str, Any]]) -> list[str]:
    names = list(dict.fromkeys(name for case in cases for name in case["seconds"] if name != PRODUCTS))
    ours, rows = [name for name in OURS if name in names], []
    for case in cases:
        times = case["seconds"]
        row: list[Any] = [case["model"], case["system"]]
        row += [milliseconds(times[name]) if name in times else None for name in names]
        ratios = [
            Ratio.of(times[REFERENCE], times[name]) if name in times and REFERENCE in times else None for name in ours
        ]
        errors = case.get("force_error", {})
        has_both = REFERENCE in times and OURS[0] in times
        row += [*ratios, f"{min(times[REFERENCE]) / min(times[OURS[0]]):.2f}" if has_both else None]
        rows.append(row + [f"{errors[name]:.0e}" if name in errors else None for name in ("tumble", REFERENCE)])
    head = ["model", "system", *names, *(f"{REFERENCE} / {name}" for name in ours), "fastest rounds"]
    head += [f"ΔF, {name}" for name in ("tumble", REFERENCE)]
    return table(head, rows)


def _floors(cases: list[dict[str, Any]]) -> list[str]:
    names = [name for name in (*OURS, REFERENCE) if any(name in case["seconds"] for case in cases)]
    rows = []
    for case in cases:
        if case["with_peers"]:
            continue
        times, least, best = case["seconds"], floor_seconds(case), case["product_parts"]["best_flops"]
        strict = case["fewest_flops"] / best
        row: list[Any] = [case["model"], case["system"], case["n_pairs"]]
        row += [f"{case[name] / 1e9:.3g}" for name in ("flops", "fewest_flops")]
        row += [f"{rate / 1e9:.0f}" for rate in (case["flops"] / statistics.median(least), best)]
        row += [milliseconds(least), milliseconds(strict)]
        row += [Ratio.of(times[name], least) if name in times else None for name in names]
        rows.append([*row, f"{statistics.median(times[OURS[0]]) / strict:.2f}" if OURS[0] in times else None])
    head = ["model", "system", "pairs", "GFLOP", "fewest", "GFLOP/s", "best", "floor, ms", "strict floor, ms"]
    return [
        "Floor: FLOPs of all matrix products over the rate of the linear maps, each as one product of whole matrices. "
        "An engine that stays in the cache may be below it. Strict floor: the fewest FLOPs (both directions of a pair "
        "share the products after their norm) over the best rate of all shapes.",
        "",
        *table([*head, *(f"{name} / floor" for name in names), f"{OURS[0]} / strict floor"], rows),
    ]


def _memory(cases: list[dict[str, Any]]) -> list[str]:
    names = list(dict.fromkeys(name for case in cases for name in case["bytes"]))
    rows = []
    for case in cases:
        n_atoms = len(structure(case["system"]))
        found = case["bytes"]
        rows.append(
            [case["model"], case["system"]]
            + [megabytes(found[name] / n_atoms) if name in found else None for name in names]
        )
    return ["Peak memory beyond the warmed-up process, MB per atom.", "", *table(["model", "system", *names], rows)]
