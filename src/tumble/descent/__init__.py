"""Descent: structures walking downhill together, and whether they have arrived."""

from tumble.descent.rest import Rest, check_rest, rest_of
from tumble.descent.settings import Descent, Downhill
from tumble.descent.walk import Walk, descend

__all__ = ["Descent", "Downhill", "Rest", "Walk", "check_rest", "descend", "rest_of"]
