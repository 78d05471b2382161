"""Choice: how many fast steps to a slow one, from a short record of how the difference of the forces varies."""

from tumble.jobs.md.choice.recording import Cost, Record, alone, record
from tumble.jobs.md.choice.selection import Candidate, Choice, choose
from tumble.jobs.md.choice.spectrum import Spectrum

__all__ = ["Candidate", "Choice", "Cost", "Record", "Spectrum", "alone", "choose", "record"]
