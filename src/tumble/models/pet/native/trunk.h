#pragma once
// The trunk: layers of attention within atoms and of exchange between them, and the head of the energy.

#include "attention.h"
#include "layers.h"
#include "memory.h"

constexpr Int ROWS = 192;  // tokens in one chunk: enough for the matrix products, few enough for the second-level cache

struct Where {  // the graph
  const Int *starts, *neighbor_species, *reverse;
};

template <class T, int H>
struct Trunk {
  static constexpr Int n = Lanes<T>::n;
  const Shape& s;
  const Where& where;
  const Int N, P, D, F, M;
  const Weights<T> weights;
  const Saved<T> saved;
  const T *inputs, *factor;
  std::vector<Int> chunks, pairs;  // first atom of every chunk; the pairs p < reverse[p]
  Int node_rows, pair_rows;

  Trunk(const Shape& shape, const Where& graph, const void* const* w, T* workspace, const T* x, const T* f)
      : s(shape), where(graph), N(s.n_atoms), P(s.n_pairs), D(s.width), F(s.d_feedforward), M(s.d_node), weights(s, w),
        saved(s, workspace), inputs(x), factor(f) {
    chunks.push_back(0);
    for (Int i = 1; i < N; ++i)
      if (tokens_before(i + 1) - tokens_before(chunks.back()) > share(P + N - tokens_before(chunks.back()), ROWS)) chunks.push_back(i);
    chunks.push_back(N);
    pairs.reserve(P / 2);
    for (Int p = 0; p < P; ++p)
      if (p < where.reverse[p]) pairs.push_back(p);
    node_rows = std::max<Int>(16, even_share(N));  // few rows spend their time on reading weights
    pair_rows = even_share(Int(pairs.size()));
  }
  Int tokens_before(Int atom) const { return where.starts[atom] + atom; }
  // Rows of the next chunk: fewer towards the end, so that no thread waits long for another.
  Int share(Int left, Int most) const { return std::clamp<Int>(left / s.n_threads, most / 4, most); }
  // Rows of one of so many blocks, of ROWS / 2 at most, that all threads get as many.
  Int even_share(Int rows) const {
    const Int turns = (rows + ROWS / 2 * s.n_threads - 1) / (ROWS / 2 * s.n_threads);
    return std::max<Int>(1, (rows + turns * s.n_threads - 1) / std::max<Int>(1, turns * s.n_threads));
  }
  // y = x W + bias (or + y), and the way back, slope Wᵀ (+ y); W is (in, out).
  static void forth(Int rows, Int out, Int in, const T* x, const Matrix<T>& w, T* y, bool add) {
    product(rows, out, in, x, w.forth, y, static_cast<const T*>(nullptr), add);
  }
  static void forth(Int rows, Int out, Int in, const T* x, const Matrix<T>& w, T* y, const T* bias) {
    product(rows, out, in, x, w.forth, y, bias, false);
  }
  static void back(Int rows, Int out, Int in, const T* slope, const Matrix<T>& w, T* y, bool add) {
    product(rows, in, out, slope, w.back, y, static_cast<const T*>(nullptr), add);
  }
  Int n_chunks() const { return Int(chunks.size()) - 1; }

  struct Scratch {
    std::vector<T> a, b, c, d, qkv, up;
    Attention<T, H> attention;
    explicit Scratch(Int width) : attention(width) {}
    static T* get(std::vector<T>& v, Int size) {
      if (Int(v.size()) < size) v.resize(size);
      return v.data();
    }
  };

