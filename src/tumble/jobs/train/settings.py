"""What may be chosen for a training: data, model, and the phases of its recipe."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tumble.models.pet import PETSettings
from tumble.results import Settings


class Target(Settings):
    """How much one kind of label counts in the loss."""

    weight: float = Field(1.0, ge=0, description="factor of this target in the loss; 0 leaves it out")
    loss: Literal["huber", "mse"] = Field("huber", description="huber: x²/2δ for small, |x| - δ/2 for large errors")
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


class Phase(Settings):
    """One stretch of a recipe: what is learned, for how long, and how fast."""

    forces: Literal["gradient", "direct", "both"] = Field(
        "gradient", description="forces and stress by differentiation, from direct heads, or both at once"
    )
    epochs: int = Field(100, gt=0, description="passes over the training set")
    optimizer: Literal["adam", "adamw", "muon"] = Field(
        "muon", description="muon takes the inner matrices and leaves the rest to adam"
    )
    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate of adam or adamw")
    matrix_learning_rate: float = Field(1.5e-2, gt=0, description="peak learning rate of muon, for inner matrices")
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="after the warm-up, down to 0 or level")
    warmup: float = Field(0.02, ge=0, le=1, description="fraction of the phase in which the rate rises from 0")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient of all weights")
    energy: Target = Field(Target(weight=3.0, delta=0.005), description="energy per atom, eV")
    force: Target = Field(Target(weight=1.0, delta=0.05), description="force components, eV/Å")
    stress: Target = Field(Target(weight=20.0, delta=0.001), description="stress components, eV/Å³")
    direct_weight: float = Field(0.1, ge=0, description="factor of the direct heads' loss where forces is 'both'")
    labels: float = Field(1.0, ge=0, description="factor of the loss against labels; 0 learns without them")
    orbit: OrbitTerm = Field(OrbitTerm(), description="what turned copies say about each other")
    anchor: Anchor = Field(Anchor(), description="what the starting potential said in the mean")
    layers: Literal["all", "heads", "last"] = Field(
        "all", description="which weights move: all, those behind the features, or only the last linear layers"
    )
    until_spread: float | None = Field(
        None, gt=0, description="meV/Å, rotational spread of the probe's forces at which the phase ends"
    )

    @property
    def polishes(self) -> bool:
        """Whether it is about the rotational spread, so that its numbers before the first step are wanted."""
        return bool(self.orbit.weight or self.anchor.weight or self.until_spread)

    @model_validator(mode="after")
    def _learns_something(self) -> Self:
        if not (self.labels or self.orbit.weight or self.anchor.weight):
            raise ValueError(
                "labels, orbit.weight and anchor.weight are all 0; a phase learns from one of them at least. Set one."
            )
        return self


class TrainSettings(Settings):
    """A training recipe. The same names are YAML keys and flags."""

    data: tuple[str, ...] = Field(description="files with labelled structures, anything that ASE reads; globs allowed")
    valid: tuple[str, ...] = Field((), description="files to validate on; none: a fraction of the data")
    valid_fraction: float = Field(0.1, gt=0, lt=1, description="fraction of the data kept for validation")
    energy_key: str | None = Field(None, description="name of the energy label; None: found by itself")
    forces_key: str | None = Field(None, description="name of the force label; None: found by itself")
    stress_key: str | None = Field(None, description="name of the stress or virial label; None: found by itself")
    targets: tuple[Literal["energy", "forces", "stress"], ...] = Field(
        ("energy", "forces"), description="labels to learn from; each must be there in every structure"
    )
    missing: Literal["error", "mask"] = Field("error", description="a missing label is an error, or is left out")
    model: PETSettings = Field(PETSettings(edge_basis=8), description="the shape of the PET")
    start: str | None = Field(None, description="a saved PET whose weights are the start; it also sets the model")
    phases: tuple[Phase, ...] = Field((Phase(),), min_length=1, description="the stretches of the recipe, in order")
    atoms_per_batch: int = Field(256, gt=0, description="about how many atoms a step sees")
    turn: bool = Field(True, description="turn every structure by a random element of O(3) at every step")
    ema: float = Field(0.999, ge=0, lt=1, description="decay per step of the averaged weights; 0 for none")
    dtype: Literal["float32", "float64"] = Field("float32", description="precision of the weights")
    device: str = Field("cpu", description="where to train: cpu, cuda, ...")
    seed: int = Field(0, ge=0, description="of initial weights, order and turns")
    validate_every: int = Field(1, gt=0, description="epochs between validations")
    probe: int = Field(1, ge=0, description="validation structures whose rotational spread is followed; 0 for none")
    checkpoint_minutes: float = Field(2.0, ge=0, description="minutes between checkpoints within an epoch")

    @model_validator(mode="after")
    def _phases_fit(self) -> Self:
        for n, phase in enumerate(self.phases):
            if phase.orbit.weight and not self.turn:
                raise ValueError(
                    f"phase {n} has an orbit term of weight {phase.orbit.weight:g}, but turn is false: copies that are "
                    "not turned all say the same. Set turn to true, or orbit.weight to 0."
                )
            if phase.anchor.weight and self.start is None:
                raise ValueError(
                    f"phase {n} has an anchor of weight {phase.anchor.weight:g}, but nothing to start from. "
                    "Set start to a saved potential, or anchor.weight to 0."
                )
            if phase.until_spread and not self.probe:
                raise ValueError(
                    f"phase {n} ends at a spread of {phase.until_spread:g} meV/Å, but probe is 0: no spread is "
                    "followed. Set probe to the number of validation structures to follow."
                )
        return self
