"""Pair potentials: Lennard-Jones, Morse, and the screened nuclear repulsion of Ziegler, Biersack and Littmark."""

from collections.abc import Mapping, Sequence
from itertools import combinations_with_replacement
from typing import final

import torch
from ase.data import atomic_numbers, chemical_symbols, covalent_radii
from torch import Tensor, nn

from tumble.batch import Batch
from tumble.potential import Model, Outputs

PerPair = float | Mapping[str, float]
"""One number for all pairs of elements, or one for each: {"Ar-Ar": 1.0, "Ar-Kr": 1.2, "Kr-Kr": 1.4}."""

COULOMB = 14.399645478425668
"""e²/(4π ε0), eV Å."""


@final
class LennardJones(Model):
    """Lennard-Jones pairs, tapered between an onset and the cutoff so that energy and force are continuous.

        u(r) = 4 ε [(σ/r)^12 - (σ/r)^6] t(r),
        t = 1 below the onset, else (c - r²)² (c + 2r² - 3o) / (c - o)³ with c = cutoff², o = onset²

    ε and σ are weights: they can be trained. The taper is the one of `ase.calculators.lj` with smooth=True.
    """

    def __init__(
        self, epsilon: PerPair = 1.0, sigma: PerPair = 1.0, *, cutoff: float | None = None, onset: float | None = None
    ) -> None:
        """One kind of pair, or one for every two elements.

        Args:
            epsilon: eV, depth of the well.
            sigma: Å, distance where the energy crosses zero.
            cutoff: Å; 3 times the largest sigma unless given.
            onset: Å, where the taper begins; 0.66 of the cutoff unless given.

        Raises:
            ValueError: a pair of elements without a value, a sigma that is not positive, an onset beyond the cutoff.
        """
        super().__init__()
        kinds, parameters = _kinds({"epsilon": epsilon, "sigma": sigma})
        self.epsilon, self.sigma = (nn.Parameter(values) for values in parameters)
        _check_positive("sigma", self.sigma.detach())
        self.cutoff = 3 * float(self.sigma.detach().max()) if cutoff is None else float(cutoff)
        self.onset = 0.66 * self.cutoff if onset is None else float(onset)
        _check_taper(self.onset, self.cutoff)
        self.species, self._kind = _species(kinds), _Kind(kinds)
        self._config = {"epsilon": _plain(epsilon), "sigma": _plain(sigma), "cutoff": self.cutoff, "onset": self.onset}

    def forward(self, batch: Batch, *, direct: bool = True) -> Outputs:
        """Half of each pair's energy on either atom."""
        kind = self._kind(batch)
        r2 = batch.vectors.square().sum(1)
        c6 = (self.sigma[kind].square() / r2) ** 3
        c, o = self.cutoff**2, self.onset**2
        taper = torch.where(r2 < o, 1.0, (c - r2) ** 2 * (c + 2 * r2 - 3 * o) / (c - o) ** 3)
        energies = 4 * self.epsilon[kind] * (c6 * c6 - c6) * taper
        return _shared(torch.where(r2 < c, energies, 0.0), batch)

    def config(self) -> dict[str, object]:
        """Arguments that rebuild it, with the values it was made with."""
        return dict(self._config)


