"""Train: labelled structures in, a potential and its learning curves out. One loop for every recipe."""

from tumble.jobs.train.job import train
from tumble.jobs.train.result import TrainResult
from tumble.jobs.train.settings import Anchor, OrbitTerm, Phase, Target, TrainSettings

__all__ = ["Anchor", "OrbitTerm", "Phase", "Target", "TrainResult", "TrainSettings", "train"]
