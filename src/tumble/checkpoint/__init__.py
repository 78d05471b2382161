"""Potentials as files: written, read, described, and found by name. No pickle of ours, and none of others executed."""

from tumble.checkpoint.card import convert, describe
from tumble.checkpoint.files import load, read_header, save
from tumble.checkpoint.names import packaged, resolve

__all__ = ["convert", "describe", "load", "packaged", "read_header", "resolve", "save"]
