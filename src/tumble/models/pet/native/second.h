#pragma once
// The way back with its derivative along the direction. Adjoints are dual numbers b + ε c; a linear map y = x W then has
// the gradient x c + ẋ b, which is what the derivative of energies and slopes by W amounts to.

#include <omp.h>

#include "tangent.h"

template <class T, int H>
struct Second : Tangent<T, H> {
  using Way = Tangent<T, H>;
  using Way::D, Way::F, Way::M, Way::N, Way::P, Way::n, Way::at, Way::inputs, Way::factor, Way::kept, Way::s, Way::saved,
      Way::trunk, Way::weights, Way::where;
  using Scratch = typename Way::Scratch;
  const Weights<T> gradients;  // those of the first thread; a matrix lies as (in, out) where its `forth` points to
  const Int step;              // from one thread's to the next one's

  Second(const Shape& shape, const Where& graph, const void* const* w, const void* const* g, Int thread_step, T* workspace,
         Twin<T> x, Twin<T> f)
      : Way(shape, graph, w, workspace, x, f), gradients(shape, g), step(thread_step) {}

  T* mine(const T* gradient) const { return const_cast<T*>(gradient) + omp_get_thread_num() * step; }
  static void back(Int rows, Int out, Int in, Twin<T> slope, const Matrix<T>& w, Twin<T> y, bool add) {
    Way::Plain::back(rows, out, in, slope.v, w, y.v, add);
    Way::Plain::back(rows, out, in, slope.d, w, y.d, add);
  }
  // W (in, out) gets its gradient from rows of x and of the slope of x W; its bias, if it has one, too.
  void learn(Int rows, Int in, Int out, Twin<T> x, Twin<T> slope, const Matrix<T>& gradient, const T* bias) const {
    T* w = mine(gradient.forth);
    outer(rows, in, out, x.v, slope.d, w);
    outer(rows, in, out, x.d, slope.v, w);
    if (!bias) return;
    T* b = mine(bias);
    for (Int r = 0; r < rows; ++r)
      for (Int k = 0; k < out; k += n) store(b + k, load(b + k) + load(slope.d + r * out + k));
  }

  void head_back(Scratch& w, const typename Weights<T>::Head& weight, const typename Weights<T>::Head& gradient,
                 const typename Saved<T>::Head& here, Int row, Int rows, Twin<T> x, Twin<T> seed, Twin<T> slope, Int width) const {
    const Int K = s.d_head;
    const Twin<T> of_second = w.a.twin(rows * K), of_first = w.b.twin(rows * K), active = w.c.twin(rows * K);
    const Twin<T> first = at(here.first) + row * K, second = at(here.second) + row * K;
    T *last = mine(gradient.last), *constant = mine(gradient.last_bias);
    for (Int r = 0; r < rows; ++r) {
      const Dual<T> g = seed[r];
      *constant += g.d;
      for (Int k = 0; k < K; k += n) {
        const auto v = load(second + (r * K + k)), sig = sigmoid(v);
        store(last + k, load(last + k) + (v * sig * g).d);
        const Dual<decltype(sig.v)> rest = {1 - sig.v, -sig.d}, t = v * rest;
        store(of_second + (r * K + k), sig * dual(1 + t.v, t.d) * g * load(weight.last + k));
      }
    }
    silu(first, active, rows * K);
    learn(rows, K, K, active, of_second, gradient.second, gradient.second_bias);
    back(rows, K, K, of_second, weight.second, of_first, false);
    silu_back(first, of_first, rows * K);
    learn(rows, width, K, x + row * width, of_first, gradient.first, gradient.first_bias);
    back(rows, K, width, of_first, weight.first, slope + row * width, false);
  }