  // Queries, keys and values of one atom to its attention: center first, then its pairs, whose first is at `edge_qkv`.
  void gather(Attention<T, H>& at, const typename Saved<T>::Transform& t, const T* edge_qkv, Int i, bool is_back) const {
    const Int first = where.starts[i], count = where.starts[i + 1] - first;
    at.resize(count + 1, is_back);
    const auto row = [&](Int place, const T* qkv) {
      std::memcpy(at.q.data() + place * D, qkv, D * sizeof(T));
      std::memcpy(at.k.data() + place * D, qkv + D, D * sizeof(T));
      std::memcpy(at.v.data() + place * D, qkv + 2 * D, D * sizeof(T));
    };
    row(0, t.center_qkv + i * 3 * D);
    for (Int p = 0; p < count; ++p) row(p + 1, edge_qkv + p * 3 * D);
    std::fill(at.bias.begin(), at.bias.begin() + at.stride, T(-1e30));
    for (Int p = 0; p <= count; ++p)
      std::fill_n(at.bias.begin() + p * H, H, p ? std::log(std::max(factor[first + p - 1], T(1e-15))) : T(0));
  }

  void tokens(Scratch& w, Int l, Int e, Int rows, const T* messages) const {
    const auto& layer = weights.layers[l];
    T* hidden = saved.layers[l].hidden + e * D;
    for (Int p = 0; p < rows; ++p)
      std::memcpy(hidden + p * D, layer.species + where.neighbor_species[e + p] * D, D * sizeof(T));
    forth(rows, D, s.n_inputs, inputs + e * s.n_inputs, layer.inputs, hidden, true);
    if (l) forth(rows, D, D, messages + e * D, layer.messages, hidden, true);
    T* active = Scratch::get(w.a, rows * D);
    for (Int k = 0; k < rows * D; k += n) store(active + k, load(hidden + k) * sigmoid(load(hidden + k)));
    T* out = saved.layers[l].transforms[0].edge + e * D;
    forth(rows, D, D, active, layer.tokens, out, layer.tokens_bias);
  }

  // Queries, keys and values of the pairs from e on, and what is gated; kept, or computed again where memory is short.
  T* qkv_of(Scratch& w, Int l, Int a, Int e, Int rows) const {
    const auto& weight = weights.layers[l].transforms[a];
    const auto& t = saved.layers[l].transforms[a];
    T *y = Scratch::get(w.a, rows * D), *qkv = s.is_lean ? Scratch::get(w.qkv, rows * 3 * D) : t.edge_qkv + e * 3 * D;
    normalise(t.edge + e * D, y, t.edge_norm + e, rows, D, T(s.eps));
    forth(rows, 3 * D, D, y, weight.qkv, qkv, weight.qkv_bias);
    return qkv;
  }
  T* up_of(Scratch& w, Int l, Int a, Int e, Int rows) const {
    const auto& weight = weights.layers[l].transforms[a];
    const auto& t = saved.layers[l].transforms[a];
    T *y = Scratch::get(w.a, rows * D), *up = s.is_lean ? Scratch::get(w.up, rows * 2 * F) : t.up + e * 2 * F;
    normalise(t.middle + e * D, y, t.middle_norm + e, rows, D, T(s.eps));
    forth(rows, 2 * F, D, y, weight.in_mlp, up, weight.in_mlp_bias);
    return up;
  }

