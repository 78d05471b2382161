"""The i-PI protocol from the client's side, what is written for i-PI, and i-PI as a process."""

import os
import signal
import socket
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.socketio import IPIProtocol
from ase.units import fs

import tumble
from analytic import lopsided
from tumble.bridges import ipi
from tumble.bridges.ase import Calculator
from tumble.bridges.ipi import Address, Server, answer, connect, go_on, server, triangular, write_input
from tumble.cli import build, main
from tumble.models.pair import LennardJones
from tumble.potential import Gradient


def argon():
    return Gradient(LennardJones(0.0104, 3.4, cutoff=5.0, onset=4.0)).double()


def tilted():
    cell = np.array([[0.3, 5.1, 0.2], [4.9, 0.5, 1.7], [0.4, -0.8, 6.0]])
    return Atoms("ArNeAr", np.random.default_rng(0).random((3, 3)) @ cell, cell=cell, pbc=True)


def settings(**changes):
    values = {
        "ensemble": "nve", "temperature_K": 300.0, "thermostat": "svr", "thermostat_fs": 100.0, "pressure_GPa": 0.1,
        "barostat": "isotropic", "barostat_fs": 1000.0, "timestep_fs": 0.5, "seed": 1, "beads": 1, "log_fs": 2.0,
        "frame_fs": 4.0,
    }  # fmt: skip
    return SimpleNamespace(**values | changes)


@contextmanager
def listening():
    """A UNIX socket at a path that is short enough for one."""
    with tempfile.TemporaryDirectory(prefix="ipi-") as folder, socket.socket(socket.AF_UNIX) as there:
        path = Path(folder) / "socket"
        there.bind(str(path))
        there.listen(1)
        yield there, Address(unix=str(path))


def dialogue(ask, n_atoms, talk):
    """What `talk`, a server in a thread, returns when a client answers it; the client's own answer behind it."""
    found = []
    with listening() as (there, address):

        def run():
            with there.accept()[0] as connection:
                found.append(talk(IPIProtocol(connection)))

        thread = threading.Thread(target=run)
        thread.start()
        try:
            count = answer(connect(address), ask, n_atoms)
        finally:
            thread.join()
    return found[0], count


def zero(positions, cell):
    return 0.0, np.zeros_like(positions), np.zeros((3, 3))


@pytest.mark.parametrize("atoms", [molecule("H2O"), tilted()], ids=["molecule", "triclinic"])
def test_what_goes_through_a_socket_is_what_the_potential_answers(atoms):
    potential = lopsided(4.0)
    own = atoms.copy()
    own.calc = Calculator(potential)

    def talk(wire):
        cell = atoms.cell.array if atoms.pbc.all() else 9.0 * np.eye(3)
        answers = [wire.calculate(atoms.positions + shift, cell) for shift in (0.0, 0.1)]
        wire.end()
        return answers

    with listening() as (there, address):
        found = []

        def run():
            with there.accept()[0] as connection:
                found.extend(talk(IPIProtocol(connection)))

        thread = threading.Thread(target=run)
        thread.start()
        told = []
        n_answers = tumble.serve(potential, atoms, unix=address.unix, tell=told.append)
        thread.join()
    assert n_answers == told[1].done == told[-1].total == 2
    assert told[-1].message.endswith("said goodbye")
    for one in found:
        assert one["energy"] == pytest.approx(own.get_potential_energy(), abs=1e-6)
        np.testing.assert_allclose(one["forces"], own.get_forces(), atol=1e-6)
    if atoms.pbc.all():
        np.testing.assert_allclose(found[0]["virial"], -own.get_volume() * own.get_stress(voigt=False), atol=1e-6)
    else:
        assert not found[0]["virial"].any()


def test_a_client_answers_over_the_network_too():
    with socket.create_server(("localhost", 0)) as there:
        port, found = there.getsockname()[1], []

        def run():
            with there.accept()[0] as connection:
                wire = IPIProtocol(connection)
                wire.sendmsg("INIT")
                wire.send(0, np.int32)
                wire.send(1, np.int32)
                wire.send(np.zeros(1), np.byte)
                found.append(wire.calculate(np.ones((2, 3)), np.eye(3)))
                wire.end()

        thread = threading.Thread(target=run)
        thread.start()
        assert answer(connect(Address("localhost", port)), lambda x, cell: (x.sum(), x, cell), 2) == (1, True)
        thread.join()
    assert found[0]["energy"] == pytest.approx(6.0)
    np.testing.assert_allclose(found[0]["virial"], np.eye(3))