  void combine_back(Scratch& w, Int l, Int first, Int rows, Twin<T> above, Twin<T> slope) const {
    const auto& weight = weights.layers[l];
    const auto& gradient = gradients.layers[l];
    const auto& here = saved.layers[l];
    const auto direction = [&](Int r) {
      const Int p = trunk.pairs[first + r / 2];
      return r % 2 ? where.reverse[p] : p;
    };
    const Twin<T> g = w.a.twin(2 * rows * D), h = w.b.twin(4 * rows * D), even = w.c.twin(4 * rows * D), odd = even + 2 * rows * D;
    for (Int r = 0; r < 2 * rows; ++r) {
      copy(g + r * D, above + direction(r) * D, D);
      silu(at(here.both) + direction(r) * 2 * D, even + r * 2 * D, 2 * D);
    }
    learn(2 * rows, 2 * D, D, even, g, gradient.combine, gradient.combine_bias);
    back(2 * rows, D, 2 * D, g, weight.combine, h, false);
    const Twin<T> of = w.d.twin(2 * rows);
    T *of_mean_weight = mine(gradient.mean), *of_constant = mine(gradient.constant);
    for (Int r = 0; r < rows; ++r) {
      const Int p = trunk.pairs[first + r], q = where.reverse[p];
      const Dual<T> scale = at(here.scale)[p], mean = at(here.mean)[p];
      const Twin<T> x = h + 4 * r * D, y = x + 2 * D, u = at(here.both) + p * 2 * D, v = at(here.both) + q * 2 * D;
      silu_back(u, x, 2 * D), silu_back(v, y, 2 * D);
      auto of_mean = dual(fill(T(0)), fill(T(0))), of_scale = of_mean;
      for (Int k = 0; k < 2 * D; k += n) {
        const auto c = dual(load(weight.constant + k), fill(T(0))), gx = load(x + k), gy = load(y + k), sum = gx + gy;
        of_mean = of_mean + sum * load(weight.mean + k);
        of_scale = of_scale + gx * (load(u + k) - c) + gy * (load(v + k) - c);
        store(of_constant + k, load(of_constant + k) + sum.d);
        const auto stretched = sum * scale;
        store(of_mean_weight + k, load(of_mean_weight + k) - (stretched * mean).d);
        store(even + (r * 2 * D + k), stretched), store(odd + (r * 2 * D + k), (gx - gy) * scale);
      }
      const Dual<T> shift = scale * total(of_mean) * (T(-1) / (2 * D));
      const Dual<T> stretch = total(of_scale) * scale * scale * (T(-1) / (2 * D));
      of.v[2 * r] = shift.v, of.d[2 * r] = shift.d, of.v[2 * r + 1] = stretch.v, of.d[2 * r + 1] = stretch.d;
    }
    const Twin<T> sum = g, difference = g + rows * D;
    for (Int r = 0; r < rows; ++r) {
      const Twin<T> x = at(here.tokens) + direction(2 * r) * D, y = at(here.tokens) + direction(2 * r + 1) * D;
      for (Int k = 0; k < D; k += n) {
        const auto a = load(x + k), b = load(y + k);
        store(sum + (r * D + k), a + b), store(difference + (r * D + k), a - b);
      }
    }
    learn(rows, D, 2 * D, sum, even, gradient.even, nullptr);
    learn(rows, D, 2 * D, difference, odd, gradient.odd, nullptr);
    back(rows, 2 * D, D, even, weight.even, sum, false);
    back(rows, 2 * D, D, odd, weight.odd, difference, false);
    for (Int r = 0; r < rows; ++r) {
      const Int p = direction(2 * r), q = direction(2 * r + 1);
      const Dual<T> mean = at(here.mean)[p], shift = of[2 * r], stretch = of[2 * r + 1];
      const auto mean_ = dual(fill(mean.v), fill(mean.d)), shift_ = dual(fill(shift.v), fill(shift.d));
      const Twin<T> x = at(here.tokens) + p * D, y = at(here.tokens) + q * D;
      for (Int k = 0; k < D; k += n) {
        const auto e = load(sum + (r * D + k)), o = load(difference + (r * D + k));
        store(slope + (p * D + k), load(above + (p * D + k)) + e + o + shift_ + (load(x + k) - mean_) * stretch);
        store(slope + (q * D + k), load(above + (q * D + k)) + e - o + shift_ + (load(y + k) - mean_) * stretch);
      }
    }
  }

