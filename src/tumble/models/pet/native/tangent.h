#pragma once
// The trunk along a direction: what its activations change by when inputs and factors change by a little.

#include "dual_attention.h"
#include "trunk.h"

// What the second pass wants kept beside `Saved`.
template <class T>
struct Kept {
  struct Transform {
    T *node, *center_answer, *answer;  // (N, M) before it; what centers (N, D) and pairs (P, D) attended to
  };
  std::vector<std::vector<Transform>> layers;
  std::vector<T*> messages;  // (P, D) after every layer
  T* node;                   // (N, M) after the last layer
  Int size;
  Kept(const Shape& s, T* start) {
    size = Saved<T>(s, nullptr).size;
    const auto next = [&](Int n) {
      T* here = start ? start + size : nullptr;
      size += (n + 15) / 16 * 16;
      return here;
    };
    layers.resize(s.n_layers);
    for (auto& layer : layers) {
      layer.resize(s.n_attention);
      for (auto& t : layer) {
        t.node = next(s.n_atoms * s.d_node), t.center_answer = next(s.n_atoms * s.width);
        t.answer = next(s.n_pairs * s.width);
      }
      messages.push_back(next(s.n_pairs * s.width));
    }
    node = next(s.n_atoms * s.d_node);
  }
};

template <class T, int H>
struct Tangent {
  using Plain = Trunk<T, H>;
  static constexpr Int n = Lanes<T>::n;
  const Plain trunk;
  const Shape& s;
  const Where& where;
  const Int N, P, D, F, M;
  const Weights<T>& weights;
  const Saved<T>& saved;
  const Kept<T> kept;
  const Twin<T> inputs, factor;

  // The workspace holds all values, then the tangents in the same order.
  Tangent(const Shape& shape, const Where& graph, const void* const* w, T* workspace, Twin<T> x, Twin<T> f)
      : trunk(shape, graph, w, workspace, x.v, f.v), s(trunk.s), where(trunk.where), N(trunk.N), P(trunk.P), D(trunk.D),
        F(trunk.F), M(trunk.M), weights(trunk.weights), saved(trunk.saved), kept(shape, workspace), inputs(x), factor(f) {}
  Twin<T> at(T* p) const { return {p, p + kept.size}; }
  static void forth(Int rows, Int out, Int in, const T* x, const Matrix<T>& w, T* y, bool add) {
    Plain::forth(rows, out, in, x, w, y, add);
  }

  struct Scratch {
    Buffer<T> a, b, c, d, e, sums;
    DualAttention<T, H> attention;
    explicit Scratch(Int width) : attention(width) {}
  };
  Int first_pair(Int chunk) const { return where.starts[trunk.chunks[chunk]]; }

  // The plain way there, keeping more ----------------------------------------------------------------------------

  void forward(const T* embedded, const T* condition, T* node, T* messages, T* energies) const {
    std::memcpy(node, embedded, N * M * sizeof(T));
    const Int n_pairs = Int(trunk.pairs.size()), last = s.n_attention - 1;
    const auto before = [&](auto& w, Int l, Int a, Int i, Int rows) {
      std::memcpy(kept.layers[l][a].node + i * M, node + i * M, rows * M * sizeof(T));
      trunk.center_before(w, l, a, i, rows, node);
    };
#pragma omp parallel num_threads(int(s.n_threads))
    {
      typename Plain::Scratch w(D);
#pragma omp for schedule(dynamic)
      for (Int i = 0; i < N; i += trunk.node_rows) before(w, 0, 0, i, std::min(trunk.node_rows, N - i));
      for (Int l = 0; l < s.n_layers; ++l) {
        for (Int a = 0; a <= last; ++a) {
#pragma omp for schedule(dynamic)
          for (Int c = 0; c < trunk.n_chunks(); ++c) {
            const Int e = first_pair(c), rows = first_pair(c + 1) - e;
            if (!a) trunk.tokens(w, l, e, rows, messages);
            trunk.transform(w, l, a, c);
          }
#pragma omp for schedule(dynamic)
          for (Int i = 0; i < N; i += trunk.node_rows) {
            const Int rows = std::min(trunk.node_rows, N - i);
            trunk.center_after(w, l, a, i, rows, node);
            if (a == last && condition)
              for (Int k = i * M; k < (i + rows) * M; k += n) store(node + k, load(node + k) + load(condition + k));
            if (a < last) before(w, l, a + 1, i, rows);
            else if (l + 1 < s.n_layers) before(w, l + 1, 0, i, rows);
            else std::memcpy(kept.node + i * M, node + i * M, rows * M * sizeof(T));
          }
        }
#pragma omp for schedule(dynamic)
        for (Int p = 0; p < n_pairs; p += trunk.pair_rows)
          trunk.combine(w, l, p, std::min(trunk.pair_rows, n_pairs - p), messages);
#pragma omp for schedule(static)
        for (Int p = 0; p < P; ++p) std::memcpy(kept.messages[l] + p * D, messages + p * D, D * sizeof(T));
      }
#pragma omp for schedule(dynamic)
      for (Int i = 0; i < N; i += trunk.node_rows)
        trunk.head(w, weights.center, saved.center, i, std::min(trunk.node_rows, N - i), node, M);
#pragma omp for schedule(dynamic)
      for (Int c = 0; c < trunk.n_chunks(); ++c) {
        const Int e = first_pair(c);
        trunk.head(w, weights.pair, saved.pair, e, first_pair(c + 1) - e, messages, D);
        for (Int i = trunk.chunks[c]; i < trunk.chunks[c + 1]; ++i) {
          energies[i] = saved.center.value[i];
          for (Int p = where.starts[i]; p < where.starts[i + 1]; ++p) energies[i] += factor.v[p] * saved.pair.value[p];
        }
      }
    }
  }

