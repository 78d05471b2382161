"""Labelled structures: read, convert, cover, compare and split them, fit per-element energies, load them in batches."""

from tumble.data.consistency import check_units
from tumble.data.convert import Converted, StoreSettings, convert
from tumble.data.coverage import coverage
from tumble.data.dataset import Dataset, joined, offsets
from tumble.data.files import expand, frames, read
from tumble.data.labels import Label
from tumble.data.leaks import duplicates, leaks
from tumble.data.loader import Loader, Part, Step
from tumble.data.mixture import Mixture
from tumble.data.split import split
from tumble.data.store import Store, is_store

__all__ = [
    "Converted",
    "Dataset",
    "Label",
    "Loader",
    "Mixture",
    "Part",
    "Step",
    "Store",
    "StoreSettings",
    "check_units",
    "convert",
    "coverage",
    "duplicates",
    "expand",
    "frames",
    "is_store",
    "joined",
    "leaks",
    "offsets",
    "read",
    "split",
]