  void center_after_back(Scratch& w, Int l, Int a, Int i, Int rows, Twin<T> slope, Twin<T> of_answer, T* of_condition) const {
    const auto& weight = weights.layers[l].transforms[a];
    const auto& gradient = gradients.layers[l].transforms[a];
    const auto& t = saved.layers[l].transforms[a];
    const Twin<T> attended = at(kept.layers[l][a].center_answer) + i * D;
    Twin<T> above = slope = slope + i * M;
    if (of_condition && a + 1 == s.n_attention)
      for (Int k = 0; k < rows * M; k += n) store(of_condition + i * M + k, load(of_condition + i * M + k) + load(slope.d + k));
    if (s.is_wide) {
      const Twin<T> gated = w.a.twin(rows * 2 * M), up = w.b.twin(rows * 4 * M), y = w.c.twin(rows * M), of_y = w.d.twin(rows * M);
      const Twin<T> x = at(t.node) + i * M, answer = w.e.twin(rows * D);
      back(rows, M, 2 * M, slope, weight.out_node, gated, false);
      gate_back(at(t.node_up) + i * 4 * M, gated, up, rows, 2 * M);
      learn(rows, 2 * M, M, gated, slope, gradient.out_node, gradient.out_node_bias);
      normalise(x, t.node_norm + i, y, rows, M);
      learn(rows, M, 4 * M, y, up, gradient.in_node, gradient.in_node_bias);
      back(rows, 4 * M, M, up, weight.in_node, of_y, false);
      normalise_back(x, t.node_norm + i, of_y, slope, rows, M, true);
      Way::Plain::forth(rows, D, D, attended.v, weight.out, answer.v, weight.out_bias);
      Way::forth(rows, D, D, attended.d, weight.out, answer.d, false);
      learn(rows, D, M, answer, slope, gradient.expansion, gradient.expansion_bias);
      back(rows, M, D, slope, weight.expansion, answer, false);
      above = answer;
    }
    learn(rows, D, D, attended, above, gradient.out, gradient.out_bias);
    back(rows, D, D, above, weight.out, of_answer + i * D, false);
  }
  void center_before_back(Scratch& w, Int l, Int a, Int i, Int rows, Twin<T> of_qkv, Twin<T> slope) const {
    const auto& weight = weights.layers[l].transforms[a];
    const auto& gradient = gradients.layers[l].transforms[a];
    const auto& t = saved.layers[l].transforms[a];
    const Twin<T> y = w.a.twin(rows * D), x = s.is_wide ? w.b.twin(rows * D) : slope + i * D, center = at(t.center) + i * D;
    normalise(center, t.center_norm + i, y, rows, D);
    learn(rows, D, 3 * D, y, of_qkv + i * 3 * D, gradient.qkv, gradient.qkv_bias);
    back(rows, 3 * D, D, of_qkv + i * 3 * D, weight.qkv, y, false);
    normalise_back(center, t.center_norm + i, y, x, rows, D, false);
    if (!s.is_wide) return;
    learn(rows, M, D, at(kept.layers[l][a].node) + i * M, x, gradient.contraction, gradient.contraction_bias);
    back(rows, D, M, x, weight.contraction, slope + i * M, true);
  }

