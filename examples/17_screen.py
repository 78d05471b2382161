"""Screen strained crystals of argon: stopped at any moment, the same call goes on."""

from ase.build import bulk

import tumble
from tumble.models.pair import LennardJones
from tumble.potential import Gradient

model = tumble.save(Gradient(LennardJones({"Ar-Ar": 0.0104}, {"Ar-Ar": 3.4})), "argon.safetensors")

structures = []
for index in range(60):
    atoms = bulk("Ar", a=5.0 + 0.01 * index, cubic=True)
    atoms.rattle(0.05, seed=index)
    atoms.info["name"] = f"a = {5.0 + 0.01 * index:.2f} Å"
    structures.append(atoms)
structures.append(bulk("Cu"))  # of which this potential knows nothing

settings = tumble.ScreenSettings(structures_per_shard=20)
result = tumble.screen("predict", model, structures, "screened", settings, tell=lambda one: print(one.message))

lowest = min((row for row in result.rows() if row["status"] == "done"), key=lambda row: row["energy per atom (eV)"])
print(f"lowest: {lowest['structure']}, {lowest['energy per atom (eV)']:.4f} eV per atom")
for record in result.failures:
    print(f"{record.name} failed. {record.reason}")
result.save("screened", overwrite=True)
print(f"wrote {tumble.report(result, to='screened/card.html')}")