def test_a_server_that_is_not_there_is_named():
    with pytest.raises(RuntimeError, match=r"there is no UNIX socket .*nobody\. Start the server first"):
        connect(Address(unix="nobody"))
    with socket.create_server(("localhost", 0)) as there:
        port = there.getsockname()[1]
    with pytest.raises(RuntimeError, match=rf"nobody answers at localhost:{port}"):
        connect(Address("localhost", port))


def test_a_socket_whose_server_is_gone_is_to_be_deleted():
    with tempfile.TemporaryDirectory(prefix="ipi-") as folder:
        path = Path(folder) / "socket"
        with socket.socket(socket.AF_UNIX) as there:
            there.bind(str(path))
        with pytest.raises(RuntimeError, match=r"its server is gone\. Delete the file"):
            connect(Address(unix=str(path)))


def test_a_server_that_goes_between_two_questions_ends_the_client():
    _, ended = dialogue(zero, 2, lambda wire: wire.calculate(np.ones((2, 3)), np.eye(3)))
    assert ended == (1, False)


def test_a_server_that_goes_before_it_is_answered_is_told_of():
    def talk(wire):
        wire.calculate(np.ones((2, 3)), np.eye(3))
        wire.sendmsg("POSDATA")

    with pytest.raises(RuntimeError, match=r"the server is gone: it took 1 answers, and did not wait for the next"):
        dialogue(zero, 2, talk)


def test_the_command_serves_one_structure(tmp_path, capsys):
    ase.io.write(tmp_path / "one.xyz", molecule("H2O"), format="extxyz")
    ase.io.write(tmp_path / "two.xyz", [molecule("H2O")] * 2, format="extxyz")
    assert main(["serve", "water", str(tmp_path / "two.xyz"), "--unix", "nobody"]) == 2
    assert "two.xyz holds 2 structures; the one of the server was expected" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"holds 2 structures; the one of the server was expected"):
        build(["serve"])(["serve", "water", str(tmp_path / "two.xyz")])
    with socket.create_server(("localhost", 0)) as there:
        engine = threading.Thread(target=lambda: there.accept()[0].close())
        engine.start()
        words = ["serve", "water", str(tmp_path / "one.xyz"), "--port", str(there.getsockname()[1])]
        assert main(words) == 0
        engine.join()
    assert "gave 0 answers" in capsys.readouterr().out


def test_an_interrupt_lets_the_server_wait_for_another(tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    ase.io.write(tmp_path / "one.xyz", molecule("H2O"), format="extxyz")
    monkeypatch.setattr(tumble, "serve", interrupted, raising=False)
    assert main(["serve", "water", str(tmp_path / "one.xyz")]) == 130
    assert "the server waits for another client" in capsys.readouterr().err


def test_another_number_of_atoms_is_refused():
    with pytest.raises(ValueError, match=r"the server has 3 atoms, and the structure given here has 2"):
        dialogue(zero, 2, lambda wire: wire.sendposdata(np.eye(3), np.eye(3), np.ones((3, 3))))


def test_positions_that_are_not_numbers_are_refused():
    with pytest.raises(RuntimeError, match=r"positions or a cell that are not numbers"):
        dialogue(zero, 2, lambda wire: wire.sendposdata(np.eye(3), np.eye(3), np.full((2, 3), np.nan)))


@pytest.mark.parametrize("message", ["HELLO", "GETFORCE"])
def test_a_message_that_is_not_in_the_protocol_is_refused(message):
    with pytest.raises(ValueError, match=rf"the server sent '{message}', which the i-PI protocol does not have"):
        dialogue(zero, 2, lambda wire: wire.sendmsg(message))


def test_a_potential_without_stress_serves_constant_volume_only():
    from tumble.potential import Potential

    class Silent(Potential):
        cutoff, species, is_conservative = 0.0, None, True

        def forward(self, batch):
            return argon()(batch)._replace(stress=None)

    def ask(**options):
        with listening() as (there, address):

            def run():
                with there.accept()[0] as connection:
                    wire = IPIProtocol(connection)
                    wire.sendposdata(5.3 * np.eye(3), np.eye(3), np.zeros((1, 3)))
                    wire.end()

            thread = threading.Thread(target=run)
            thread.start()
            try:
                return tumble.serve(Silent(), bulk("Ar"), unix=address.unix, **options)
            finally:
                thread.join()

    with pytest.raises(ValueError, match=r"this Silent gives no stress, and servers want a virial"):
        ask()
    assert ask(virial=False) == 0


def test_a_cell_is_turned_to_a_triangle_and_lengths_are_kept():
    atoms = tilted()
    turn, cell = triangular(atoms)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-14)
    np.testing.assert_allclose(atoms.cell.array @ turn, cell, atol=1e-13)
    np.testing.assert_array_equal(cell[np.triu_indices(3, 1)], 0)
    _, room = triangular(molecule("H2O"))
    assert (room.diagonal() > 100).all()


