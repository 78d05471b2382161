"""Train: labelled structures in, a potential and its learning curves out. One loop for every recipe."""

from tumble.jobs.train.extras import Anchor, DataSet, Live, LoRA, OrbitTerm, Target, Uncertainty
from tumble.jobs.train.job import train
from tumble.jobs.train.result import TrainResult
from tumble.jobs.train.settings import Phase, TrainSettings

__all__ = [
    "Anchor",
    "DataSet",
    "Live",
    "LoRA",
    "OrbitTerm",
    "Phase",
    "Target",
    "TrainResult",
    "TrainSettings",
    "Uncertainty",
    "train",
]
