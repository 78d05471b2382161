"""The hyperparameters of PET, under their published names."""

import math
from typing import Any, Literal

from pydantic import Field, model_validator

from tumble.results import Settings

SIZES: dict[str, tuple[int, int, int, float, float]] = {
    "XS": (128, 2, 1, 7.5, 8.0),
    "S": (256, 3, 1, 8.0, 16.0),
    "M": (384, 3, 2, 8.5, 24.0),
    "L": (512, 4, 2, 9.0, 32.0),
    "XL": (640, 5, 3, 10.0, 40.0),
}
"""d_pet, message-passing layers, transformer layers in each, cutoff in Å, target neighbour count; arXiv:2601.16195."""


class LongRange(Settings):
    """What an atom learns about atoms beyond every cutoff: Coulomb potentials of learned charges, by torch-pme."""

    enable: bool = Field(False, description="add long-range features to the features of every atom")
    use_ewald: bool = Field(
        False, description="kept for published files and without effect: training takes Ewald sums, answers take P3M"
    )
    smearing: float = Field(1.4, gt=0, description="width of the Gaussians that split near from far, Å")
    kspace_resolution: float = Field(1.33, gt=0, description="spacing of the mesh, shortest wavelength of Ewald, Å")
    interpolation_nodes: Literal[1, 2, 3, 4, 5] = Field(
        5, description="mesh points per direction that a charge reaches"
    )


class PETSettings(Settings):
    """Shape and cutoff of a PET. The defaults are the published ones, except that `edge_basis` does not exist there."""

    cutoff: float = Field(4.5, gt=0, description="radius of the neighbourhood, Å; the largest one if it adapts")
    num_neighbors_adaptive: float | None = Field(None, gt=0, description="target neighbour count; None: fixed cutoff")
    adaptive_cutoff_method: Literal["solver", "grid"] = Field(
        "solver",
        description="how cutoffs adapt: by the root of the neighbour count, or by a grid of probes (older files)",
    )
    cutoff_function: Literal["Bump", "Cosine"] = Field("Bump", description="taper of a pair at its cutoff")
    cutoff_width: float = Field(0.5, gt=0, description="width of that taper, Å")
    cutoff_width_adaptive: float = Field(1.0, gt=0, description="width of the taper in the neighbour count, Å")
    d_pet: int = Field(128, gt=0, description="width of an edge token")
    d_head: int = Field(128, gt=0, description="width of the readout heads")
    d_node: int = Field(256, gt=0, description="width of a node")
    d_feedforward: int = Field(256, gt=0, description="hidden width of the edge feedforward network")
    num_heads: int = Field(8, gt=0, description="attention heads; they divide d_pet")
    num_attention_layers: int = Field(2, gt=0, description="transformer layers in each message-passing layer")
    num_gnn_layers: int = Field(2, gt=0, description="message-passing layers")
    normalization: Literal["RMSNorm", "LayerNorm"] = Field("RMSNorm", description="normalisation of tokens")
    activation: Literal["SwiGLU", "SiLU"] = Field("SwiGLU", description="SwiGLU is value x sigmoid(gate), as published")
    attention_temperature: float = Field(1.0, gt=0, description="divides the attention logits")
    transformer_type: Literal["PreLN", "PostLN"] = Field("PreLN", description="normalise before or after attention")
    featurizer_type: Literal["feedforward", "residual"] = Field(
        "feedforward", description="read out the last layer, or every layer (the original PET)"
    )
    system_conditioning: bool = Field(False, description="see the total charge and the spin multiplicity")
    max_charge: int = Field(10, ge=0, description="largest charge of either sign that it can be told, e")
    max_spin_multiplicity: int = Field(10, ge=1, description="largest spin multiplicity 2S + 1 that it can be told")
    long_range: LongRange = Field(LongRange(), description="features from beyond every cutoff")
    edge_basis: int = Field(
        0,
        ge=0,
        description="radial functions added to what an edge sees, and their products with its direction; 0: none",
    )
    direct_forces: bool = Field(False, description="add a head that predicts forces directly")
    direct_stress: bool = Field(False, description="add a head that predicts the stress directly")

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "PETSettings":
        """A published size; in a recipe, `preset: XS` among the settings of the model does the same.

        Args:
            name: XS, S, M, L or XL.
            changes: settings that shall differ from the published ones.

        Raises:
            ValueError: another name.
        """
        return cls(**_published(name) | changes)

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "preset" not in values:
            return values
        own = {key: value for key, value in values.items() if key != "preset"}
        return _published(values["preset"]) | own

    @model_validator(mode="after")
    def _heads_divide(self) -> "PETSettings":
        if self.d_pet % self.num_heads:
            raise ValueError(
                f"num_heads is {self.num_heads}, which does not divide d_pet = {self.d_pet}. Choose a divisor."
            )
        return self

    @property
    def n_readouts(self) -> int:
        """How many layers are read out."""
        return self.num_gnn_layers if self.featurizer_type == "residual" else 1

    @property
    def interaction_range(self) -> float:
        """Å beyond which nothing can change an atom's energy; a force, the slope of many, reaches twice as far."""
        if self.long_range.enable:
            return math.inf
        layers = self.num_gnn_layers + (self.featurizer_type == "feedforward")
        return self.cutoff * (layers + (self.num_neighbors_adaptive is not None))


def _published(name: object) -> dict[str, Any]:
    if not isinstance(name, str) or name not in SIZES:
        raise ValueError(f"there is no preset {name!r} of PET; one of {', '.join(SIZES)} was expected.")
    width, layers, depth, cutoff, neighbors = SIZES[name]
    return {
        "cutoff": cutoff,
        "num_neighbors_adaptive": neighbors,
        "d_pet": width,
        "d_head": width,
        "d_node": 4 * width,
        "d_feedforward": 2 * width,
        "num_gnn_layers": layers,
        "num_attention_layers": depth,
    }
