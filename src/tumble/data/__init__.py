"""Labelled structures: read them, say what they cover, split them, fit per-element energies, load them in batches."""

from tumble.data.dataset import Dataset, coverage, offsets, split
from tumble.data.files import Label, read
from tumble.data.loader import Loader

__all__ = ["Dataset", "Label", "Loader", "coverage", "offsets", "read", "split"]
