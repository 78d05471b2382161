#pragma once
// Numbers v + ε d with ε² = 0: whatever is computed with them carries its derivative along one direction, d.
//
// Arrays of them are two arrays (a Twin), so that the matrix products see plain numbers.

#include <cstdlib>
#include <memory>
#include <type_traits>

#include "product.h"

template <class V>
struct Dual {
  V v, d;
};
template <class V>
inline constexpr bool is_dual = false;
template <class V>
inline constexpr bool is_dual<Dual<V>> = true;
template <class A, class B>
using Plain = std::enable_if_t<!is_dual<B>>;

template <class V>
inline Dual<V> dual(V v, V d) {
  return {v, d};
}
template <class V>
inline Dual<V> operator+(Dual<V> a, Dual<V> b) {
  return {a.v + b.v, a.d + b.d};
}
template <class V>
inline Dual<V> operator-(Dual<V> a, Dual<V> b) {
  return {a.v - b.v, a.d - b.d};
}
template <class A, class B>
inline auto operator*(Dual<A> a, Dual<B> b) {
  return dual(a.v * b.v, a.v * b.d + a.d * b.v);
}
template <class A, class B, class = Plain<A, B>>
inline auto operator*(Dual<A> a, B b) {
  return dual(a.v * b, a.d * b);
}
template <class V>
inline Dual<V> sigmoid(Dual<V> x) {
  const V s = sigmoid(x.v);
  return {s, s * (1 - s) * x.d};
}
template <class V>
inline Dual<V> slope_of_silu(Dual<V> x) {
  const Dual<V> s = sigmoid(x), rest = {1 - s.v, -s.d}, t = x * rest;
  return s * dual<V>(1 + t.v, t.d);
}

template <class T>
struct Twin {
  T *v, *d;
  Twin operator+(Int k) const { return {v + k, d + k}; }
  Twin operator-(Int k) const { return {v - k, d - k}; }
  Dual<T> operator[](Int k) const { return {v[k], d[k]}; }
};
template <class T>
inline auto load(Twin<T> p) {
  return dual(load(p.v), load(p.d));
}
template <class T, class V>
inline void store(Twin<T> p, Dual<V> x) {
  store(p.v, x.v), store(p.d, x.d);
}
template <class T>
inline void copy(Twin<T> to, Twin<T> from, Int size) {
  std::memcpy(to.v, from.v, size * sizeof(T)), std::memcpy(to.d, from.d, size * sizeof(T));
}
template <class V>
inline auto total(V s) {
  auto sum = s[0];
  for (Int i = 1; i < Int(sizeof s / sizeof s[0]); ++i) sum += s[i];
  return sum;
}
template <class V>
inline auto total(Dual<V> s) {
  return dual(total(s.v), total(s.d));
}

// Memory of one thread that grows, aligned to its lines.
template <class T>
struct Buffer {
  T* start = nullptr;
  Int size = 0;
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  ~Buffer() { std::free(start); }
  T* get(Int n) {
    if (n > size) {
      std::free(start);
      size = (n + n / 4 + 63) / 64 * 64;
      start = static_cast<T*>(std::aligned_alloc(BYTES, size * sizeof(T)));
      if (!start) std::abort();
    }
    return start;
  }
  Twin<T> twin(Int n) {
    n = (n + 15) / 16 * 16;
    T* p = get(2 * n);
    return {p, p + n};
  }
};

// What layers.h does, for dual numbers --------------------------------------------------------------------------

