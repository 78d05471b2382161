"""Thermal conductivity of silicon: raw, ± and projected side by side, with what each costs."""

from ase.build import bulk

import tumble

silicon = tumble.load("silicon")
atoms = bulk("Si", "diamond", a=5.4335)  # at rest by symmetry
# Twice the cutoff is 10 Å, which is 2 x 2 x 2 of the cubic cell, and a mesh of 11 x 11 x 11; this is for a first look.
settings = tumble.ConductivitySettings(supercell=(2, 2, 2), force=True, mesh=(5, 5, 5), kind="wigner", isotopes=True)
result = tumble.conductivity(silicon, atoms, settings, name="silicon")

found = result.found
for route in found.routes:
    print(f"{route.name:9} κ(300 K) = {found.kappa(route.transport):.2f} W/(m K), {route.n_calls} calls, ", end="")
    print(f"{route.seconds:.1f} s")
for name, change in found.by_turning.items():
    print(f"{name} changes by {100 * change:.2f} % in another orientation of the crystal")
for temperature, kappa in zip(result.temperatures_K, result.kappa, strict=True):
    print(f"{temperature:5.0f} K {kappa[0, 0]:8.2f} W/(m K)")
for verdict in result.verdicts():
    print(f"{verdict.task}: {verdict.words}. {verdict.reason}")
print(f"wrote {result.save('conductivity')} and {tumble.report(result, to='conductivity.html')}")
