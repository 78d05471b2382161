"""What may be chosen for a screen: how it is spread, what is kept, and where the potential answers."""

from typing import Literal

from pydantic import Field

from tumble.results import Settings


class ScreenSettings(Settings):
    """How a job is run over many structures. What the job itself does is said by its own settings."""

    workers: int = Field(1, ge=1, description="processes on this machine that work side by side; 1: this one alone")
    pool: Literal["processes", "threads"] = Field(
        "processes", description="what the workers are; threads share one memory, and one that dies ends them all"
    )
    threads_per_worker: int | None = Field(
        None, ge=1, description="processor threads of one worker process; null: the cores divided by the workers"
    )
    parsl: str | None = Field(
        None,
        description="configuration of parsl that replaces workers and pool, as for SLURM: a YAML file, a Python file, "
        "or package.module:function",
    )
    structures_per_shard: int | None = Field(
        None, ge=1, description="structures in one shard at most; null: what suits the job"
    )
    atoms_per_shard: int | None = Field(
        None, ge=1, description="atoms in one shard, about; null: as many as its structures have"
    )
    names: str = Field(
        "auto",
        description="what structures are called: by a key of their info, or file for file:frame; auto: name or "
        "material_id of their info, else file:frame",
    )
    keep: Literal["table", "folders"] = Field(
        "table", description="what is kept of each result: its row, or also its folder, as the job alone would write it"
    )
    parquet: bool = Field(True, description="write the table as Parquet too, beside CSV")
    retry_failed: bool = Field(
        False, description="try again what an earlier run into the folder has recorded as failed"
    )
    device: str | None = Field(None, description="where the potential answers: cpu, cuda, cuda:1; null: cpu")
    dtype: Literal["float32", "float64"] | None = Field(None, description="of the potential; null: as it was saved")
    variant: str | None = Field(None, description="set of heads, of a file with several")
    direct: bool = Field(False, description="forces and stress of the direct heads")