template <class T>
Dual<T> dot(Twin<T> a, Twin<T> b, Int width) {
  auto s = dual(fill(T(0)), fill(T(0)));
  for (Int k = 0; k < width; k += Lanes<T>::n) s = s + load(a + k) * load(b + k);
  return total(s);
}
// 1/rms of a row: its value is kept from before.
template <class T>
Dual<T> inverse_of(Twin<T> x, T r, Int width) {
  return {r, -r * r * r * dot<T>(x.v, x.d, width) / width};
}
template <class T>
void normalise(Twin<T> x, const T* inverse, Twin<T> y, Int rows, Int width) {
  for (Int i = 0; i < rows; ++i, x = x + width, y = y + width) {
    const auto r = inverse_of(x, inverse[i], width);
    for (Int k = 0; k < width; k += Lanes<T>::n) store(y + k, load(x + k) * r);
  }
}
template <class T>
void normalise_back(Twin<T> x, const T* inverse, Twin<T> above, Twin<T> slope, Int rows, Int width, bool add) {
  for (Int i = 0; i < rows; ++i, x = x + width, above = above + width, slope = slope + width) {
    const auto r = inverse_of(x, inverse[i], width), c = dot(x, above, width) * (r * r * r) * (T(1) / width);
    for (Int k = 0; k < width; k += Lanes<T>::n) {
      const auto g = load(above + k) * r - load(x + k) * c;
      store(slope + k, add ? g + load(slope + k) : g);
    }
  }
}
template <class T>
void silu(Twin<T> x, Twin<T> y, Int size) {
  for (Int k = 0; k < size; k += Lanes<T>::n) {
    const auto v = load(x + k);
    store(y + k, v * sigmoid(v));
  }
}
// In place.
template <class T>
void silu_back(Twin<T> x, Twin<T> slope, Int size) {
  for (Int k = 0; k < size; k += Lanes<T>::n) store(slope + k, load(slope + k) * slope_of_silu(load(x + k)));
}
template <class T>
void gate(Twin<T> u, Twin<T> g, Int rows, Int width) {
  for (Int i = 0; i < rows; ++i, u = u + 2 * width, g = g + width)
    for (Int k = 0; k < width; k += Lanes<T>::n) store(g + k, load(u + k) * sigmoid(load(u + (width + k))));
}
// slope of u, and `above` becomes g: both are needed next, and the sigmoids are the price.
template <class T>
void gate_back(Twin<T> u, Twin<T> above, Twin<T> slope, Int rows, Int width) {
  for (Int i = 0; i < rows; ++i, u = u + 2 * width, slope = slope + 2 * width, above = above + width)
    for (Int k = 0; k < width; k += Lanes<T>::n) {
      const auto s = sigmoid(load(u + (width + k))), a = load(above + k), g = load(u + k) * s;
      store(slope + k, a * s);
      store(slope + (width + k), a * g * dual(1 - s.v, -s.d));
      store(above + k, g);
    }
}

// Gradients of weights ------------------------------------------------------------------------------------------

template <class T, int R, int C>
inline void outer_tile(Int rows, const T* x, Int in, const T* panel, T* gradient, Int out) {
  using V = typename Lanes<T>::V;
  constexpr Int n = Lanes<T>::n;
  V sum[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) sum[r][c] = load(gradient + r * out + c * n);
  for (Int k = 0; k < rows; ++k, panel += C * n, x += in) {
    V w[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) w[c] = load(panel + c * n);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const T a = x[r];
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) sum[r][c] += a * w[c];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) store(gradient + r * out + c * n, sum[r][c]);
}
template <class T, int R, int C>
void across(Int rows, const T* x, Int in, Int left, const T* panel, T* gradient, Int out) {
  Int i = 0;
  for (; i + R <= left; i += R) outer_tile<T, R, C>(rows, x + i, in, panel, gradient + i * out, out);
  if constexpr (R > 1)
    if (i < left) across<T, R / 2, C>(rows, x + i, in, left - i, panel, gradient + i * out, out);
}
// gradient (in, out) += xᵀ slope, for rows of x (in) and of the slope (out).
template <class T>
void outer(Int rows, Int in, Int out, const T* x, const T* slope, T* gradient) {
  constexpr Int n = Lanes<T>::n, DEPTH = 128;
  alignas(BYTES) T panel[DEPTH * TILE_WIDTH * n];
  for (Int first = 0; first < rows; first += DEPTH, x += DEPTH * in, slope += DEPTH * out) {
    const Int depth = rows - first < DEPTH ? rows - first : DEPTH;
    for_panels<T>(out, [&](Int c, auto w) {
      constexpr int C = decltype(w)::value;
      for (Int k = 0; k < depth; ++k)
        for (int j = 0; j < C; ++j) store(panel + (k * C + j) * n, load(slope + k * out + c + j * n));
      across<T, TILE_ROWS, C>(depth, x, in, in, panel, gradient + c, out);
    });
  }
}
