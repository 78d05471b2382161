"""Phonons of crystals and vibrations of molecules, raw and repaired side by side."""

from tumble.jobs.phonons.job import phonons
from tumble.jobs.phonons.result import PhononsResult
from tumble.jobs.phonons.settings import PhononsSettings

__all__ = ["PhononsResult", "PhononsSettings", "phonons"]
