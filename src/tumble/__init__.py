"""Train, audit, repair and run unconstrained interatomic potentials.

A Model learns. A Potential answers. An Orbit asks the same question in every orientation.

    import tumble
    potential = tumble.load("water")
    symmetric = tumble.symmetrize(potential, "Oh")
    card = tumble.audit(potential, structures)
    tumble.report(card, to="card.html")

Importing this package imports nothing else and changes nothing; a name is fetched when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tumble.batch import Batch, Properties
    from tumble.bridges.ase import Calculator, Foreign
    from tumble.checkpoint import load, save
    from tumble.jobs.audit import AuditResult, AuditSettings, audit
    from tumble.jobs.conductivity import ConductivityResult, ConductivitySettings, conductivity
    from tumble.jobs.elastic import ElasticResult, ElasticSettings, elastic
    from tumble.jobs.export import export
    from tumble.jobs.md import MDResult, MDSettings, md
    from tumble.jobs.observe import ObserveResult, ObserveSettings, observe
    from tumble.jobs.phonons import PhononsResult, PhononsSettings, phonons
    from tumble.jobs.relax import RelaxResult, RelaxSettings, relax
    from tumble.jobs.screen import ScreenResult, ScreenSettings, screen
    from tumble.jobs.serve import serve
    from tumble.jobs.train import TrainResult, TrainSettings, train
    from tumble.orbit import Orbit
    from tumble.packs import predict
    from tumble.page import report
    from tumble.potential import Direct, Gradient, Model, Potential, Sum
    from tumble.results import Result, Settings, load_result
    from tumble.rotations import Rotations
    from tumble.symmetry import Projected, Symmetrized, symmetrize

__version__ = "0.1.0"

__all__ = [
    # nouns
    "Batch",
    "Properties",
    "Model",
    "Potential",
    "Gradient",
    "Direct",
    "Sum",
    "Symmetrized",
    "Projected",
    "Foreign",
    "Calculator",
    "Rotations",
    "Orbit",
    "Settings",
    "Result",
    "TrainSettings",
    "TrainResult",
    "AuditSettings",
    "AuditResult",
    "RelaxSettings",
    "RelaxResult",
    "ElasticSettings",
    "ElasticResult",
    "PhononsSettings",
    "PhononsResult",
    "ConductivitySettings",
    "ConductivityResult",
    "MDSettings",
    "MDResult",
    "ObserveSettings",
    "ObserveResult",
    "ScreenSettings",
    "ScreenResult",
    # verbs
    "load",
    "save",
    "predict",
    "symmetrize",
    "train",
    "audit",
    "relax",
    "elastic",
    "phonons",
    "conductivity",
    "md",
    "observe",
    "screen",
    "export",
    "serve",
    "report",
    "load_result",
    "__version__",
]

_HOMES = {
    "batch": ("Batch", "Properties"),
    "bridges.ase": ("Calculator", "Foreign"),
    "checkpoint": ("load", "save"),
    "jobs.audit": ("AuditResult", "AuditSettings", "audit"),
    "jobs.conductivity": ("ConductivityResult", "ConductivitySettings", "conductivity"),
    "jobs.elastic": ("ElasticResult", "ElasticSettings", "elastic"),
    "jobs.export": ("export",),
    "jobs.md": ("MDResult", "MDSettings", "md"),
    "jobs.observe": ("ObserveResult", "ObserveSettings", "observe"),
    "jobs.phonons": ("PhononsResult", "PhononsSettings", "phonons"),
    "jobs.relax": ("RelaxResult", "RelaxSettings", "relax"),
    "jobs.screen": ("ScreenResult", "ScreenSettings", "screen"),
    "jobs.serve": ("serve",),
    "jobs.train": ("TrainResult", "TrainSettings", "train"),
    "orbit": ("Orbit",),
    "packs": ("predict",),
    "page": ("report",),
    "potential": ("Direct", "Gradient", "Model", "Potential", "Sum"),
    "results": ("Result", "Settings", "load_result"),
    "rotations": ("Rotations",),
    "symmetry": ("Projected", "Symmetrized", "symmetrize"),
}
_HOME = {name: f"{__name__}.{module}" for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Fetch a public name from its module at its first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'tumble' has no attribute {name!r}; it offers {', '.join(sorted(_HOME))}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names, for completion."""
    return sorted(__all__)