  // The way there along the direction: the steps of trunk.h ------------------------------------------------------

  void gather(DualAttention<T, H>& at_, const typename Saved<T>::Transform& t, Int i, bool is_back) const {
    const Int first = where.starts[i], count = where.starts[i + 1] - first;
    at_.resize(count + 1, is_back);
    const auto row = [&](Int place, Twin<T> qkv) {
      copy(at_.q + place * D, qkv, D), copy(at_.k + place * D, qkv + D, D), copy(at_.v + place * D, qkv + 2 * D, D);
    };
    row(0, at(t.center_qkv + i * 3 * D));
    for (Int p = 0; p < count; ++p) row(p + 1, at(t.edge_qkv + (first + p) * 3 * D));
    std::fill(at_.bias.v, at_.bias.v + at_.stride, T(-1e30)), std::fill(at_.bias.d, at_.bias.d + at_.stride, T(0));
    for (int h = 0; h < H; ++h) at_.bias.v[h] = 0;
    for (Int p = 1; p <= count; ++p) {
      const Dual<T> bias = log_of(factor[first + p - 1]);
      for (int h = 0; h < H; ++h) at_.bias.v[p * H + h] = bias.v, at_.bias.d[p * H + h] = bias.d;
    }
  }
  static Dual<T> log_of(Dual<T> f) {
    const T least = 1e-15;
    return f.v > least ? dual(std::log(f.v), f.d / f.v) : dual(std::log(least), T(0));
  }
  const T* sums_of(Scratch& w, const typename Saved<T>::Transform& t, Int i) const {
    const Int first = where.starts[i], count = where.starts[i + 1] - first;
    T* sum = w.sums.get((count + 1) * H);
    std::memcpy(sum, t.center_sum + i * H, H * sizeof(T));
    std::memcpy(sum + H, t.edge_sum + first * H, count * H * sizeof(T));
    return sum;
  }

