"""Settings, facts and results: what was chosen for a job, what the job found, and the folder that keeps both."""

from tumble.results.facts import Cell, Curve, Fact, Heat, Map, Series, Sketch, Table, Verdict, number
from tumble.results.folder import Result, Saved, load_result
from tumble.results.progress import Progress
from tumble.results.settings import Setting, Settings
from tumble.results.trust import Structure, Trust, load_trust, parse_require, trust_schema, unmet

__all__ = [
    "Cell",
    "Curve",
    "Fact",
    "Heat",
    "Map",
    "Progress",
    "Result",
    "Saved",
    "Series",
    "Setting",
    "Settings",
    "Sketch",
    "Structure",
    "Table",
    "Trust",
    "Verdict",
    "load_result",
    "load_trust",
    "number",
    "parse_require",
    "trust_schema",
    "unmet",
]