  void transform(Scratch& w, Int l, Int a, Int c) const {
    const auto& weight = weights.layers[l].transforms[a];
    const auto& t = saved.layers[l].transforms[a];
    const Int first = chunks[c], e = where.starts[first], rows = where.starts[chunks[c + 1]] - e;
    const T *x = t.edge + e * D, *qkv = qkv_of(w, l, a, e, rows);
    T* answer = Scratch::get(w.b, rows * D);
    std::vector<T>& sums = w.d;
    for (Int i = first; i < chunks[c + 1]; ++i) {
      const Int at = where.starts[i], count = where.starts[i + 1] - at;
      gather(w.attention, t, qkv + (at - e) * 3 * D, i, false);
      T* sum = Scratch::get(sums, (count + 1) * H);
      w.attention.forward(sum);
      std::memcpy(t.center_sum + i * H, sum, H * sizeof(T));
      std::memcpy(t.edge_sum + at * H, sum + H, count * H * sizeof(T));
      std::memcpy(saved.center_answer + i * D, w.attention.o.data(), D * sizeof(T));
      std::memcpy(answer + (at - e) * D, w.attention.o.data() + D, count * D * sizeof(T));
    }
    T* middle = t.middle + e * D;
    for (Int p = 0; p < rows; ++p)
      for (Int k = 0; k < D; k += n) store(middle + p * D + k, load(x + p * D + k) + load(weight.out_bias + k));
    forth(rows, D, D, answer, weight.out, middle, true);
    const T* up = up_of(w, l, a, e, rows);
    T* gated = Scratch::get(w.b, rows * F);
    gate(up, gated, rows, F);
    const bool is_last = a + 1 == s.n_attention;
    T* out = (is_last ? saved.layers[l].tokens : saved.layers[l].transforms[a + 1].edge) + e * D;
    for (Int p = 0; p < rows; ++p)
      for (Int k = 0; k < D; k += n) store(out + p * D + k, load(middle + p * D + k) + load(weight.out_mlp_bias + k));
    forth(rows, D, F, gated, weight.out_mlp, out, true);
  }

  // The centers, before and after they have attended.
  void center_before(Scratch& w, Int l, Int a, Int i, Int rows, const T* node) const {
    const auto& weight = weights.layers[l].transforms[a];
    const auto& t = saved.layers[l].transforms[a];
    T *center = t.center + i * D, *y = Scratch::get(w.a, rows * D);
    if (s.is_wide) forth(rows, D, M, node + i * M, weight.contraction, center, weight.contraction_bias);
    else std::memcpy(center, node + i * D, rows * D * sizeof(T));
    normalise(center, y, t.center_norm + i, rows, D, T(s.eps));
    forth(rows, 3 * D, D, y, weight.qkv, t.center_qkv + i * 3 * D, weight.qkv_bias);
  }
  void center_after(Scratch& w, Int l, Int a, Int i, Int rows, T* node) const {
    const auto& weight = weights.layers[l].transforms[a];
    const auto& t = saved.layers[l].transforms[a];
    T* answer = s.is_wide ? Scratch::get(w.a, rows * D) : node + i * D;
    forth(rows, D, D, saved.center_answer + i * D, weight.out, answer, weight.out_bias);
    if (!s.is_wide) return;
    T *x = node + i * M, *kept = t.node + i * M, *up = t.node_up + i * 4 * M;
    for (Int r = 0; r < rows; ++r)
      for (Int k = 0; k < M; k += n) store(kept + r * M + k, load(x + r * M + k) + load(weight.expansion_bias + k));
    forth(rows, M, D, answer, weight.expansion, kept, true);
    T *y = Scratch::get(w.b, rows * M), *gated = Scratch::get(w.c, rows * 2 * M);
    normalise(kept, y, t.node_norm + i, rows, M, T(s.eps));
    forth(rows, 4 * M, M, y, weight.in_node, up, weight.in_node_bias);
    gate(up, gated, rows, 2 * M);
    for (Int r = 0; r < rows; ++r)
      for (Int k = 0; k < M; k += n) store(x + r * M + k, load(kept + r * M + k) + load(weight.out_node_bias + k));
    forth(rows, M, 2 * M, gated, weight.out_node, x, true);
  }