@final
class Morse(Model):
    """Morse pairs, tapered between an onset and the cutoff by a quintic: energy, force and curvature are continuous.

        u(r) = ε x (x - 2) t(s),  x = exp(ρ0 (1 - r/r0)),
        t = 6s⁵ - 15s⁴ + 10s³,    s = (cutoff - r) / (cutoff - onset), held within 0 and 1

    ε, r0 and ρ0 are weights: they can be trained. Form and taper are those of `ase.calculators.morse`.
    """

    def __init__(
        self,
        epsilon: PerPair = 1.0,
        r0: PerPair = 1.0,
        rho0: PerPair = 6.0,
        *,
        cutoff: float | None = None,
        onset: float | None = None,
    ) -> None:
        """One kind of pair, or one for every two elements.

        Args:
            epsilon: eV, depth of the well.
            r0: Å, distance of lowest energy.
            rho0: stiffness, no unit: the curvature at r0 is 2 epsilon (rho0 / r0)².
            cutoff: Å; 2.7 times the largest r0 unless given.
            onset: Å, where the taper begins; 1.9 / 2.7 of the cutoff unless given.

        Raises:
            ValueError: a pair of elements without a value, an r0 that is not positive, an onset beyond the cutoff.
        """
        super().__init__()
        kinds, parameters = _kinds({"epsilon": epsilon, "r0": r0, "rho0": rho0})
        self.epsilon, self.r0, self.rho0 = (nn.Parameter(values) for values in parameters)
        _check_positive("r0", self.r0.detach())
        self.cutoff = 2.7 * float(self.r0.detach().max()) if cutoff is None else float(cutoff)
        self.onset = self.cutoff * 1.9 / 2.7 if onset is None else float(onset)
        _check_taper(self.onset, self.cutoff)
        self.species, self._kind = _species(kinds), _Kind(kinds)
        self._config = {"epsilon": _plain(epsilon), "r0": _plain(r0), "rho0": _plain(rho0)}
        self._config |= {"cutoff": self.cutoff, "onset": self.onset}

    def forward(self, batch: Batch, *, direct: bool = True) -> Outputs:
        """Half of each pair's energy on either atom."""
        kind = self._kind(batch)
        r = batch.vectors.square().sum(1).sqrt()
        x = torch.exp(self.rho0[kind] * (1 - r / self.r0[kind]))
        s = ((self.cutoff - r) / (self.cutoff - self.onset)).clamp(0, 1)
        taper = s**3 * (10 + s * (6 * s - 15))
        return _shared(self.epsilon[kind] * x * (x - 2) * taper, batch)

    def config(self) -> dict[str, object]:
        """Arguments that rebuild it, with the values it was made with."""
        return dict(self._config)


