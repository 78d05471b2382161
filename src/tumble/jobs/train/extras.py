"""Settings within the recipe of a training: targets, sets of data, and what goes beyond labels."""

from typing import Literal

from pydantic import Field

from tumble.results import Settings


class Target(Settings):
    """How much one kind of label counts in the loss."""

    weight: float = Field(1.0, ge=0, description="factor of this target in the loss; 0 leaves it out")
    loss: Literal["huber", "mse", "mae"] = Field(
        "huber", description="huber: x²/2δ for small, |x| - δ/2 for large errors; mse: x²; mae: |x|"
    )
    delta: float = Field(0.05, gt=0, description="where huber turns from square to straight, in the unit of the target")


class OrbitTerm(Settings):
    """A loss that needs no label: the variance of the answers about turned copies of one structure, turned back."""

    weight: float = Field(0.0, ge=0, description="factor of the variance in the loss; 0 leaves it out")
    turns: int = Field(2, ge=2, description="turned copies of every structure in a step, which costs as much more")
    nodes: Literal["random", "opposite", "tetrahedral"] = Field(
        "random", description="turns that are independent, in pairs Q and -Q, or out of one randomly turned group T"
    )
    energy: Target = Field(Target(weight=300.0, loss="mse"), description="energy per atom, eV")
    force: Target = Field(Target(weight=10.0, loss="mse"), description="force components, eV/Å")
    stress: Target = Field(Target(weight=0.0, loss="mse"), description="stress components, eV/Å³")

    @property
    def copies(self) -> int:
        """Copies of every structure in a step."""
        return self.turns if self.weight else 1


class Anchor(Settings):
    """A loss that holds a potential where it was: at the mean, over a rule, of what its starting weights answer."""

    weight: float = Field(0.0, ge=0, description="factor of this loss; 0 leaves it out")
    rule: str = Field("T", description="rotations of the mean, which is asked once for each structure")


class DataSet(Settings):
    """One set of a mixture: structures at one level of theory."""

    name: str = Field(description="its name in curves and files")
    data: tuple[str, ...] = Field(min_length=1, description="files with labelled structures, or a store; globs allowed")
    valid: tuple[str, ...] = Field((), description="files to validate on; none: a fraction of the data")
    weight: float = Field(1.0, gt=0, description="how often its structures are seen in an epoch")
    head: str = Field("", description="head that learns it: one for each level of theory; sets may share one")
    labels: Literal["own", "start"] = Field(
        "own", description="what is learned: the labels in the files, or what the start says about the structures"
    )
    energy_key: str | None = Field(None, description="name of the energy label, where it is not that of the recipe")
    forces_key: str | None = Field(None, description="name of the force label, where it is not that of the recipe")
    stress_key: str | None = Field(None, description="name of the stress label, where it is not that of the recipe")


class LoRA(Settings):
    """Low-rank changes of frozen matrices: W + (alpha / rank) B A, with B = 0 at the start.

    Source: Hu et al., LoRA, arXiv:2106.09685.
    """

    rank: int = Field(0, ge=0, description="rank of the changes; 0 for none")
    alpha: float = Field(8.0, gt=0, description="their size: the change is multiplied by alpha / rank")


class Live(Settings):
    """What is followed while a training runs, besides errors and rotational spread."""

    curl: bool = Field(True, description="λ of the direct forces on the probe: how far they are from any energy")
    raw: bool = Field(True, description="errors of the raw weights beside those of the averaged ones")
    tensorboard: bool = Field(False, description="write the numbers for TensorBoard into the folder")
    wandb: str | None = Field(None, description="project of Weights & Biases that is told the numbers")


class Uncertainty(Settings):
    """The uncertainty that is fitted to a finished training."""

    kind: Literal["none", "llpr", "ensemble"] = Field(
        "none", description="llpr: from the last features; ensemble: last layers drawn from it and trained on"
    )
    members: int = Field(0, ge=0, description="last layers of the ensemble, for uncertainties of forces; 0 for none")
    epochs: int = Field(20, gt=0, description="ensemble: passes over the training set for its last layers")