  // The two directions of a pair exchange their tokens. A layer norm over (a, b) and a linear map of it need only the
  // products of a + b and a - b, once for both directions; mean and variance are theirs in common.
  void combine(Scratch& w, Int l, Int first, Int rows, T* messages) const {
    const auto& weight = weights.layers[l];
    const auto& kept = saved.layers[l];
    T *sum = Scratch::get(w.a, 2 * rows * D), *difference = sum + rows * D;
    for (Int r = 0; r < rows; ++r) {
      const Int p = pairs[first + r], q = where.reverse[p];
      auto total = fill(T(0)), squares = fill(T(0));
      for (Int k = 0; k < D; k += n) {
        const auto a = load(kept.tokens + p * D + k), b = load(kept.tokens + q * D + k);
        store(sum + r * D + k, a + b), store(difference + r * D + k, a - b);
        total += a + b;
      }
      T mean = 0, variance = 0;
      for (Int i = 0; i < n; ++i) mean += total[i];
      mean /= 2 * D;
      for (Int k = 0; k < D; k += n) {
        const auto a = load(kept.tokens + p * D + k) - mean, b = load(kept.tokens + q * D + k) - mean;
        squares += a * a + b * b;
      }
      for (Int i = 0; i < n; ++i) variance += squares[i];
      kept.mean[p] = mean, kept.scale[p] = 1 / std::sqrt(variance / (2 * D) + T(1e-5));
    }
    T *even = Scratch::get(w.b, 4 * rows * D), *odd = even + 2 * rows * D;
    forth(rows, 2 * D, D, sum, weight.even, even, false);
    forth(rows, 2 * D, D, difference, weight.odd, odd, false);
    T* active = Scratch::get(w.c, 4 * rows * D);
    for (Int r = 0; r < rows; ++r) {
      const Int p = pairs[first + r], q = where.reverse[p];
      const T mean = kept.mean[p], scale = kept.scale[p];
      for (Int k = 0; k < 2 * D; k += n) {
        const auto e = load(even + r * 2 * D + k) - load(weight.mean + k) * mean, o = load(odd + r * 2 * D + k);
        const auto x = (e + o) * scale + load(weight.constant + k), y = (e - o) * scale + load(weight.constant + k);
        store(kept.both + p * 2 * D + k, x), store(kept.both + q * 2 * D + k, y);
        store(active + 2 * r * 2 * D + k, x * sigmoid(x)), store(active + (2 * r + 1) * 2 * D + k, y * sigmoid(y));
      }
    }
    T* out = even;
    forth(2 * rows, D, 2 * D, active, weight.combine, out, false);
    for (Int r = 0; r < 2 * rows; ++r) {
      const Int here = pairs[first + r / 2], p = r % 2 ? where.reverse[here] : here;
      const T* old = l ? messages + p * D : weights.embedding + where.neighbor_species[p] * D;
      for (Int k = 0; k < D; k += n)
        store(messages + p * D + k, load(old + k) + load(kept.tokens + p * D + k) + load(out + r * D + k) + load(weight.combine_bias + k));
    }
  }

  // One number per row, by two linear maps with SiLU after each, and a last one.
  void head(Scratch& w, const typename Weights<T>::Head& weight, const typename Saved<T>::Head& kept, Int row, Int rows,
            const T* x, Int width) const {
    const Int K = s.d_head;
    T *first = kept.first + row * K, *second = kept.second + row * K, *active = Scratch::get(w.a, rows * K);
    forth(rows, K, width, x + row * width, weight.first, first, weight.first_bias);
    for (Int k = 0; k < rows * K; k += n) store(active + k, load(first + k) * sigmoid(load(first + k)));
    forth(rows, K, K, active, weight.second, second, weight.second_bias);
    for (Int r = 0; r < rows; ++r) {
      auto sum = fill(T(0));
      for (Int k = 0; k < K; k += n) {
        const auto v = load(second + r * K + k);
        sum += v * sigmoid(v) * load(weight.last + k);
      }
      T total = *weight.last_bias;
      for (Int i = 0; i < n; ++i) total += sum[i];
      kept.value[row + r] = total;
    }
  }
  // The slope of the number of every row is `seed`; that of x is written.
  void head_back(Scratch& w, const typename Weights<T>::Head& weight, const typename Saved<T>::Head& kept, Int row,
                 Int rows, const T* seed, T* slope, Int width) const {
    const Int K = s.d_head;
    T *of_second = Scratch::get(w.a, rows * K), *of_first = Scratch::get(w.b, rows * K);
    for (Int r = 0; r < rows; ++r)
      for (Int k = 0; k < K; k += n) store(of_second + r * K + k, load(weight.last + k) * seed[r]);
    silu_back(kept.second + row * K, of_second, rows * K);
    back(rows, K, K, of_second, weight.second, of_first, false);
    silu_back(kept.first + row * K, of_first, rows * K);
    back(rows, K, width, of_first, weight.first, slope + row * width, false);
  }