@pytest.mark.parametrize(
    ("steps", "weights", "nmts"),
    [((8,), [[-1, 1], [1, 0]], "[1, 8]"), ((4, 5), [[0, -1, 1], [-1, 1, 0], [1, 0, 0]], "[1, 5, 4]")],
)
def test_each_level_pushes_with_its_difference_to_the_faster_one(tmp_path, steps, weights, nmts):
    names = [f"level{k}" for k in range(len(weights))]
    write_input(tmp_path, molecule("H2O"), settings(), names, steps, 7)
    tree = ElementTree.parse(tmp_path / "input.xml").getroot()
    assert [one.text.strip() for one in tree.iter("mts_weights")] == [str(row) for row in weights]
    assert [one.attrib["forcefield"] for one in tree.iter("force")] == names
    assert tree.find(".//nmts").text.strip() == nmts
    assert tree.find("total_steps").text == "7"
    outer = float(tree.find(".//timestep").text)
    assert outer == pytest.approx(0.5 * np.prod(steps) * fs)
    assert np.sum(weights, 1).tolist() == [0] * len(steps) + [1]  # in all, the slowest force


def test_baths_have_their_names_in_ipi(tmp_path):
    def of(**changes):
        write_input(tmp_path, tilted(), settings(**changes), ["forces"], (), 1)
        tree = ElementTree.parse(tmp_path / "input.xml").getroot()
        found = [tree.find(f".//dynamics/{name}") for name in ("thermostat", "barostat")]
        return [None if one is None else one.attrib["mode"] for one in found], tree.find(".//fixcom").text

    assert of() == ([None, None], "True")
    assert of(ensemble="nvt") == (["svr", None], "True")
    assert of(ensemble="nvt", beads=4) == (["pile_g", None], "True")
    assert of(ensemble="nvt", beads=4, thermostat="langevin") == (["pile_l", None], "False")
    assert of(ensemble="npt", thermostat="langevin") == (["langevin", "isotropic"], "False")
    assert of(ensemble="npt", barostat="anisotropic") == (["svr", "flexible"], "True")


def test_what_ipi_cannot_do_is_refused_before_it_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"1 levels of forces were given, with 1 numbers of steps"):
        write_input(tmp_path, tilted(), settings(), ["forces"], (4,), 1)
    with pytest.raises(ValueError, match=r"constant pressure was asked for, and H2O does not repeat"):
        write_input(tmp_path, molecule("H2O"), settings(ensemble="npt"), ["forces"], (), 1)
    with pytest.raises(ValueError, match=r"i-PI has no Nosé–Hoover chains"):
        write_input(tmp_path, tilted(), settings(ensemble="nvt", thermostat="nhc"), ["forces"], (), 1)
    assert not list(tmp_path.iterdir())


def test_there_must_be_something_to_go_on_from(tmp_path):
    with pytest.raises(ValueError, match=r"i-PI left nothing complete in .* to go on from"):
        go_on(tmp_path, 10)
    (tmp_path / "RESTART").write_text("<simulation><step>4</step>")  # cut off in the middle
    (tmp_path / "checkpoint").write_text("<simulation><step>3</step><total_steps>5</total_steps></simulation>")
    assert go_on(tmp_path, 10) == 3
    assert "<total_steps>10<" in (tmp_path / "resumed.xml").read_text()


