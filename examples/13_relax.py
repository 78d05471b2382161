"""Relax shaken crystals together, and learn whether symmetry that was lost was lost to physics or to the model."""

import numpy as np
from ase.build import bulk

import tumble

silicon = tumble.load("silicon")
structures = [bulk("Si", "diamond", a=5.5), bulk("Si", "diamond", a=5.4, cubic=True)]
for atoms in structures:
    atoms.positions += 0.05 * np.random.default_rng(0).uniform(-1, 1, atoms.positions.shape)

result = tumble.relax(silicon, structures, tumble.RelaxSettings(fmax=1e-5), name="silicon")
for finding in result.findings:
    plateau = finding.walked.plateau
    print(f"{finding.name}: {finding.final.reason} after {finding.n_calls} calls, {finding.symmetry}")
    print(f"  {plateau.stair.name} at tolerances from {plateau.first:g} to {plateau.last:g} Å")
    print(
        f"  a = {finding.standard.cell.lengths()[0]:.4f} Å, fmax means something down to {finding.floor.force:.1e} eV/Å"
    )
for verdict in result.verdicts():
    print(f"{verdict.key}: {verdict.words}; {verdict.reason}")
