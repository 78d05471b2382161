"""The server: i-PI as a process beside this one, with clients that answer it, and nothing left behind."""

import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self, final

from tumble.bridges.ipi.client import Address, Ask, answer, connect
from tumble.extras import required

PATIENCE_S: Final = 30.0
"""s in which i-PI has to open its sockets, and to write its restart when it is stopped."""

GRACE_S: Final = 3.0
"""s in which i-PI ends after it has closed a socket."""

POLL_S: Final = 0.05
LOG: Final = "log.i-pi"


@final
class Server:
    """i-PI running an input, with one client for each of its sockets; a context that leaves no process and no file."""

    def __init__(self, folder: Path, file: str, asks: Mapping[str, Ask], n_atoms: int) -> None:
        """Nothing is started yet.

        Args:
            folder: where i-PI runs.
            file: its input, in the folder.
            asks: what answers at each address.
            n_atoms: of the structure.

        Raises:
            ImportError: i-PI is not installed.
        """
        required("ipi", who="the engine i-pi needs", extra="ipi")
        self._folder, self._file, self._asks, self._n_atoms = folder, file, dict(asks), n_atoms
        self._stack = ExitStack()
        self._threads: list[threading.Thread] = []
        self._failures: list[BaseException] = []
        self._turn = threading.Lock()  # clients share weights, and one core is as fast as two that wait

    def __enter__(self) -> Self:
        # Sockets in a folder of their own: no other run has them, and the folder goes with the run.
        sockets = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="tumble-ipi-")))
        try:
            self._start(sockets)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def wait(self, watch: Callable[[], bool] = lambda: False) -> bool:
        """Until i-PI has ended by itself, or is to stop; whether it has ended by itself.

        Args:
            watch: called several times a second; True: stop in good order, with a restart.

        Raises:
            RuntimeError: i-PI has failed; the end of what it said is in the message.
            Exception: what a potential raised while it was asked.
        """
        while self._process.poll() is None:
            if self._failures:
                self._stop()
                break
            if watch():
                self._stop()
                return False
            time.sleep(POLL_S)
        if self._failures:
            raise self._failures[0]
        if self._process.returncode:
            raise RuntimeError(f"i-PI has failed (exit code {self._process.returncode}): {self._said()}")
        return True

    def _start(self, sockets: Path) -> None:
        log = self._stack.enter_context((self._folder / LOG).open("ab"))
        command = [sys.executable, _script(), "-S", f"{sockets}/", self._file]
        self._process = subprocess.Popen(
            command, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        self._stack.callback(self._join)
        self._stack.callback(self._stop)
        deadline = time.monotonic() + PATIENCE_S
        for name, ask in self._asks.items():
            where = Address(unix=str(sockets / name))
            while not where.path.exists():
                if self._process.poll() is not None:
                    raise RuntimeError(f"i-PI ended before it began: {self._said()}")
                if time.monotonic() > deadline:
                    raise RuntimeError(f"i-PI opened no socket within {PATIENCE_S:g} s: {self._said()}")
                time.sleep(POLL_S)
            thread = threading.Thread(target=self._serve, args=(where, ask), name=f"i-PI {name}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def _serve(self, where: Address, ask: Ask) -> None:
        def one_at_a_time(positions, cell):  # type: ignore[no-untyped-def]  # as Ask
            with self._turn:
                return ask(positions, cell)

        try:
            if not answer(connect(where), one_at_a_time, self._n_atoms).farewell:
                raise RuntimeError(
                    f"i-PI closed a connection without a goodbye, and did not end. Its log is {self._folder / LOG}."
                )
        except RuntimeError as error:
            try:  # where i-PI itself has failed, that is told
                self._process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                self._failures.append(error)
        except Exception as error:  # whatever a potential may raise is told where the run is waited for
            self._failures.append(error)

    def _stop(self) -> None:
        """End i-PI: it is asked to write its restart, and made to go if it does not."""
        for end in (self._process.terminate, self._process.kill):
            if self._process.poll() is not None:
                return
            with suppress(ProcessLookupError):
                end()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(PATIENCE_S)

    def _join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def _said(self) -> str:
        rows = (self._folder / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"{' | '.join(one.strip() for one in rows[-4:])} (all of it is in {self._folder / LOG})"


def _script() -> str:
    """The script `i-pi`, of this environment first.

    Raises:
        RuntimeError: there is none.
    """
    found = shutil.which("i-pi", path=sysconfig.get_path("scripts")) or shutil.which("i-pi")
    if found is None:
        raise RuntimeError(
            "the package ipi is there, but not its command i-pi. Install it again: pip install --force-reinstall ipi"
        )
    return found
