"""i-PI: a client for any server that speaks its protocol, and simulations that i-PI runs.

Source: V. Kapil et al., Comput. Phys. Commun. 236, 214 (2019), doi:10.1016/j.cpc.2018.09.020; its wire format is read
and written by ASE (`ase.calculators.socketio`).
"""

from tumble.bridges.ipi.client import Address, Answered, Ask, answer, connect
from tumble.bridges.ipi.output import Line, Output, cut
from tumble.bridges.ipi.server import Server
from tumble.bridges.ipi.writer import INPUT, RESUMED, go_on, triangular, write_input

__all__ = [
    "INPUT",
    "RESUMED",
    "Address",
    "Answered",
    "Ask",
    "Line",
    "Output",
    "Server",
    "answer",
    "connect",
    "cut",
    "go_on",
    "triangular",
    "write_input",
]
