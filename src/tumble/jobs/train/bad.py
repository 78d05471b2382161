"""What a training does with a step after which nothing would be right: stop, and keep what was in it."""

from pathlib import Path
from typing import Never

from ase import Atoms
from ase.io import write

from tumble.data import Step
from tumble.jobs.train.sources import Source
from tumble.jobs.train.state import State

BATCH = "bad_batch.extxyz"


def refuse(step: Step, source: Source, folder: Path, state: State, value: float) -> Never:
    """Write the structures of a step, with their labels and where they come from, and stop.

    Raises:
        RuntimeError: always.
    """
    write(folder / BATCH, [_labelled(source, index) for index in step.members], format="extxyz")
    raise RuntimeError(
        f"the loss is {value:.4g} or its gradient is not finite at epoch {state.epoch}, step {state.step} of phase "
        f"{state.phase}; finite numbers were expected. The {len(step.members)} structures of this step are in "
        f"{folder / BATCH}; the last good state is {folder / 'last.ckpt'}. Lower the learning rate, or remove what is "
        "wrong with these structures."
    )


def _labelled(source: Source, index: int) -> Atoms:
    """A structure as it was read, with its labels under REF_ names."""
    atoms, label = source.train.atoms[index].copy(), source.train.labels[index]
    atoms.info |= {"source": source.train.sources[index]}
    if label.energy is not None:
        atoms.info["REF_energy"] = float(label.energy)
    if label.forces is not None:
        atoms.arrays["REF_forces"] = label.forces.numpy()
    if label.stress is not None:
        atoms.info["REF_stress"] = label.stress.numpy()
    return atoms
