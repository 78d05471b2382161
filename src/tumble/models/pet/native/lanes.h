#pragma once
// Registers of 64 bytes, as the compiler's vectors: one register with AVX-512, several without.

#include <cmath>
#include <cstdint>
#include <cstring>

using Int = int64_t;
constexpr int BYTES = 64;

template <class T>
struct Lanes {
  typedef T V __attribute__((vector_size(BYTES)));
  typedef T U __attribute__((vector_size(BYTES), aligned(sizeof(T)), may_alias));
  static constexpr Int n = BYTES / sizeof(T);
};
template <class T>
inline typename Lanes<T>::V load(const T* p) {
  return *reinterpret_cast<const typename Lanes<T>::U*>(p);
}
template <class T>
inline void store(T* p, typename Lanes<T>::V v) {
  *reinterpret_cast<typename Lanes<T>::U*>(p) = v;
}
template <class T>
inline typename Lanes<T>::V fill(T x) {
  return x - typename Lanes<T>::V{};
}

// exp by range reduction to |r| <= ln2/2 and its Taylor polynomial of degree 7: one unit in the last place.
typedef int32_t Ints __attribute__((vector_size(BYTES)));
inline Lanes<float>::V exponential(Lanes<float>::V x) {
  using V = Lanes<float>::V;
  const V low = fill(-87.0f), high = fill(88.0f), magic = fill(12582912.0f);
  x = x < low ? low : x;
  x = x > high ? high : x;
  const V n = (x * 1.44269504088896341f + magic) - magic;
  const V r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  V p = r * (1.0f / 5040) + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const Ints bits = (__builtin_convertvector(n, Ints) + 127) << 23;
  V scale;
  std::memcpy(&scale, &bits, BYTES);
  return p * scale;
}
inline Lanes<double>::V exponential(Lanes<double>::V x) {
  for (int i = 0; i < 8; ++i) x[i] = std::exp(x[i]);
  return x;
}
template <class V>
inline V sigmoid(V x) {
  return 1 / (1 + exponential(-x));
}

// Sum (or largest) over the channels that share a register, leaving one number per head; and the way back.
template <class T, int N>
struct Part {  // N numbers of a register
  typedef T V __attribute__((vector_size(N * sizeof(T))));
};
template <class T>
struct Part<T, 1> {
  using V = T;
};
template <class T, int N, int H, class F>
inline void fold_part(typename Part<T, N>::V v, T* out, F f) {
  if constexpr (N == H) {
    std::memcpy(out, &v, sizeof v);
  } else {
    typename Part<T, N / 2>::V half[2];
    std::memcpy(half, &v, sizeof v);
    fold_part<T, N / 2, H>(f(half[0], half[1]), out, f);
  }
}
template <class T, int H, class F>
inline void fold(typename Lanes<T>::V v, T* out, F f) {
  fold_part<T, Lanes<T>::n, H>(v, out, f);
}
template <class T, int H>
inline typename Lanes<T>::V repeat(const T* p) {
  typename Lanes<T>::V v;
  for (Int i = 0; i < Lanes<T>::n / H; ++i) std::memcpy(reinterpret_cast<T*>(&v) + i * H, p, H * sizeof(T));
  return v;
}

template <class T>
T dot(const T* a, const T* b, Int width) {
  auto s = fill(T(0));
  for (Int k = 0; k < width; k += Lanes<T>::n) s += load(a + k) * load(b + k);
  T total = 0;
  for (Int i = 0; i < Lanes<T>::n; ++i) total += s[i];
  return total;
}

