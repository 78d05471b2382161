"""A water molecule at constant energy, as it is and averaged over rotations; stopped, gone on with, and judged."""

import tempfile
from pathlib import Path

from ase.build import molecule

import tumble

water = tumble.load("water", dtype="float64")
settings = tumble.MDSettings(ensemble="nve", timestep_fs=0.25, time_ps=0.02, log_fs=0.5, frame_fs=5, control="no")
for rule in ("none", "O"):
    chosen = settings.model_copy(update={"average": rule})
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        tumble.md(water, molecule("H2O"), chosen, folder=run)
        longer = chosen.model_copy(update={"time_ps": 0.03})  # nothing but its length may change
        result = tumble.md(water, molecule("H2O"), longer, folder=run, resume=True, name="water")
        print(f"\n{result.title}, averaged over {rule}")
        print(f"  series.csv has {len((run / 'series.csv').read_text().splitlines()) - 1} lines")
    drift = result.finding.drift
    print(f"  the conserved quantity drifts by {drift.rate:.1f} ± {drift.error:.1f} meV/atom/ns")
    for verdict in result.verdicts():
        print(f"  {verdict.key}: {verdict.words}; {verdict.reason}")