  void transform_back(Scratch& w, Int l, Int a, Int c, Twin<T> slope, Twin<T> of_answer, Twin<T> of_qkv, T* of_factor) const {
    const auto& weight = weights.layers[l].transforms[a];
    const auto& gradient = gradients.layers[l].transforms[a];
    const auto& t = saved.layers[l].transforms[a];
    const Int first = trunk.chunks[c], e = where.starts[first], rows = this->first_pair(c + 1) - e;
    const Twin<T> gated = w.a.twin(rows * F), up = w.b.twin(rows * 2 * F), y = w.c.twin(rows * D), of_y = w.d.twin(rows * D);
    const Twin<T> here = slope + e * D, middle = at(t.middle) + e * D, edge = at(t.edge) + e * D;
    back(rows, D, F, here, weight.out_mlp, gated, false);
    gate_back(at(t.up) + e * 2 * F, gated, up, rows, F);
    learn(rows, F, D, gated, here, gradient.out_mlp, gradient.out_mlp_bias);
    normalise(middle, t.middle_norm + e, y, rows, D);
    learn(rows, D, 2 * F, y, up, gradient.in_mlp, gradient.in_mlp_bias);
    back(rows, 2 * F, D, up, weight.in_mlp, of_y, false);
    normalise_back(middle, t.middle_norm + e, of_y, here, rows, D, true);
    learn(rows, D, D, at(kept.layers[l][a].answer) + e * D, here, gradient.out, gradient.out_bias);
    const Twin<T> answer = of_y, qkv = w.b.twin(rows * 3 * D);
    back(rows, D, D, here, weight.out, answer, false);
    for (Int i = first; i < trunk.chunks[c + 1]; ++i)
      attention_back(w, t, i, answer - e * D, of_answer, qkv - e * 3 * D, of_qkv, of_factor);
    normalise(edge, t.edge_norm + e, y, rows, D);
    learn(rows, D, 3 * D, y, qkv, gradient.qkv, gradient.qkv_bias);
    back(rows, 3 * D, D, qkv, weight.qkv, of_y, false);
    normalise_back(edge, t.edge_norm + e, of_y, here, rows, D, true);
  }
  void attention_back(Scratch& w, const typename Saved<T>::Transform& t, Int i, Twin<T> of_edges, Twin<T> of_centers,
                      Twin<T> edge_qkv, Twin<T> center_qkv, T* of_factor) const {
    auto& one = w.attention;
    this->gather(one, t, i, true);
    const Int first = where.starts[i], count = where.starts[i + 1] - first;
    copy(one.o, of_centers + i * D, D), copy(one.o + D, of_edges + first * D, count * D);
    one.backward(this->sums_of(w, t, i));
    for (Int p = 0; p <= count; ++p) {
      const Twin<T> row = p ? edge_qkv + (first + p - 1) * 3 * D : center_qkv + i * 3 * D;
      copy(row, one.gq + p * D, D), copy(row + D, one.gk + p * D, D), copy(row + 2 * D, one.gv + p * D, D);
      if (!p || factor.v[first + p - 1] <= T(1e-15)) continue;
      Dual<T> sum = one.gbias[p * H];
      for (int h = 1; h < H; ++h) sum = sum + one.gbias[p * H + h];
      of_factor[first + p - 1] += (sum.d - sum.v * one.bias.d[p * H]) / factor.v[first + p - 1];
    }
  }