  // The centers of a block of atoms, from one attention (or from the start) to the next; `a` counts through all layers.
  void center(Scratch& w, Int a, Int block, const T* condition, T* node) const {
    const Int i = block * node_rows, rows = std::min(node_rows, N - i), next = a + 1, A = s.n_attention;
    if (a >= 0) center_after(w, a / A, a % A, i, rows, node);
    if (a >= 0 && next % A == 0 && condition)
      for (Int k = i * M; k < (i + rows) * M; k += n) store(node + k, load(node + k) + load(condition + k));
    if (next < s.n_layers * A) center_before(w, next / A, next % A, i, rows, node);
  }
  Int n_center_blocks() const { return (N + node_rows - 1) / node_rows; }
  Int n_pair_blocks() const { return (Int(pairs.size()) + pair_rows - 1) / pair_rows; }

  void forward(const T* embedded, const T* condition, T* node, T* messages, T* energies) const {
    std::memcpy(node, embedded, N * M * sizeof(T));
    const Int centers = n_center_blocks(), blocks = n_pair_blocks(), A = s.n_attention;
#pragma omp parallel num_threads(int(s.n_threads))
    {
      Scratch w(D);
#pragma omp for schedule(dynamic)
      for (Int k = 0; k < centers; ++k) center(w, -1, k, condition, node);
      for (Int a = 0; a < s.n_layers * A; ++a) {
        const Int l = a / A;
#pragma omp for schedule(dynamic)
        for (Int c = 0; c < n_chunks(); ++c) {
          const Int e = where.starts[chunks[c]];
          if (a % A == 0) tokens(w, l, e, where.starts[chunks[c + 1]] - e, messages);
          transform(w, l, a % A, c);
        }
        // What the centers do and the exchange between pairs do not depend on each other.
        const Int more = (a + 1) % A ? 0 : blocks;
#pragma omp for schedule(dynamic)
        for (Int k = 0; k < centers + more; ++k) {
          if (k < centers) center(w, a, k, condition, node);
          else combine(w, l, (k - centers) * pair_rows, std::min(pair_rows, Int(pairs.size()) - (k - centers) * pair_rows), messages);
        }
      }
      if (energies) read_out(w, node, messages, energies);
    }
  }
  void read_out(Scratch& w, const T* node, const T* messages, T* energies) const {
    const Int centers = n_center_blocks();
#pragma omp for schedule(dynamic)
    for (Int k = 0; k < centers + n_chunks(); ++k) {
      if (k < centers) {
        head(w, weights.center, saved.center, k * node_rows, std::min(node_rows, N - k * node_rows), node, M);
      } else {
        const Int e = where.starts[chunks[k - centers]];
        head(w, weights.pair, saved.pair, e, where.starts[chunks[k - centers + 1]] - e, messages, D);
      }
    }
#pragma omp for schedule(static)
    for (Int i = 0; i < N; ++i) {
      energies[i] = saved.center.value[i];
      for (Int p = where.starts[i]; p < where.starts[i + 1]; ++p) energies[i] += factor[p] * saved.pair.value[p];
    }
  }

  // The way back: the same steps in opposite order ---------------------------------------------------------------

