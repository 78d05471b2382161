#pragma once
// What stands between the matrix products: norms, gates, and their ways back. Widths are multiples of a register.

#include "lanes.h"

// y = x / rms(x), keeping 1/rms.
template <class T>
void normalise(const T* x, T* y, T* inverse, Int rows, Int width, T eps) {
  for (Int i = 0; i < rows; ++i, x += width, y += width) {
    const T r = 1 / std::sqrt(dot(x, x, width) / width + eps);
    inverse[i] = r;
    for (Int k = 0; k < width; k += Lanes<T>::n) store(y + k, load(x + k) * r);
  }
}
// slope (of x) += what comes back through normalise from `above` (of y).
template <class T>
void normalise_back(const T* x, const T* inverse, const T* above, T* slope, Int rows, Int width, bool add) {
  for (Int i = 0; i < rows; ++i, x += width, above += width, slope += width) {
    const T r = inverse[i], c = dot(x, above, width) * r * r * r / width;
    for (Int k = 0; k < width; k += Lanes<T>::n) {
      auto g = load(above + k) * r - load(x + k) * c;
      store(slope + k, add ? g + load(slope + k) : g);
    }
  }
}

// A gated unit: u = (value, gate), g = value sigmoid(gate).
template <class T>
void gate(const T* u, T* g, Int rows, Int width) {
  for (Int i = 0; i < rows; ++i, u += 2 * width, g += width)
    for (Int k = 0; k < width; k += Lanes<T>::n) store(g + k, load(u + k) * sigmoid(load(u + width + k)));
}
template <class T>
void gate_back(const T* u, const T* above, T* slope, Int rows, Int width) {
  for (Int i = 0; i < rows; ++i, u += 2 * width, slope += 2 * width, above += width)
    for (Int k = 0; k < width; k += Lanes<T>::n) {
      const auto s = sigmoid(load(u + width + k)), a = load(above + k);
      store(slope + k, a * s);
      store(slope + width + k, a * load(u + k) * s * (1 - s));
    }
}
template <class T>
void silu_back(const T* x, T* slope, Int n) {  // in place
  for (Int k = 0; k < n; k += Lanes<T>::n) {
    const auto v = load(x + k), s = sigmoid(v);
    store(slope + k, load(slope + k) * s * (1 + v * (1 - s)));
  }
}