  void tokens_back(Scratch& w, Int l, Int e, Int rows, Twin<T> slope, Twin<T> of_messages, T* of_inputs) const {
    const auto& layer = weights.layers[l];
    const auto& gradient = gradients.layers[l];
    const Int K = s.n_inputs, padded = (K + n - 1) / n * n;
    const Twin<T> of_hidden = w.a.twin(rows * D), active = w.b.twin(rows * D), hidden = at(saved.layers[l].hidden) + e * D;
    silu(hidden, active, rows * D);
    learn(rows, D, D, active, slope + e * D, gradient.tokens, gradient.tokens_bias);
    back(rows, D, D, slope + e * D, layer.tokens, of_hidden, false);
    silu_back(hidden, of_hidden, rows * D);
    learn(rows, K, D, inputs + e * K, of_hidden, gradient.inputs, nullptr);
    T* wide = w.c.get(rows * padded);
    Way::Plain::back(rows, D, padded, of_hidden.d, layer.inputs, wide, false);
    for (Int p = 0; p < rows; ++p)
      for (Int k = 0; k < K; ++k) of_inputs[(e + p) * K + k] += wide[p * padded + k];
    if (l) {
      learn(rows, D, D, at(kept.messages[l - 1]) + e * D, of_hidden, gradient.messages, nullptr);
      back(rows, D, D, of_hidden, layer.messages, of_messages + e * D, true);
    }
    T *species = mine(gradient.species), *embedding = mine(gradients.embedding);
    for (Int p = 0; p < rows; ++p) {
      const Int row = where.neighbor_species[e + p] * D;
      for (Int k = 0; k < D; k += n) {
        store(species + row + k, load(species + row + k) + load(of_hidden.d + p * D + k));
        if (!l) store(embedding + row + k, load(embedding + row + k) + load(of_messages.d + (e + p) * D + k));
      }
    }
  }

  struct Slopes {
    Twin<T> node, messages, tokens, answer, qkv;
    T *inputs, *factor, *condition;
  };
  // seeds (N): derivatives of the loss by the energies; the first node slopes stay in `of.node`.
  void backward(const Slopes& of, const T* seeds) const {
    const Int n_pairs = Int(trunk.pairs.size()), node_rows = trunk.node_rows;
    std::vector<T> ones(N, T(1));
    const Twin<T> seed = {ones.data(), const_cast<T*>(seeds)};
#pragma omp parallel num_threads(int(s.n_threads))
    {
      Scratch w(D);
#pragma omp for schedule(dynamic) nowait
      for (Int i = 0; i < N; i += node_rows)
        head_back(w, weights.center, gradients.center, saved.center, i, std::min(node_rows, N - i), at(kept.node), seed + i, of.node, M);
#pragma omp for schedule(dynamic)
      for (Int c = 0; c < trunk.n_chunks(); ++c) {
        const Int e = this->first_pair(c), rows = this->first_pair(c + 1) - e;
        const Twin<T> by_pair = w.d.twin(rows);
        for (Int i = trunk.chunks[c]; i < trunk.chunks[c + 1]; ++i)
          for (Int p = where.starts[i]; p < where.starts[i + 1]; ++p) {
            const Dual<T> g = seed[i] * factor[p];
            by_pair.v[p - e] = g.v, by_pair.d[p - e] = g.d;
            of.factor[p] += (seed[i] * at(saved.pair.value)[p]).d;
          }
        head_back(w, weights.pair, gradients.pair, saved.pair, e, rows, at(kept.messages.back()), by_pair, of.messages, D);
      }
      for (Int l = s.n_layers - 1; l >= 0; --l) {
#pragma omp for schedule(dynamic) nowait
        for (Int p = 0; p < n_pairs; p += trunk.pair_rows)
          combine_back(w, l, p, std::min(trunk.pair_rows, n_pairs - p), of.messages, of.tokens);
        for (Int a = s.n_attention - 1; a >= 0; --a) {
#pragma omp for schedule(dynamic)
          for (Int i = 0; i < N; i += node_rows)
            center_after_back(w, l, a, i, std::min(node_rows, N - i), of.node, of.answer, of.condition);
#pragma omp for schedule(dynamic)
          for (Int c = 0; c < trunk.n_chunks(); ++c) {
            const Int e = this->first_pair(c);
            transform_back(w, l, a, c, of.tokens, of.answer, of.qkv, of.factor);
            if (!a) tokens_back(w, l, e, this->first_pair(c + 1) - e, of.tokens, of.messages, of.inputs);
          }
#pragma omp for schedule(dynamic)
          for (Int i = 0; i < N; i += node_rows)
            center_before_back(w, l, a, i, std::min(node_rows, N - i), of.qkv, of.node);
        }
      }
    }
  }
};