  void tokens(Scratch& w, Int l, Int e, Int rows) const {
    const auto& layer = weights.layers[l];
    const Twin<T> hidden = at(saved.layers[l].hidden) + e * D, active = w.a.twin(rows * D);
    forth(rows, D, s.n_inputs, inputs.d + e * s.n_inputs, layer.inputs, hidden.d, false);
    if (l) forth(rows, D, D, at(kept.messages[l - 1]).d + e * D, layer.messages, hidden.d, true);
    silu(hidden, active, rows * D);
    forth(rows, D, D, active.d, layer.tokens, at(saved.layers[l].transforms[0].edge).d + e * D, false);
  }
  void transform(Scratch& w, Int l, Int a, Int c) const {
    const auto& weight = weights.layers[l].transforms[a];
    const auto& t = saved.layers[l].transforms[a];
    const auto& more = kept.layers[l][a];
    const Int first = trunk.chunks[c], e = where.starts[first], rows = first_pair(c + 1) - e;
    const Twin<T> y = w.a.twin(rows * D), x = at(t.edge) + e * D, middle = at(t.middle) + e * D;
    normalise(x, t.edge_norm + e, y, rows, D);
    forth(rows, 3 * D, D, y.d, weight.qkv, at(t.edge_qkv).d + e * 3 * D, false);
    for (Int i = first; i < trunk.chunks[c + 1]; ++i) {
      gather(w.attention, t, i, false);
      w.attention.forward(sums_of(w, t, i));
      const Int start = where.starts[i], count = where.starts[i + 1] - start;
      copy(at(more.center_answer) + i * D, w.attention.o, D);
      copy(at(more.answer) + start * D, w.attention.o + D, count * D);
    }
    std::memcpy(middle.d, x.d, rows * D * sizeof(T));
    forth(rows, D, D, at(more.answer).d + e * D, weight.out, middle.d, true);
    normalise(middle, t.middle_norm + e, y, rows, D);
    const Twin<T> up = at(t.up) + e * 2 * F, gated = w.b.twin(rows * F);
    forth(rows, 2 * F, D, y.d, weight.in_mlp, up.d, false);
    gate(up, gated, rows, F);
    const bool is_last = a + 1 == s.n_attention;
    T* out = at(is_last ? saved.layers[l].tokens : saved.layers[l].transforms[a + 1].edge).d + e * D;
    std::memcpy(out, middle.d, rows * D * sizeof(T));
    forth(rows, D, F, gated.d, weight.out_mlp, out, true);
  }
  void center_before(Scratch& w, Int l, Int a, Int i, Int rows) const {
    const auto& weight = weights.layers[l].transforms[a];
    const auto& t = saved.layers[l].transforms[a];
    const Twin<T> center = at(t.center) + i * D, y = w.a.twin(rows * D);
    const T* node = at(kept.layers[l][a].node).d + i * M;
    if (s.is_wide) forth(rows, D, M, node, weight.contraction, center.d, false);
    else std::memcpy(center.d, node, rows * D * sizeof(T));
    normalise(center, t.center_norm + i, y, rows, D);
    forth(rows, 3 * D, D, y.d, weight.qkv, at(t.center_qkv).d + i * 3 * D, false);
  }
  T* node_after(Int l, Int a) const {
    if (a + 1 < s.n_attention) return kept.layers[l][a + 1].node;
    return l + 1 < s.n_layers ? kept.layers[l + 1][0].node : kept.node;
  }
  void center_after(Scratch& w, Int l, Int a, Int i, Int rows) const {
    const auto& weight = weights.layers[l].transforms[a];
    const auto& t = saved.layers[l].transforms[a];
    T* after = at(node_after(l, a)).d + i * M;
    T* answer = s.is_wide ? w.a.get(rows * D) : after;
    forth(rows, D, D, at(kept.layers[l][a].center_answer).d + i * D, weight.out, answer, false);
    if (!s.is_wide) return;
    const Twin<T> x = at(t.node) + i * M, up = at(t.node_up) + i * 4 * M, y = w.b.twin(rows * M), gated = w.c.twin(rows * 2 * M);
    std::memcpy(x.d, at(kept.layers[l][a].node).d + i * M, rows * M * sizeof(T));
    forth(rows, M, D, answer, weight.expansion, x.d, true);
    normalise(x, t.node_norm + i, y, rows, M);
    forth(rows, 4 * M, M, y.d, weight.in_node, up.d, false);
    gate(up, gated, rows, 2 * M);
    std::memcpy(after, x.d, rows * M * sizeof(T));
    forth(rows, M, 2 * M, gated.d, weight.out_node, after, true);
  }
  void combine(Scratch& w, Int l, Int first, Int rows) const {
    const auto& weight = weights.layers[l];
    const auto& here = saved.layers[l];
    T *sum = w.a.get(2 * rows * D), *difference = sum + rows * D;
    for (Int r = 0; r < rows; ++r) {
      const Int p = trunk.pairs[first + r], q = where.reverse[p];
      const Twin<T> x = at(here.tokens) + p * D, y = at(here.tokens) + q * D;
      const T mean = here.mean[p], scale = here.scale[p];
      auto total_ = fill(T(0)), spread = fill(T(0));
      for (Int k = 0; k < D; k += n) {
        const auto a = load(x + k), b = load(y + k);
        store(sum + r * D + k, a.d + b.d), store(difference + r * D + k, a.d - b.d);
        total_ += a.d + b.d;
        spread += (a.v - mean) * a.d + (b.v - mean) * b.d;
      }
      at(here.mean).d[p] = total(total_) / (2 * D);
      at(here.scale).d[p] = -scale * scale * scale * total(spread) / (2 * D);
    }
    T *even = w.b.get(4 * rows * D), *odd = even + 2 * rows * D;
    forth(rows, 2 * D, D, sum, weight.even, even, false);
    forth(rows, 2 * D, D, difference, weight.odd, odd, false);
    T *active = w.c.get(4 * rows * D), *out = even;
    for (Int r = 0; r < rows; ++r) {
      const Int p = trunk.pairs[first + r], q = where.reverse[p];
      const Dual<T> scale = at(here.scale)[p];
      const T mean = at(here.mean).d[p], stretch = scale.d / scale.v;
      const Twin<T> x = at(here.both) + p * 2 * D, y = at(here.both) + q * 2 * D;
      for (Int k = 0; k < 2 * D; k += n) {
        const auto e = load(even + r * 2 * D + k) - load(weight.mean + k) * mean, o = load(odd + r * 2 * D + k);
        const auto c = load(weight.constant + k), xv = load(x.v + k), yv = load(y.v + k);
        const auto one = dual(xv, (e + o) * scale.v + (xv - c) * stretch);
        const auto other = dual(yv, (e - o) * scale.v + (yv - c) * stretch);
        store(x.d + k, one.d), store(y.d + k, other.d);
        store(active + 2 * r * 2 * D + k, (one * sigmoid(one)).d);
        store(active + (2 * r + 1) * 2 * D + k, (other * sigmoid(other)).d);
      }
    }
    forth(2 * rows, D, 2 * D, active, weight.combine, out, false);
    T* messages = at(kept.messages[l]).d;
    for (Int r = 0; r < 2 * rows; ++r) {
      const Int pair = trunk.pairs[first + r / 2], p = r % 2 ? where.reverse[pair] : pair;
      const T *tokens = at(here.tokens).d + p * D, *old = l ? at(kept.messages[l - 1]).d + p * D : nullptr;
      for (Int k = 0; k < D; k += n) {
        const auto sum_ = load(tokens + k) + load(out + r * D + k);
        store(messages + p * D + k, old ? sum_ + load(old + k) : sum_);
      }
    }
  }
  void head(Scratch& w, const typename Weights<T>::Head& weight, const typename Saved<T>::Head& here, Int row, Int rows,
            const T* x, Int width) const {
    const Int K = s.d_head;
    const Twin<T> first = at(here.first) + row * K, second = at(here.second) + row * K, active = w.a.twin(rows * K);
    forth(rows, K, width, x + row * width, weight.first, first.d, false);
    silu(first, active, rows * K);
    forth(rows, K, K, active.d, weight.second, second.d, false);
    for (Int r = 0; r < rows; ++r) {
      auto sum = fill(T(0));
      for (Int k = 0; k < K; k += n) {
        const auto v = load(second + (r * K + k));
        sum += (v * sigmoid(v)).d * load(weight.last + k);
      }
      at(here.value).d[row + r] = total(sum);
    }
  }