@final
class ZBL(Model):
    """Screened nuclear repulsion that vanishes, with slope and curvature, at the sum of two covalent radii.

        u(r) = e²/(4πε0) Z_i Z_j / r Σ_k c_k exp(-d_k r / a) + A r³/3 + B r⁴/4 + C,  a = 0.4685 Å / (Z_i^p + Z_j^p)

    with A, B, C such that u = u' = u'' = 0 at r_c = R_i + R_j, the sum of two covalent radii. Energies are evaluated in
    float64 whatever the dtype of the batch.

    Source: Ziegler, Biersack, Littmark, The Stopping and Range of Ions in Matter (1985); the switching is that of
        LAMMPS `pair_style zbl` with inner cutoff 0.
    """

    _P, _A0 = 0.23, 0.46850
    _C = (0.02817, 0.28022, 0.50986, 0.18175)
    _D = (0.20162, 0.40290, 0.94229, 3.19980)

    def __init__(self, species: Sequence[int], radii: Sequence[float] | None = None) -> None:
        """No weights: elements and their radii say everything.

        Args:
            species: atomic numbers; the largest radius among them sets the cutoff.
            radii: (n_species,) Å, in the order of the species; the covalent radii of ASE unless given. Versions of ASE
                differ for elements beyond 96 (older ones have 0.2 Å), so `config` always states them.

        Raises:
            ValueError: no species, one that is not an element, or radii that are not one positive length for each.
        """
        super().__init__()
        self.species = tuple(sorted({int(z) for z in species}))
        if not self.species or self.species[0] < 1 or self.species[-1] >= len(covalent_radii):
            raise ValueError(
                f"ZBL cannot be made for the species {list(species)}: expected at least one atomic number, "
                f"each from 1 to {len(covalent_radii) - 1}."
            )
        lengths = [float(covalent_radii[z]) for z in species] if radii is None else [float(r) for r in radii]
        if len(lengths) != len(species) or not all(r > 0 for r in lengths):
            raise ValueError(
                f"ZBL has radii {lengths} Å for {len(species)} species; expected one positive length each."
            )
        self._radii = {int(z): r for z, r in zip(species, lengths, strict=True)}
        self.cutoff = 2 * max(lengths)

    def forward(self, batch: Batch, *, direct: bool = True) -> Outputs:
        """Half of each pair's energy on either atom."""
        r = batch.vectors.double().square().sum(1).sqrt()
        zi, zj = batch.numbers[batch.center], batch.numbers[batch.neighbor]
        radii = torch.zeros(len(chemical_symbols), dtype=torch.float64, device=r.device)
        radii[list(self._radii)] = torch.tensor(list(self._radii.values()), dtype=torch.float64, device=r.device)
        rc = radii[zi] + radii[zj]
        e, de, d2e = self._screened(rc, zi, zj)
        a = (-3 * de + rc * d2e) / rc**2
        b = (2 * de - rc * d2e) / rc**3
        c = -e + rc * de / 2 - rc**2 * d2e / 12
        energies = self._screened(r, zi, zj)[0] + a / 3 * r**3 + b / 4 * r**4 + c
        return _shared(torch.where(r < rc, energies, 0.0), batch)

    def _screened(self, r: Tensor, zi: Tensor, zj: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Screened Coulomb energy and its first two derivatives by r, (P,) eV, eV/Å, eV/Å²."""
        c, d = (torch.tensor(values, dtype=r.dtype, device=r.device) for values in (self._C, self._D))
        rates = d * (zi.to(r.dtype) ** self._P + zj.to(r.dtype) ** self._P)[:, None] / self._A0
        terms = c * torch.exp(-rates * r[:, None])
        phi, dphi, d2phi = terms.sum(1), -(terms * rates).sum(1), (terms * rates**2).sum(1)
        charge = COULOMB * zi.double() * zj
        return (
            charge * phi / r,
            charge * (dphi / r - phi / r**2),
            charge * (d2phi / r - 2 * dphi / r**2 + 2 * phi / r**3),
        )

    def config(self) -> dict[str, object]:
        """Arguments that rebuild it."""
        return {"species": list(self._radii), "radii": list(self._radii.values())}


class _Kind(nn.Module):
    """Position of each pair's two elements in the vectors of parameters."""

    def __init__(self, kinds: list[tuple[int, int]] | None) -> None:
        super().__init__()
        self._one = kinds is None
        table = torch.zeros(len(chemical_symbols), len(chemical_symbols), dtype=torch.int64)
        for k, (a, b) in enumerate(kinds or []):
            table[a, b] = table[b, a] = k
        self.register_buffer("_table", table, persistent=False)
        self._table: Tensor

    def forward(self, batch: Batch) -> Tensor:
        """(P,) int64."""
        if self._one:
            return torch.zeros_like(batch.center)
        kind: Tensor = self._table[batch.numbers[batch.center], batch.numbers[batch.neighbor]]
        return kind


def _shared(energies: Tensor, batch: Batch) -> Outputs:
    """Pair energies (P,) of directed pairs to atoms: each pair is there twice, so half of each goes to its center."""
    per_atom = torch.zeros(batch.n_atoms, dtype=torch.float64, device=energies.device)
    return Outputs(per_atom.index_add(0, batch.center, energies.double() / 2))


def _kinds(given: Mapping[str, PerPair]) -> tuple[list[tuple[int, int]] | None, list[Tensor]]:
    """The kinds of pairs, None for one kind whatever the elements, and a vector of values for each parameter."""
    tables = {name: _pairs(name, value) for name, value in given.items() if isinstance(value, Mapping)}
    if not tables:
        return None, [torch.tensor([float(value)], dtype=torch.float64) for value in given.values()]  # type: ignore[arg-type]
    elements = sorted({z for table in tables.values() for pair in table for z in pair})
    kinds = list(combinations_with_replacement(elements, 2))
    for name, table in tables.items():
        if lacking := [pair for pair in kinds if pair not in table]:
            names = ", ".join("-".join(chemical_symbols[z] for z in pair) for pair in lacking)
            raise ValueError(
                f"{name} lacks {len(lacking)} of {len(kinds)} pairs of elements: {names}. Give each a value."
            )
    columns = ([tables[name][pair] if name in tables else given[name] for pair in kinds] for name in given)
    return kinds, [torch.tensor(column, dtype=torch.float64) for column in columns]


def _pairs(name: str, values: Mapping[str, float]) -> dict[tuple[int, int], float]:
    """Values by atomic numbers, ascending, from values by names like "Kr-Ar"."""
    pairs = {}
    for key, value in values.items():
        symbols = key.split("-")
        if len(symbols) != 2 or any(s not in atomic_numbers or s == "X" for s in symbols):
            raise ValueError(
                f"{name} has a value for {key!r}, expected two elements such as 'Ar-Kr'. Correct the name."
            )
        pair = tuple(sorted(atomic_numbers[s] for s in symbols))
        pairs[pair[0], pair[1]] = float(value)
    return pairs


def _species(kinds: list[tuple[int, int]] | None) -> tuple[int, ...] | None:
    return None if kinds is None else tuple(sorted({z for pair in kinds for z in pair}))


def _plain(value: PerPair) -> float | dict[str, float]:
    return dict(value) if isinstance(value, Mapping) else float(value)


def _check_positive(name: str, values: Tensor) -> None:
    if not bool((values > 0).all()):
        raise ValueError(f"{name} is {float(values.min())} Å for a pair of elements; a positive length was expected.")


def _check_taper(onset: float, cutoff: float) -> None:
    if not 0 <= onset < cutoff:
        raise ValueError(f"the taper runs from {onset} Å to the cutoff {cutoff} Å; expected 0 <= onset < cutoff.")
