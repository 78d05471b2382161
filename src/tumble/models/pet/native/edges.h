#pragma once
// Which pairs interact, and how much.

#include <algorithm>
#include <vector>

#include "lanes.h"

struct Pairs {  // of the whole batch, before any is dropped
  Int n_atoms, n_pairs, n_threads;
  const Int *starts, *center, *neighbor, *reverse, *species;
};

struct Cut {
  double cutoff, width, adaptive_width, wanted;
  Int is_adaptive, is_cosine;
};

// 1 at s = 0, 0 at s = 1; and its slope.
inline double taper(double s, bool is_cosine, double* slope) {
  if (is_cosine) {
    s = std::min(std::max(s, 0.0), 1.0);
    *slope = -0.5 * M_PI * std::sin(M_PI * s);
    return 0.5 * (1 + std::cos(M_PI * s));
  }
  if (s <= 1e-6 || s >= 1 - 1e-6) return *slope = 0, s < 0.5;
  const double sine = std::sin(M_PI * s), c = std::cos(M_PI * s) / sine, f = 1 / (1 + std::exp(-2 * c));
  *slope = -2 * M_PI * f * (1 - f) / (sine * sine);
  return f;
}

// Radius at which atom i counts the wanted number of neighbours: safeguarded Newton steps, then its slopes.
template <class T>
double adapt(const Pairs& g, const Cut& cut, Int i, const T* distance, T* of_radius) {
  const double w = cut.adaptive_width, top = cut.cutoff;
  double low = 0, high = top, r = top / 2, slope = 0, excess = 0;
  const auto count = [&](auto act) {
    excess = cut.wanted * std::pow(r / top, 3) - cut.wanted, slope = 3 * cut.wanted * r * r / (top * top * top);
    for (Int p = g.starts[i]; p < g.starts[i + 1]; ++p) {
      const double s = (distance[p] + 1e-15 - (r - w)) / w;
      if (distance[p] > top || s >= 1 - 1e-6) continue;
      double d = 0;
      excess += s <= 1e-6 ? 1 : taper(s, false, &d);
      slope -= d / w;
      act(p, d / w);
    }
    slope = std::max(slope, 1e-6);
  };
  const auto nothing = [](Int, double) {};
  for (int step = 0; step < 60; ++step) {
    count(nothing);
    (excess <= 0 ? low : high) = r;
    double next = r - excess / slope;
    if (!(next >= low && next <= high)) next = (low + high) / 2;
    const bool is_done = std::abs(next - r) <= 1e-8 * top;  // and one more step, which squares the error
    r = next;
    if (is_done) break;
  }
  count(nothing);
  r -= excess / slope;
  if (r <= top / 16 || r >= top) return std::min(std::max(r, top / 16), top);
  const double inverse = -1 / slope;
  count([&](Int p, double d) { of_radius[p] = T(d * inverse); });
  return r;
}

// A pair of smaller weight than this changes nothing: neither as a key, nor as a message, nor where it is read out.
template <class T>
constexpr double NEGLIGIBLE = sizeof(T) == 4 ? 1e-12 : 1e-20;

template <class T>
struct Found {  // what find_edges writes; K of P pairs are kept
  T *radius, *of_radius;                             // (N,) of every atom; (P,) its slope by the distance of each pair
  Int *kept, *starts, *species, *reverse;            // (K,) position among the P; (N + 1,); (K,); (K,)
  T *inputs, *factor, *of_distance, *of_reach;       // (K, 4); (K,) and its two slopes
};

