"""Two ways to let i-PI or any other server with its protocol take the steps; no process is left behind."""

from threading import Thread

import numpy as np
from ase.build import molecule
from ase.calculators.socketio import SocketIOCalculator

import tumble

water, atoms = tumble.load("water", dtype="float64"), molecule("H2O")

# A server of someone else, here ASE's, asks; a client in a thread answers.
with SocketIOCalculator(port=0) as server:
    port = server.server.serversocket.getsockname()[1]
    client = Thread(target=tumble.serve, args=(water, atoms), kwargs={"port": port})
    client.start()
    asked = atoms.copy()
    asked.calc = server
    energy, forces = asked.get_potential_energy(), asked.get_forces()
client.join()
[own] = tumble.predict(water, atoms)
print(f"through the socket: {energy:.6f} eV, directly: {float(own.energy):.6f} eV")
print(f"forces differ by at most {np.abs(forces - own.forces.numpy()).max():.1e} eV/Å")

# i-PI, started and stopped from here: the averaged potential every fourth step, the raw one between.
settings = tumble.MDSettings(
    engine="i-pi", ensemble="nve", average="O", mts="4", time_ps=0.02, log_fs=2.0, control="no"
)
result = tumble.md(water, atoms, settings)
conserved = result.arrays["conserved_eV"]
print(
    f"i-PI took {int(result.arrays['step'][-1])} steps; the conserved quantity kept within {np.ptp(conserved):.1e} eV"
)
