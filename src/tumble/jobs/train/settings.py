"""What may be chosen for a training: data, model, and the phases of its recipe."""

from typing import Literal, Self

from pydantic import Field, model_validator

from tumble.jobs.train.extras import Anchor, DataSet, Live, LoRA, OrbitTerm, Target, Uncertainty
from tumble.models.pet import PETSettings
from tumble.results import Settings


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
    matrix_learning_rate: float = Field(1e-2, gt=0, description="peak learning rate of muon, for inner matrices")
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay")
    schedule: Literal["cosine", "linear", "constant", "plateau"] = Field(
        "cosine", description="after the warm-up: down to 0, level, or lowered whenever validation stalls"
    )
    plateau_patience: int = Field(5, gt=0, description="plateau: validations without gain before the rate is lowered")
    plateau_factor: float = Field(0.5, gt=0, lt=1, description="plateau: factor by which the rate is lowered")
    warmup: float = Field(0.02, ge=0, le=1, description="fraction of the phase in which the rate rises from 0")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient of all weights")
    patience: int | None = Field(
        None, gt=0, description="validations without gain after which the phase ends early; None: it never does"
    )
    energy: Target = Field(Target(weight=3.0, delta=0.005), description="energy per atom, eV")
    force: Target = Field(Target(weight=1.0, delta=0.05), description="force components, eV/Å")
    stress: Target = Field(Target(weight=20.0, delta=0.001), description="stress components, eV/Å³")
    force_per_element: bool = Field(
        False, description="errors of forces in units of the rms force of the element, times that of all elements"
    )
    direct_weight: float = Field(0.1, ge=0, description="factor of the direct heads' loss where forces is 'both'")
    drop_direct: bool = Field(False, description="remove the direct heads from the model when the phase begins")
    labels: float = Field(1.0, ge=0, description="factor of the loss against labels; 0 learns without them")
    orbit: OrbitTerm = Field(OrbitTerm(), description="what turned copies say about each other")
    anchor: Anchor = Field(Anchor(), description="what the starting potential said in the mean")
    layers: Literal["all", "heads", "last", "lora"] = Field(
        "all",
        description="weights that move: all, those behind the features, the last linear layers, or LoRA and heads",
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
        if self.drop_direct and self.forces != "gradient":
            raise ValueError(
                f"drop_direct removes the direct heads, and forces is {self.forces!r}, which trains them. "
                "Set forces to gradient, or drop_direct to false."
            )
        return self


class TrainSettings(Settings):
    """A training recipe. The same names are YAML keys and flags."""

    data: tuple[str, ...] = Field(
        (), description="files with labelled structures, anything that ASE reads, or a store; globs allowed"
    )
    valid: tuple[str, ...] = Field((), description="files to validate on; none: a fraction of the data")
    sets: tuple[DataSet, ...] = Field((), description="instead of data: several sets, mixed, each with its own head")
    valid_fraction: float = Field(0.1, gt=0, lt=1, description="fraction of the data kept for validation")
    energy_key: str | None = Field(None, description="name of the energy label; None: found by itself")
    forces_key: str | None = Field(None, description="name of the force label; None: found by itself")
    stress_key: str | None = Field(None, description="name of the stress or virial label; None: found by itself")
    targets: tuple[Literal["energy", "forces", "stress"], ...] = Field(
        ("energy", "forces"), description="labels to learn from; each must be there in every structure"
    )
    missing: Literal["error", "mask"] = Field("error", description="a missing label is an error, or is left out")
    leaks: Literal["error", "warn", "allow"] = Field(
        "error", description="what to do about structures that are in the training and in the validation set"
    )
    check_units: bool = Field(
        True, description="refuse data whose energies, forces and stresses do not belong to one another"
    )
    config_weights: dict[str, float] = Field(
        {}, description="factor in the loss for structures by their config_type; others have 1"
    )
    model: PETSettings = Field(PETSettings(edge_basis=8), description="the shape of the PET")
    edge_gain: float = Field(
        4.0, gt=0, description="of a new model: factor on the initial weights for what an edge sees; 1 learns slowly"
    )
    start: str | None = Field(None, description="a saved PET whose weights are the start; it also sets the model")
    fit_offsets: bool = Field(
        True,
        description="shift the start's energies of the elements to the level of the labels, unless an anchor holds it",
    )
    add_elements: bool = Field(False, description="let the start learn elements of the data that it does not know")
    lora: LoRA = Field(LoRA(), description="low-rank changes of the start's matrices, for phases with layers: lora")
    remember: tuple[str, ...] = Field(
        (), description="labelled files on which the start is good; what the training forgets of them is followed"
    )
    phases: tuple[Phase, ...] = Field((Phase(),), min_length=1, description="the stretches of the recipe, in order")
    atoms_per_batch: int = Field(
        256, gt=0, description="about how many atoms one step of the optimizer sees, in all processes together"
    )
    pairs_per_batch: int | None = Field(
        None, gt=0, description="pairs that one step sees, instead of atoms; steps then cost the same"
    )
    accumulate: int = Field(
        1, gt=0, description="parts in which a process computes its share of a step: less memory, the same gradient"
    )
    workers: int = Field(0, ge=0, description="processes that search pairs ahead; 0: searched when first needed, kept")
    turn: bool = Field(True, description="turn every structure by a random element of O(3) at every step")
    ema: float = Field(0.999, ge=0, lt=1, description="decay per step of the averaged weights; 0 for none")
    dtype: Literal["float32", "float64"] = Field("float32", description="precision of the weights")
    matmul: Literal["full", "tf32", "bf16"] = Field(
        "full", description="precision of matrix products in training; tf32 and bf16 are faster on a GPU, and coarser"
    )
    compile: bool = Field(False, description="torch.compile the network, in phases with direct forces")
    recompute: bool = Field(False, description="compute activations twice instead of keeping them: less memory")
    shard: bool = Field(False, description="spread weights and optimizer over the processes (FSDP2), for large models")
    device: str = Field("cpu", description="where to train: cpu, cuda, ...")
    seed: int = Field(0, ge=0, description="of initial weights, order and turns")
    validate_every: int = Field(1, gt=0, description="epochs between validations")
    probe: int = Field(1, ge=0, description="validation structures whose symmetry is followed; 0 for none")
    live: Live = Field(Live(), description="what is followed at validations, and who else is told")
    uncertainty: Uncertainty = Field(Uncertainty(), description="what is fitted when the training is finished")
    checkpoint_minutes: float = Field(2.0, ge=0, description="minutes between checkpoints within an epoch")

    @model_validator(mode="after")
    def _data_are_named_once(self) -> Self:
        if bool(self.data) == bool(self.sets):
            both = "both are given" if self.data else "neither is given"
            raise ValueError(f"a training learns from data or from sets: {both}, exactly one was expected. Name one.")
        if self.sets and self.valid:
            raise ValueError("valid goes with data; each of the sets names its own. Move valid into the sets.")
        names = [one.name for one in self.sets]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two sets are called {twice[0]!r}; each needs a name of its own. Rename one.")
        if self.start is None and (needs := [one.name for one in self.sets if one.labels == "start"]):
            raise ValueError(f"the labels of set {needs[0]!r} are those of the start, and start is not set. Set it.")
        return self

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
            if phase.layers == "lora" and not self.lora.rank:
                raise ValueError(f"phase {n} trains LoRA, and lora.rank is 0. Set lora.rank, 8 for instance.")
        if self.compile and all(phase.forces != "direct" for phase in self.phases):
            raise ValueError(
                "compile is true, and no phase has forces: direct; forces by differentiation need second derivatives, "
                "which compiled code does not have. Set compile to false."
            )
        if self.uncertainty.kind == "ensemble" and self.uncertainty.members < 2:
            raise ValueError(
                f"uncertainty.kind is ensemble with {self.uncertainty.members} members; at least 2 were expected. "
                "Set uncertainty.members, 8 for instance."
            )
        if self.lora.rank and self.start is None:
            raise ValueError(f"lora.rank is {self.lora.rank}, but there is nothing to adapt. Set start.")
        return self

    @property
    def mixture(self) -> tuple[DataSet, ...]:
        """The sets that are mixed; the plain case is one set without a name."""
        return self.sets or (DataSet(name="", data=self.data, valid=self.valid),)