  void along() const {
    const Int n_pairs = Int(trunk.pairs.size()), last = s.n_attention - 1;
    T* start = at(kept.layers[0][0].node).d;
    std::fill(start, start + N * M, T(0));
#pragma omp parallel num_threads(int(s.n_threads))
    {
      Scratch w(D);
#pragma omp for schedule(dynamic)
      for (Int i = 0; i < N; i += trunk.node_rows) center_before(w, 0, 0, i, std::min(trunk.node_rows, N - i));
      for (Int l = 0; l < s.n_layers; ++l) {
        for (Int a = 0; a <= last; ++a) {
#pragma omp for schedule(dynamic)
          for (Int c = 0; c < trunk.n_chunks(); ++c) {
            if (!a) tokens(w, l, first_pair(c), first_pair(c + 1) - first_pair(c));
            transform(w, l, a, c);
          }
#pragma omp for schedule(dynamic)
          for (Int i = 0; i < N; i += trunk.node_rows) {
            const Int rows = std::min(trunk.node_rows, N - i);
            center_after(w, l, a, i, rows);
            if (a < last) center_before(w, l, a + 1, i, rows);
            else if (l + 1 < s.n_layers) center_before(w, l + 1, 0, i, rows);
          }
        }
#pragma omp for schedule(dynamic)
        for (Int p = 0; p < n_pairs; p += trunk.pair_rows) combine(w, l, p, std::min(trunk.pair_rows, n_pairs - p));
      }
#pragma omp for schedule(dynamic) nowait
      for (Int i = 0; i < N; i += trunk.node_rows)
        head(w, weights.center, saved.center, i, std::min(trunk.node_rows, N - i), at(kept.node).d, M);
#pragma omp for schedule(dynamic)
      for (Int c = 0; c < trunk.n_chunks(); ++c) {
        const Int e = first_pair(c);
        head(w, weights.pair, saved.pair, e, first_pair(c + 1) - e, at(kept.messages.back()).d, D);
      }
    }
  }
};
