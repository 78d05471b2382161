// Pairs of a Verlet list that are within the cutoff now, with their vectors, in one pass: see neighbors.py.

#include <cstdint>

using Int = int64_t;

#if defined(__clang__)
#pragma clang fp contract(off)
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")  // to the last bit what numpy gives
#endif

struct List {
  const Int *center, *neighbor, *shift, *reverse;
  double* vectors;
};

// Writes the pairs with |v|² <= limit to `out`, in their order, and returns how many they are. `place` is room for n.
extern "C" Int within(Int n, const List* in, const double* positions, const double* cell, double limit, const List* out, Int* place) {
  auto *center = const_cast<Int*>(out->center), *neighbor = const_cast<Int*>(out->neighbor);
  auto *shift = const_cast<Int*>(out->shift), *reverse = const_cast<Int*>(out->reverse);
  Int kept = 0;
  for (Int p = 0; p < n; ++p) {
    const Int i = in->center[p], j = in->neighbor[p];
    const Int* s = in->shift + 3 * p;
    double v[3];
    for (int k = 0; k < 3; ++k) {
      const double moved = s[0] * cell[k] + s[1] * cell[3 + k] + s[2] * cell[6 + k];
      v[k] = positions[3 * j + k] - positions[3 * i + k] + moved;
    }
    place[p] = kept;
    if (!(v[0] * v[0] + v[1] * v[1] + v[2] * v[2] <= limit)) continue;
    center[kept] = i, neighbor[kept] = j, reverse[kept] = in->reverse[p];
    for (int k = 0; k < 3; ++k) shift[3 * kept + k] = s[k], out->vectors[3 * kept + k] = v[k];
    ++kept;
  }
  for (Int k = 0; k < kept; ++k) reverse[k] = place[reverse[k]];
  return kept;
}
