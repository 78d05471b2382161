#pragma once
// attention.h for dual numbers: the way there along a direction, and the way back with its derivative along it.

#include <algorithm>

#include "attention.h"
#include "dual.h"

template <class T, int H>
struct DualAttention {
  using V = typename Lanes<T>::V;
  static constexpr Int n = Lanes<T>::n;
  Int width, length = 0, stride = 0;
  Twin<T> q, k, v, o, bias, p, s, gq, gk, gv, gbias;  // o: answers, and on the way back their slopes
  Buffer<T> memory;

  explicit DualAttention(Int d) : width(d) {}
  void resize(Int tokens, bool is_back) {
    length = tokens;
    stride = (tokens * H + n - 1) / n * n;
    const Int wide = tokens * width, square = (is_back ? tokens : 4) * stride;
    T* next = memory.get(2 * ((is_back ? 7 : 4) * wide + 2 * stride + (is_back ? 2 : 1) * square));
    const auto take = [&](Int size) {
      T* here = next;
      next += 2 * size;
      return Twin<T>{here, here + size};
    };
    for (auto* a : {&q, &k, &v, &o}) *a = take(wide);
    bias = take(stride), gbias = take(stride), p = take(square);
    if (!is_back) return;
    for (auto* a : {&gq, &gk, &gv}) *a = take(wide);
    s = take(square);
  }

  template <int Q>
  void dots_of(Twin<T> a, Twin<T> b, Twin<T> out) const {
    const auto plus = [](auto x, auto y) { return x + y; };
    for (Int j = 0; j < length; ++j, b = b + width) {
      V sum[Q], rate[Q];
#pragma GCC unroll 4
      for (int i = 0; i < Q; ++i) sum[i] = rate[i] = fill(T(0));
      for (Int c = 0; c < width; c += n) {
        const V bv = load(b.v + c), bd = load(b.d + c);
#pragma GCC unroll 4
        for (int i = 0; i < Q; ++i) {
          const V av = load(a.v + i * width + c);
          sum[i] += av * bv;
          rate[i] += av * bd;
          rate[i] += load(a.d + i * width + c) * bv;
        }
      }
#pragma GCC unroll 4
      for (int i = 0; i < Q; ++i) {
        fold<T, H>(sum[i], out.v + i * stride + j * H, plus);
        fold<T, H>(rate[i], out.d + i * stride + j * H, plus);
      }
    }
    for (int i = 0; i < Q; ++i)
      for (Int c = length * H; c < stride; ++c) out.v[i * stride + c] = out.d[i * stride + c] = 0;
  }
  void dots(Twin<T> a, Twin<T> b, Twin<T> out, Int rows) const {
    switch (rows) {
      case 4: return dots_of<4>(a, b, out);
      case 3: return dots_of<3>(a, b, out);
      case 2: return dots_of<2>(a, b, out);
      default: return dots_of<1>(a, b, out);
    }
  }

  template <int B>
  void blend_of(Twin<T> weight, Int step, Twin<T> rows, Twin<T> out) const {
    V sum[B], rate[B], other[B];
#pragma GCC unroll 4
    for (int i = 0; i < B; ++i) sum[i] = rate[i] = other[i] = fill(T(0));
    for (Int j = 0; j < length; ++j, rows = rows + width, weight = weight + step) {
      const V w = repeat<T, H>(weight.v), d = repeat<T, H>(weight.d);
#pragma GCC unroll 4
      for (int i = 0; i < B; ++i) {
        const V x = load(rows.v + i * n);
        sum[i] += w * x;
        rate[i] += w * load(rows.d + i * n);
        other[i] += d * x;
      }
    }
    for (int i = 0; i < B; ++i) store(out.v + i * n, sum[i]), store(out.d + i * n, rate[i] + other[i]);
  }
  void blend(Twin<T> weight, Int step, Twin<T> rows, Twin<T> out) const {
    Int c = 0;
    for (; c + 4 * n <= width; c += 4 * n) blend_of<4>(weight, step, rows + c, out + c);
    for (; c < width; c += n) blend_of<1>(weight, step, rows + c, out + c);
  }

  // Weights of one query from its logits, in place.
  void soften(Twin<T> line, const T* log_sum) const {
    const auto plus = [](auto x, auto y) { return x + y; };
    const V lse = repeat<T, H>(log_sum);
    V sum = fill(T(0));
    for (Int c = 0; c < stride; c += n) {
      const auto x = load(line + c) + load(bias + c);
      const V w = exponential(x.v - lse);
      store(line.v + c, w), store(line.d + c, x.d);
      sum += w * x.d;
    }
    T mean[H];
    fold<T, H>(sum, mean, plus);
    sum = repeat<T, H>(mean);
    for (Int c = 0; c < stride; c += n) store(line.d + c, load(line.v + c) * (load(line.d + c) - sum));
  }

  // Answers of all tokens; log_sum (length, H) was kept from the plain way.
  void forward(const T* log_sum) {
    for (Int i = 0; i < length; i += 4) {
      const Int rows = std::min<Int>(4, length - i);
      dots(q + i * width, k, p, rows);
      for (Int r = 0; r < rows; ++r) {
        soften(p + r * stride, log_sum + (i + r) * H);
        blend(p + r * stride, H, v, o + (i + r) * width);
      }
    }
  }

  // o holds the slopes of the answers.
  void backward(const T* log_sum) {
    const auto plus = [](auto x, auto y) { return x + y; };
    std::fill(gbias.v, gbias.v + stride, T(0)), std::fill(gbias.d, gbias.d + stride, T(0));
    for (Int i = 0; i < length; i += 4) {
      const Int rows = std::min<Int>(4, length - i);
      dots(q + i * width, k, p + i * stride, rows);
      dots(o + i * width, v, s + i * stride, rows);
      for (Int r = i; r < i + rows; ++r) {
        const Twin<T> weight = p + r * stride, slope = s + r * stride;
        soften(weight, log_sum + r * H);
        auto sum = dual(fill(T(0)), fill(T(0)));
        for (Int c = 0; c < stride; c += n) sum = sum + load(weight + c) * load(slope + c);
        T mean[H], rate[H];
        fold<T, H>(sum.v, mean, plus), fold<T, H>(sum.d, rate, plus);
        sum = dual(repeat<T, H>(mean), repeat<T, H>(rate));
        for (Int c = 0; c < stride; c += n) {
          const auto g = load(weight + c) * (load(slope + c) - sum);
          store(slope + c, g);
          store(gbias + c, load(gbias + c) + g);
        }
        blend(slope, H, k, gq + r * width);
      }
    }
    for (Int j = 0; j < length; ++j) {
      blend(p + j * H, stride, o, gv + j * width);
      blend(s + j * H, stride, q, gk + j * width);
    }
  }
};