template <class T>
Int find_edges(const Pairs& g, const Cut& cut, const T* vectors, const Found<T>& out) {
  const Int N = g.n_atoms, P = g.n_pairs;
  std::vector<T> distance(P), weight(P), slope(P);
  std::vector<Int> place(P);
  const auto pairs = [&](Int i, auto act) {
    for (Int p = g.starts[i]; p < g.starts[i + 1]; ++p) act(p);
  };
  // Whether both directions are kept: their distances may differ by a rounding.
  const auto is_kept = [&](Int p) { return weight[p] > T(NEGLIGIBLE<T>) && weight[g.reverse[p]] > T(NEGLIGIBLE<T>); };
#pragma omp parallel num_threads(int(g.n_threads))
  {
#pragma omp for schedule(static)
    for (Int i = 0; i < N; ++i) {
      pairs(i, [&](Int p) {
        const T* v = vectors + 3 * p;
        distance[p] = std::sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]);
        out.of_radius[p] = 0;
      });
      out.radius[i] = T(cut.is_adaptive ? adapt(g, cut, i, distance.data(), out.of_radius) : cut.cutoff);
    }
#pragma omp for schedule(static)
    for (Int i = 0; i < N; ++i)
      pairs(i, [&](Int p) {
        const double reach = std::min((double(out.radius[i]) + out.radius[g.neighbor[p]]) / 2, cut.cutoff);
        double by_s = 0;
        weight[p] = 0;
        if (distance[p] > reach) return;
        weight[p] = T(taper((distance[p] - reach) / cut.width + 1, cut.is_cosine, &by_s));
        slope[p] = T(by_s / cut.width);
      });
#pragma omp for schedule(static)
    for (Int i = 0; i < N; ++i) {
      Int count = 0;
      pairs(i, [&](Int p) { count += is_kept(p); });
      out.starts[i + 1] = count;
    }
#pragma omp single
    {
      out.starts[0] = 0;
      for (Int i = 0; i < N; ++i) out.starts[i + 1] += out.starts[i];
    }
#pragma omp for schedule(static)
    for (Int i = 0; i < N; ++i) {
      Int k = out.starts[i];
      pairs(i, [&](Int p) {
        if (!is_kept(p)) return;
        const T* v = vectors + 3 * p;
        out.factor[k] = weight[p], out.of_distance[k] = slope[p], out.of_reach[k] = -slope[p];
        out.kept[k] = p, place[p] = k, out.species[k] = g.species[g.neighbor[p]];
        for (int c = 0; c < 3; ++c) out.inputs[4 * k + c] = v[c];
        out.inputs[4 * k + 3] = std::sqrt(distance[p] * distance[p] + T(1e-15));
        ++k;
      });
    }
#pragma omp for schedule(static)
    for (Int k = 0; k < out.starts[N]; ++k) out.reverse[k] = place[g.reverse[out.kept[k]]];
  }
  return out.starts[N];
}

// From the slopes of inputs (K, 4) and factor (K) of the kept pairs to those of all vectors (P, 3).
template <class T>
void edges_back(const Pairs& g, const Cut& cut, Int n_kept, const T* vectors, const T* of_radius, const Int* kept, const T* of_distance,
                const T* of_reach, const T* of_inputs, const T* of_factor, T* slope) {
  std::vector<T> radius(cut.is_adaptive ? g.n_atoms : 0);
  if (cut.is_adaptive)
    for (Int k = 0; k < n_kept; ++k) {
      const T share = of_factor[k] * of_reach[k] / 2;
      radius[g.center[kept[k]]] += share, radius[g.neighbor[kept[k]]] += share;
    }
  const auto along = [&](Int p, T by_distance) {
    const T *v = vectors + 3 * p, d = std::sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]);
    for (int c = 0; c < 3; ++c) slope[3 * p + c] += by_distance * v[c] / d;
  };
  for (Int p = 0; p < g.n_pairs; ++p) {
    for (int c = 0; c < 3; ++c) slope[3 * p + c] = 0;
    if (cut.is_adaptive && of_radius[p] != 0) along(p, radius[g.center[p]] * of_radius[p]);
  }
  for (Int k = 0; k < n_kept; ++k) {
    const Int p = kept[k];
    const T *v = vectors + 3 * p, smooth = std::sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2] + T(1e-15));
    for (int c = 0; c < 3; ++c) slope[3 * p + c] += of_inputs[4 * k + c] + of_inputs[4 * k + 3] * v[c] / smooth;
    if (of_distance[k] != 0) along(p, of_factor[k] * of_distance[k]);
  }
}