  void combine_back(Scratch& w, Int l, Int first, Int rows, const T* above, T* slope) const {
    const auto& weight = weights.layers[l];
    const auto& kept = saved.layers[l];
    T *g = Scratch::get(w.a, 2 * rows * D), *h = Scratch::get(w.b, 4 * rows * D);
    for (Int r = 0; r < 2 * rows; ++r) {
      const Int here = pairs[first + r / 2], p = r % 2 ? where.reverse[here] : here;
      std::memcpy(g + r * D, above + p * D, D * sizeof(T));
    }
    back(2 * rows, D, 2 * D, g, weight.combine, h, false);
    T *even = Scratch::get(w.c, 4 * rows * D), *odd = even + 2 * rows * D, *of = Scratch::get(w.d, 2 * rows);
    for (Int r = 0; r < rows; ++r) {
      const Int p = pairs[first + r], q = where.reverse[p];
      const T scale = kept.scale[p];
      T *x = h + 4 * r * D, *y = x + 2 * D;
      silu_back(kept.both + p * 2 * D, x, 2 * D), silu_back(kept.both + q * 2 * D, y, 2 * D);
      auto of_mean = fill(T(0)), of_scale = fill(T(0));
      for (Int k = 0; k < 2 * D; k += n) {
        const auto c = load(weight.constant + k), gx = load(x + k), gy = load(y + k);
        of_mean += (gx + gy) * load(weight.mean + k);
        of_scale += gx * (load(kept.both + p * 2 * D + k) - c) + gy * (load(kept.both + q * 2 * D + k) - c);
        store(even + r * 2 * D + k, (gx + gy) * scale), store(odd + r * 2 * D + k, (gx - gy) * scale);
      }
      T mean = 0, stretch = 0;
      for (Int i = 0; i < n; ++i) mean += of_mean[i], stretch += of_scale[i];
      // dE/dmean per entry; and dE/dscale times dscale/dx, which is -scale^3 (x - mean) / 2D
      of[2 * r] = -scale * mean / (2 * D), of[2 * r + 1] = -stretch * scale * scale / (2 * D);
    }
    T *sum = h, *difference = h + rows * D;
    back(rows, 2 * D, D, even, weight.even, sum, false);
    back(rows, 2 * D, D, odd, weight.odd, difference, false);
    for (Int r = 0; r < rows; ++r) {
      const Int p = pairs[first + r], q = where.reverse[p];
      const T mean = kept.mean[p], shift = of[2 * r], stretch = of[2 * r + 1];
      const T *x = kept.tokens + p * D, *y = kept.tokens + q * D;
      for (Int k = 0; k < D; k += n) {
        const auto e = load(sum + r * D + k), o = load(difference + r * D + k);
        store(slope + p * D + k, load(above + p * D + k) + e + o + shift + (load(x + k) - mean) * stretch);
        store(slope + q * D + k, load(above + q * D + k) + e - o + shift + (load(y + k) - mean) * stretch);
      }
    }
  }

  // Turns the slope of what came after the attention into that of the centers' answers; without a wide node, of node.
  void center_after_back(Scratch& w, Int l, Int a, Int i, Int rows, T* slope, T* of_answer) const {
    const auto& weight = weights.layers[l].transforms[a];
    const auto& t = saved.layers[l].transforms[a];
    const T* above = slope + i * M;
    if (s.is_wide) {
      T *gated = Scratch::get(w.a, rows * 2 * M), *up = Scratch::get(w.b, rows * 4 * M), *y = Scratch::get(w.c, rows * M);
      back(rows, M, 2 * M, slope + i * M, weight.out_node, gated, false);
      gate_back(t.node_up + i * 4 * M, gated, up, rows, 2 * M);
      back(rows, 4 * M, M, up, weight.in_node, y, false);
      normalise_back(t.node + i * M, t.node_norm + i, y, slope + i * M, rows, M, true);
      T* answer = Scratch::get(w.a, rows * D);
      back(rows, M, D, slope + i * M, weight.expansion, answer, false);
      above = answer;
    }
    back(rows, D, D, above, weight.out, of_answer + i * D, false);
  }
  void center_before_back(Scratch& w, Int l, Int a, Int i, Int rows, const T* of_qkv, T* slope) const {
    const auto& weight = weights.layers[l].transforms[a];
    const auto& t = saved.layers[l].transforms[a];
    T *y = Scratch::get(w.a, rows * D), *x = s.is_wide ? Scratch::get(w.b, rows * D) : slope + i * D;
    back(rows, 3 * D, D, of_qkv + i * 3 * D, weight.qkv, y, false);
    normalise_back(t.center + i * D, t.center_norm + i, y, x, rows, D, false);
    if (s.is_wide) back(rows, D, M, x, weight.contraction, slope + i * M, true);
  }

