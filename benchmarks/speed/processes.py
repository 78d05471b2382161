"""Engines in processes of their own, asked in turn, so that what disturbs one disturbs the others alike."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, final

from speed.engines import PEERS

HERE = Path(__file__).resolve().parents[1]
ROUND_SECONDS = 0.3
"""How long an engine steps before it is the turn of the next one; at least one step."""


@final
class Process:
    """A worker, and what it answers."""

    def __init__(self, python: str, threads: int) -> None:
        """Args:
        python: the interpreter in which the engine is installed.
        threads: of every library.
        """
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed with the process)
        self._process = subprocess.Popen(
            [python, "-W", "ignore", "-m", "speed.worker"],
            cwd=HERE,
            env=os.environ | dict.fromkeys(names, str(threads)),  # carries the choice of the clock, too
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """The reply to a request.

        Raises:
            RuntimeError: the engine failed, or its process ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do} | request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        reply: dict[str, Any] = json.loads(line) if line else {"error": f"the process ended: {self._last_words()}"}
        if "error" in reply:
            shown = {name: value for name, value in request.items() if name not in ("products", "recipe")}
            raise RuntimeError(f"{do} {shown} failed: {reply['error']}")
        return reply

    def _last_words(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().strip().splitlines()
        return f"exit code {code}, {lines[-1] if lines else 'without a word (out of memory?)'}"

    def __enter__(self) -> "Process":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                stream.close()


def start(engine: str, threads: int, peer_python: str | None = None) -> Process:
    """A process for an engine: in the peers' Python if it is a peer and there is one."""
    return Process(peer_python if peer_python and engine in PEERS else sys.executable, threads)


def interleave(processes: dict[str, Process], rounds: int, warm: dict[str, float]) -> dict[str, list[float]]:
    """Median seconds per step of every engine in every round: A B C, A B C, …

    Args:
        processes: loaded ones.
        rounds: how often each has its turn.
        warm: seconds of a step, as known from warming up; decides how many steps make a turn.
    """
    steps = {name: max(1, min(20, int(ROUND_SECONDS / max(warm[name], 1e-4)))) for name in processes}
    times: dict[str, list[float]] = {name: [] for name in processes}
    for _ in range(rounds):
        for name, process in processes.items():
            times[name].append(statistics.median(process.ask("steps", n=steps[name])["seconds"]))
    return times
