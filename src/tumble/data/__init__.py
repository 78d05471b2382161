"""Labelled structures: read them, say what they cover, split them, fit per-element energies, load them in batches."""

from tumble.data.dataset import Dataset, coverage, offsets, split
from tumble.data.files import Label, expand, frames, read
from tumble.data.loader import Loader

__all__ = ["Dataset", "Label", "Loader", "coverage", "expand", "frames", "offsets", "read", "split"]