  void transform_back(Scratch& w, Int l, Int a, Int c, T* slope, const T* of_answer, T* of_qkv, T* of_factor) const {
    const auto& weight = weights.layers[l].transforms[a];
    const auto& t = saved.layers[l].transforms[a];
    const Int first = chunks[c], e = where.starts[first], rows = where.starts[chunks[c + 1]] - e;
    const T* was_up = s.is_lean ? up_of(w, l, a, e, rows) : t.up + e * 2 * F;
    T *gated = Scratch::get(w.a, rows * F), *up = Scratch::get(w.b, rows * 2 * F), *here = slope + e * D;
    back(rows, D, F, here, weight.out_mlp, gated, false);
    gate_back(was_up, gated, up, rows, F);
    T* y = Scratch::get(w.c, rows * D);
    back(rows, 2 * F, D, up, weight.in_mlp, y, false);
    normalise_back(t.middle + e * D, t.middle_norm + e, y, here, rows, D, true);
    T *answer = y, *qkv = Scratch::get(w.b, rows * 3 * D);
    back(rows, D, D, here, weight.out, answer, false);
    const T* was_qkv = s.is_lean ? qkv_of(w, l, a, e, rows) : t.edge_qkv + e * 3 * D;
    for (Int i = first; i < chunks[c + 1]; ++i) {
      gather(w.attention, t, was_qkv + (where.starts[i] - e) * 3 * D, i, true);
      attention_back(w, t, i, answer - e * D, of_answer, qkv - e * 3 * D, of_qkv, of_factor);
    }
    back(rows, 3 * D, D, qkv, weight.qkv, y, false);
    normalise_back(t.edge + e * D, t.edge_norm + e, y, here, rows, D, true);
  }
  void attention_back(Scratch& w, const typename Saved<T>::Transform& t, Int i, const T* of_edges,
                      const T* of_centers, T* edge_qkv, T* center_qkv, T* of_factor) const {
    auto& at = w.attention;
    const Int first = where.starts[i], count = where.starts[i + 1] - first;
    T* sum = Scratch::get(w.d, (count + 1) * H);
    std::memcpy(sum, t.center_sum + i * H, H * sizeof(T));
    std::memcpy(sum + H, t.edge_sum + first * H, count * H * sizeof(T));
    std::memcpy(at.go.data(), of_centers + i * D, D * sizeof(T));
    std::memcpy(at.go.data() + D, of_edges + first * D, count * D * sizeof(T));
    at.backward(sum);
    for (Int p = 0; p <= count; ++p) {
      T* row = p ? edge_qkv + (first + p - 1) * 3 * D : center_qkv + i * 3 * D;
      std::memcpy(row, at.gq.data() + p * D, D * sizeof(T));
      std::memcpy(row + D, at.gk.data() + p * D, D * sizeof(T));
      std::memcpy(row + 2 * D, at.gv.data() + p * D, D * sizeof(T));
      if (!p || factor[first + p - 1] <= T(1e-15)) continue;
      T total = 0;
      for (int h = 0; h < H; ++h) total += at.gbias[p * H + h];
      of_factor[first + p - 1] += total / factor[first + p - 1];
    }
  }