def test_ipi_is_an_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ipi", None)
    with pytest.raises(ImportError, match=r"pip install 'tumble\[ipi\]'"):
        Server(tmp_path, "input.xml", {}, 1)


def test_its_command_may_be_missing(monkeypatch):
    pytest.importorskip("ipi")
    monkeypatch.setattr(server.shutil, "which", lambda *_, **__: None)
    with pytest.raises(RuntimeError, match=r"the package ipi is there, but not its command"):
        server._script()


def test_an_input_that_ipi_refuses_is_told_in_its_words(tmp_path):
    pytest.importorskip("ipi")
    (tmp_path / "input.xml").write_text("<simulation><nonsense/></simulation>")
    with pytest.raises(RuntimeError, match=r"i-PI ended before it began: .*nonsense"), \
            Server(tmp_path, "input.xml", {"forces": zero}, 1):  # fmt: skip
        pass


def test_a_server_that_opens_no_socket_is_not_waited_for(monkeypatch, tmp_path):
    pytest.importorskip("ipi")
    (tmp_path / "sleep.py").write_text("import time; time.sleep(60)")
    monkeypatch.setattr(server, "_script", lambda: str(tmp_path / "sleep.py"))
    monkeypatch.setattr(server, "PATIENCE_S", 0.2)
    one = Server(tmp_path, "input.xml", {"forces": zero}, 1)
    with pytest.raises(RuntimeError, match=r"i-PI opened no socket within 0\.2 s"):
        one.__enter__()
    assert one._process.returncode is not None


def test_a_server_that_closes_a_connection_and_stays_is_stopped(monkeypatch, tmp_path):
    pytest.importorskip("ipi")
    (tmp_path / "rude.py").write_text(
        "import socket, sys, time\n"
        "there = socket.socket(socket.AF_UNIX)\n"
        "there.bind(sys.argv[2] + 'forces')\n"
        "there.listen(1)\n"
        "there.accept()[0].close()\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setattr(server, "_script", lambda: str(tmp_path / "rude.py"))
    monkeypatch.setattr(server, "GRACE_S", 0.1)
    one = Server(tmp_path, "input.xml", {"forces": zero}, 1)
    with pytest.raises(RuntimeError, match=r"i-PI closed a connection without a goodbye, and did not end"):
        run(one)
    assert nothing_is_left(one)


def started(tmp_path, ask, n_steps=100_000):
    pytest.importorskip("ipi")
    write_input(tmp_path, molecule("H2O"), settings(), ["forces"], (), n_steps)
    return Server(tmp_path, ipi.INPUT, {"forces": ask}, 3)


def run(one, watch=lambda: False):
    with one:
        sockets = Path(one._process.args[one._process.args.index("-S") + 1])
        assert sockets.exists()
        SOCKETS[one] = sockets
        one.wait(watch)


SOCKETS = {}


def nothing_is_left(one):
    threads = any(thread.is_alive() for thread in one._threads)
    return one._process.poll() is not None and not threads and not SOCKETS.pop(one).exists()


def test_an_interrupt_leaves_a_restart_and_nothing_else(tmp_path):
    asked = []

    def ask(positions, cell):
        asked.append(positions)
        return zero(positions, cell)

    def watch():
        if len(asked) > 3:
            raise KeyboardInterrupt
        return False

    one = started(tmp_path, ask)
    with pytest.raises(KeyboardInterrupt):
        run(one, watch)
    assert nothing_is_left(one)
    assert go_on(tmp_path, 5) >= 1


def test_what_a_potential_raises_is_raised_here(tmp_path):
    def ask(positions, cell):
        raise ValueError("two atoms are at the same place")

    one = started(tmp_path, ask)
    with pytest.raises(ValueError, match=r"two atoms are at the same place"):
        run(one)
    assert nothing_is_left(one)


def test_ipi_that_is_killed_is_told_of(tmp_path):
    def ask(positions, cell):
        os.kill(one._process.pid, signal.SIGKILL)
        return zero(positions, cell)

    one = started(tmp_path, ask)
    with pytest.raises(RuntimeError, match=r"i-PI has failed \(exit code -9\)"):
        run(one)
    assert nothing_is_left(one)
