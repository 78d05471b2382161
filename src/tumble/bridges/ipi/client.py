"""The client: it waits for positions, and answers with energy, forces and virial until the server says goodbye."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase.calculators.socketio import IPIProtocol, SocketClosed, actualunixsocketname
from numpy.typing import NDArray

Floats = NDArray[np.float64]

Ask = Callable[[Floats, Floats], tuple[float, Floats, Floats]]
"""Positions (N, 3) Å and cell (3, 3) Å to energy eV, forces (N, 3) eV/Å and virial -V σ (3, 3) eV."""

PORT = 31415
"""What i-PI listens to unless told otherwise."""


class Address(NamedTuple):
    """Where a server listens: a host and a port, or a UNIX socket.

    host: name or number of a machine.
    port: of it.
    unix: name of a UNIX socket, as the server's input has it, or its whole path; None: host and port count.
    """

    host: str = "localhost"
    port: int = PORT
    unix: str | None = None

    @property
    def path(self) -> Path:
        """The file of a UNIX socket; a name alone stands for where i-PI and ASE put it."""
        assert self.unix is not None, "a host has no file"
        return Path(self.unix if "/" in self.unix else actualunixsocketname(self.unix))

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if self.unix is None else f"UNIX socket {self.path}"


def connect(address: Address) -> socket.socket:
    """A connection to a server.

    Raises:
        RuntimeError: nobody listens there: there is no such socket, or the server that made it is gone.
    """
    if address.unix is None:
        try:
            return socket.create_connection((address.host, address.port))
        except OSError as error:
            raise RuntimeError(
                f"nobody answers at {address} ({error}). Start the server first, i-pi input.xml with an ffsocket of "
                "this address and port, or correct --address and --port."
            ) from None
    if not address.path.exists():
        raise RuntimeError(
            f"there is no {address}. Start the server first, i-pi input.xml with an ffsocket of mode unix and this "
            "address, or correct --unix."
        )
    client = socket.socket(socket.AF_UNIX)
    try:
        client.connect(str(address.path))
    except OSError as error:
        client.close()
        raise RuntimeError(
            f"the {address} is there, but nobody answers ({error}): its server is gone. Delete the file, and start the "
            "server again."
        ) from None
    return client


class Answered(NamedTuple):
    """How a conversation with a server ended.

    n:         answers that were given.
    farewell:  whether the server said goodbye; i-PI does, ASE closes the connection without a word.
    """

    n: int
    farewell: bool


def answer(client: socket.socket, ask: Ask, n_atoms: int, *, tell: Callable[[int], None] = lambda n: None) -> Answered:
    """Answer a server until it says goodbye, or goes; the connection is closed whatever happens.

    Args:
        client: connected, see `connect`.
        ask: what is to be answered.
        n_atoms: how many atoms the structure has that `ask` knows.
        tell: called after every answer, with their number.

    Raises:
        ValueError: the server has another number of atoms, or sends a message that the protocol does not have.
        RuntimeError: the server is gone before it took an answer, or sends positions that are not numbers.
    """
    n, state, is_asked = 0, None, False
    with client:
        wire = IPIProtocol(client)
        try:
            while (message := wire.recvmsg()) != "EXIT":
                if message == "STATUS":
                    wire.sendmsg("READY" if state is None else "HAVEDATA")
                elif message == "INIT":
                    wire.recvinit()
                elif message == "POSDATA":
                    is_asked = True
                    state = ask(*_received(wire, n_atoms))
                elif message == "GETFORCE" and state is not None:
                    wire.sendforce(*state)
                    state, is_asked, n = None, False, n + 1
                    tell(n)
                else:
                    raise ValueError(
                        f"the server sent {message!r}, which the i-PI protocol does not have there. Check that what "
                        "listens at this address is such a server."
                    )
        except (SocketClosed, ConnectionError):
            if not is_asked:
                return Answered(n, farewell=False)
            raise RuntimeError(
                f"the server is gone: it took {n} answers, and did not wait for the next. What it says itself tells "
                "why."
            ) from None
    return Answered(n, farewell=True)


def _received(wire: IPIProtocol, n_atoms: int) -> tuple[Floats, Floats]:
    """Positions (N, 3) Å and cell (3, 3) Å."""
    try:
        cell, _, positions = wire.recvposdata()
    except AssertionError:
        raise RuntimeError(
            "the server sent positions or a cell that are not numbers: the simulation has blown up. Shorten its time "
            "step."
        ) from None
    if len(positions) != n_atoms:
        raise ValueError(
            f"the server has {len(positions)} atoms, and the structure given here has {n_atoms}. Give the structure "
            "that the server was started with, its atoms in the same order."
        )
    return positions, cell
