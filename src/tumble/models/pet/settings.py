"""The hyperparameters of PET, under their published names."""

from typing import Literal

from pydantic import Field, model_validator

from tumble.results import Settings


class PETSettings(Settings):
    """Shape and cutoff of a PET. The defaults are the published ones, except that `edge_basis` does not exist there."""

    cutoff: float = Field(4.5, gt=0, description="radius of the neighbourhood, Å; the largest one if it adapts")
    num_neighbors_adaptive: float | None = Field(None, gt=0, description="target neighbour count; None: fixed cutoff")
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
    edge_basis: int = Field(
        0,
        ge=0,
        description="radial functions added to what an edge sees, and their products with its direction; 0: none",
    )
    direct_forces: bool = Field(False, description="add a head that predicts forces directly")
    direct_stress: bool = Field(False, description="add a head that predicts the stress directly")

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
        layers = self.num_gnn_layers + (self.featurizer_type == "feedforward")
        return self.cutoff * (layers + (self.num_neighbors_adaptive is not None))
