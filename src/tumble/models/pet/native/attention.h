#pragma once
// Attention of one atom among its own tokens: the center first, then its pairs.
//
// Channels of queries, keys and values are ordered with the head fastest, so that one register holds all heads of a few
// channels; nothing is transposed or padded.

#include <algorithm>
#include <vector>

#include "lanes.h"

template <class T, int H>
struct Attention {
  using V = typename Lanes<T>::V;
  static constexpr Int n = Lanes<T>::n;
  Int width, length = 0, stride = 0;
  std::vector<T> q, k, v, o, bias, p, s, gq, gk, gv, go, gbias;

  explicit Attention(Int d) : width(d) {}
  void resize(Int tokens, bool is_back) {
    length = tokens;
    stride = (tokens * H + n - 1) / n * n;
    const auto grow = [](std::vector<T>& a, Int size) {
      if (Int(a.size()) < size) a.resize(size);
    };
    for (auto* a : {&q, &k, &v, &o}) grow(*a, tokens * width);
    grow(bias, stride);
    grow(p, (is_back ? tokens + 4 : 4) * stride);
    if (!is_back) return;
    grow(s, (tokens + 4) * stride);
    for (auto* a : {&gq, &gk, &gv, &go}) grow(*a, tokens * width);
    grow(gbias, stride);
  }

  // out[i][j, h] = sum over the channels of head h of a[i] b[j], for Q rows i and all tokens j.
  template <int Q>
  void dots_of(const T* a, const T* b, T* out) const {
    for (Int j = 0; j < length; ++j, b += width) {
      V sum[Q];
      for (int i = 0; i < Q; ++i) sum[i] = fill(T(0));
      for (Int c = 0; c < width; c += n) {
        const V other = load(b + c);
        for (int i = 0; i < Q; ++i) sum[i] += load(a + i * width + c) * other;
      }
      for (int i = 0; i < Q; ++i) fold<T, H>(sum[i], out + i * stride + j * H, [](auto x, auto y) { return x + y; });
    }
    for (int i = 0; i < Q; ++i)
      for (Int c = length * H; c < stride; ++c) out[i * stride + c] = 0;
  }
  void dots(const T* a, const T* b, T* out, Int rows) const {
    switch (rows) {
      case 4: return dots_of<4>(a, b, out);
      case 3: return dots_of<3>(a, b, out);
      case 2: return dots_of<2>(a, b, out);
      default: return dots_of<1>(a, b, out);
    }
  }

  // out = sum_j weight[j, h] rows[j], the weights of consecutive j being `step` apart.
  template <int B>
  void blend_of(const T* weight, Int step, const T* rows, T* out) const {
    V sum[B];
    for (int i = 0; i < B; ++i) sum[i] = fill(T(0));
    for (Int j = 0; j < length; ++j, rows += width, weight += step) {
      const V w = repeat<T, H>(weight);
      for (int i = 0; i < B; ++i) sum[i] += w * load(rows + i * n);
    }
    for (int i = 0; i < B; ++i) store(out + i * n, sum[i]);
  }
  void blend(const T* weight, Int step, const T* rows, T* out) const {
    Int c = 0;
    for (; c + 8 * n <= width; c += 8 * n) blend_of<8>(weight, step, rows + c, out + c);
    for (; c + 4 * n <= width; c += 4 * n) blend_of<4>(weight, step, rows + c, out + c);
    for (; c < width; c += n) blend_of<1>(weight, step, rows + c, out + c);
  }

  void forward(T* log_sum) {
    const auto larger = [](auto x, auto y) { return x > y ? x : y; };
    const auto plus = [](auto x, auto y) { return x + y; };
    for (Int i = 0; i < length; i += 4) {
      const Int rows = std::min<Int>(4, length - i);
      dots(q.data() + i * width, k.data(), p.data(), rows);
      for (Int r = 0; r < rows; ++r) {
        T* line = p.data() + r * stride;
        V top = fill(T(-1e30)), sum = fill(T(0));
        for (Int c = 0; c < stride; c += n) {
          const V x = load(line + c) + load(bias.data() + c);
          store(line + c, x);
          top = x > top ? x : top;
        }
        T head[H], total[H];
        fold<T, H>(top, head, larger);
        top = repeat<T, H>(head);
        for (Int c = 0; c < stride; c += n) {
          const V e = exponential(load(line + c) - top);
          store(line + c, e);
          sum += e;
        }
        fold<T, H>(sum, total, plus);
        for (int h = 0; h < H; ++h) {
          log_sum[(i + r) * H + h] = head[h] + std::log(total[h]);
          total[h] = 1 / total[h];
        }
        T* out = o.data() + (i + r) * width;
        blend(line, H, v.data(), out);
        const V scale = repeat<T, H>(total);
        for (Int c = 0; c < width; c += n) store(out + c, load(out + c) * scale);
      }
    }
  }

  void backward(const T* log_sum) {
    std::fill(gbias.begin(), gbias.begin() + stride, T(0));
    for (Int i = 0; i < length; i += 4) {
      const Int rows = std::min<Int>(4, length - i);
      dots(q.data() + i * width, k.data(), p.data() + i * stride, rows);
      dots(go.data() + i * width, v.data(), s.data() + i * stride, rows);
      for (Int r = i; r < i + rows; ++r) {
        T *weight = p.data() + r * stride, *slope = s.data() + r * stride, total[H];
        const V lse = repeat<T, H>(log_sum + r * H);
        V sum = fill(T(0));
        for (Int c = 0; c < stride; c += n) {
          const V w = exponential(load(weight + c) + load(bias.data() + c) - lse);
          store(weight + c, w);
          sum += w * load(slope + c);
        }
        fold<T, H>(sum, total, [](auto x, auto y) { return x + y; });
        sum = repeat<T, H>(total);
        for (Int c = 0; c < stride; c += n) {
          const V g = load(weight + c) * (load(slope + c) - sum);
          store(slope + c, g);
          store(gbias.data() + c, load(gbias.data() + c) + g);
        }
        blend(slope, H, k.data(), gq.data() + r * width);
      }
    }
    for (Int j = 0; j < length; ++j) {
      blend(p.data() + j * H, stride, go.data(), gv.data() + j * width);
      blend(s.data() + j * H, stride, q.data(), gk.data() + j * width);
    }
  }
};

// act(std::integral_constant<int, heads>); 1 for a number of heads that is not known, else 0.
template <class T, class Do>
int with_heads(Int heads, Do&& act) {
  switch (heads) {
    case 1: act(std::integral_constant<int, 1>{}); return 0;
    case 2: act(std::integral_constant<int, 2>{}); return 0;
    case 4: act(std::integral_constant<int, 4>{}); return 0;
    case 8: act(std::integral_constant<int, 8>{}); return 0;
  }
  if constexpr (Lanes<T>::n >= 16)
    if (heads == 16) return act(std::integral_constant<int, 16>{}), 0;
  return 1;
}
