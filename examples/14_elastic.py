"""Elastic constants of argon and silicon with their error bars: what the symmetry of the crystal forbids of them."""

from ase.build import bulk

import tumble
from tumble.models.pair import Morse

argon = tumble.Gradient(Morse(0.0123, 3.8, 6.0, cutoff=6.0, onset=5.0))
cases = (("argon", argon, bulk("Ar", a=5.29325)), ("silicon", tumble.load("silicon"), bulk("Si", a=5.4335)))
results = []
for name, potential, crystal in cases:
    result = tumble.elastic(potential, crystal, tumble.ElasticSettings(average="none"), name=name)
    print(result.title)
    standard, errors = (result.finding.standard(one) for one in (result.constants_GPa, result.finding.best.forbidden))
    for constant in result.finding.independent:
        error = max(abs(errors[place]) for place in constant.equal)
        print(f"  {constant.name} = {standard[constant.place]:7.3f} ± {error:.3f} GPa")
    for verdict in result.verdicts():
        print(f"  {verdict.task}: {verdict.words}. {verdict.reason}")
    results.append(result)
print(f"wrote {tumble.report(*results, to='elastic.html')}")
