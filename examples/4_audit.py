"""Audit two potentials, one trained and one exact, and put both on one page."""

from ase.build import molecule

import tumble

structures = [molecule("H2O")]
results = []
for name in ("water", "ase:ase.calculators.lj:LennardJones"):
    result = tumble.audit(tumble.load(name), structures)
    print(name)
    for verdict in result.verdicts():
        print(f"  {verdict.task}: {verdict.words}. {verdict.reason}")
    results.append(result)
print(f"wrote {tumble.report(*results, to='card.html')}")