  void tokens_back(Scratch& w, Int l, Int e, Int rows, const T* slope, T* of_messages, T* of_inputs) const {
    const auto& layer = weights.layers[l];
    T* hidden = Scratch::get(w.a, rows * D);
    back(rows, D, D, slope + e * D, layer.tokens, hidden, false);
    silu_back(saved.layers[l].hidden + e * D, hidden, rows * D);
    const Int K = s.n_inputs, padded = (K + n - 1) / n * n;
    T* wide = Scratch::get(w.b, rows * padded);
    back(rows, D, padded, hidden, layer.inputs, wide, false);
    for (Int p = 0; p < rows; ++p)
      for (Int k = 0; k < K; ++k) of_inputs[(e + p) * K + k] += wide[p * padded + k];
    if (l) back(rows, D, D, hidden, layer.messages, of_messages + e * D, true);
  }

  // The centers of a block, back from the attention that follows `a` to their answers in attention `a`.
  void center_back(Scratch& w, Int a, Int block, const T* of_qkv, T* of_node, T* of_answer) const {
    const Int i = block * node_rows, rows = std::min(node_rows, N - i), next = a + 1, A = s.n_attention;
    if (next < s.n_layers * A) center_before_back(w, next / A, next % A, i, rows, of_qkv, of_node);
    center_after_back(w, a / A, a % A, i, rows, of_node, of_answer);
  }

  // of_node (N, d_node) and of_messages (P, D) hold the slopes of the answers, unless `seeds` (N) are those of the
  // energies; they are used up.
  void backward(T* of_node, T* of_messages, T* of_inputs, T* of_factor, T* scratch, const T* seeds) const {
    T *slope = scratch, *of_answer = slope + P * D, *of_qkv = of_answer + N * D;
    const Int centers = n_center_blocks(), blocks = n_pair_blocks(), A = s.n_attention;
#pragma omp parallel num_threads(int(s.n_threads))
    {
      Scratch w(D);
      if (seeds) read_out_back(w, seeds, of_node, of_messages, of_factor);
      for (Int a = s.n_layers * A - 1; a >= 0; --a) {
        const Int l = a / A, more = (a + 1) % A ? 0 : blocks;
#pragma omp for schedule(dynamic)
        for (Int k = 0; k < centers + more; ++k) {
          if (k < centers) center_back(w, a, k, of_qkv, of_node, of_answer);
          else combine_back(w, l, (k - centers) * pair_rows, std::min(pair_rows, Int(pairs.size()) - (k - centers) * pair_rows), of_messages, slope);
        }
#pragma omp for schedule(dynamic)
        for (Int c = 0; c < n_chunks(); ++c) {
          const Int e = where.starts[chunks[c]];
          transform_back(w, l, a % A, c, slope, of_answer, of_qkv, of_factor);
          if (a % A == 0) tokens_back(w, l, e, where.starts[chunks[c + 1]] - e, slope, of_messages, of_inputs);
        }
      }
    }
  }
  void read_out_back(Scratch& w, const T* seeds, T* of_node, T* of_messages, T* of_factor) const {
    const Int centers = n_center_blocks();
#pragma omp for schedule(dynamic)
    for (Int k = 0; k < centers + n_chunks(); ++k) {
      if (k < centers) {
        const Int i = k * node_rows;
        head_back(w, weights.center, saved.center, i, std::min(node_rows, N - i), seeds + i, of_node, M);
        continue;
      }
      const Int c = k - centers, e = where.starts[chunks[c]], rows = where.starts[chunks[c + 1]] - e;
      T* seed = Scratch::get(w.c, rows);
      for (Int i = chunks[c]; i < chunks[c + 1]; ++i)
        for (Int p = where.starts[i]; p < where.starts[i + 1]; ++p) {
          seed[p - e] = seeds[i] * factor[p];
          of_factor[p] += seeds[i] * saved.pair.value[p];
        }
      head_back(w, weights.pair, saved.pair, e, rows, seed, of_messages, D);
    }
  }
};
