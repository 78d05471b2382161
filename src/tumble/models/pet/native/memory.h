#pragma once
// Where weights and activations lie.

#include <vector>

#include "product.h"

struct Shape {
  Int n_atoms, n_pairs, width, d_node, d_feedforward, n_heads, n_inputs, n_layers, n_attention, is_wide, d_head, is_lean, n_threads;
  double eps;
};

template <class T>
struct Matrix {  // packed for x W and for slope Wᵀ
  const T *forth, *back;
};

template <class T>
struct Weights {  // in the order in which packing.py lists them
  struct Transform {
    Matrix<T> qkv, out, in_mlp, out_mlp, contraction, expansion, in_node, out_node;
    const T *qkv_bias, *out_bias, *in_mlp_bias, *out_mlp_bias, *contraction_bias, *expansion_bias, *in_node_bias, *out_node_bias;
  };
  struct Layer {
    Matrix<T> inputs, messages, tokens, even, odd, combine;
    const T *species, *tokens_bias, *mean, *constant, *combine_bias;
    std::vector<Transform> transforms;
  };
  struct Head {
    Matrix<T> first, second;
    const T *first_bias, *second_bias, *last, *last_bias;
  };
  const T* embedding;
  std::vector<Layer> layers;
  Head center, pair;  // of the energy

  Weights(const Shape& s, const void* const* list) {
    const auto vector = [&] { return static_cast<const T*>(*list++); };
    const auto matrix = [&] {
      const T* forth = vector();
      return Matrix<T>{forth, vector()};
    };
    embedding = vector();
    layers.resize(s.n_layers);
    for (auto& l : layers) {
      l.inputs = matrix(), l.species = vector(), l.messages = matrix(), l.tokens = matrix(), l.tokens_bias = vector();
      l.transforms.resize(s.n_attention);
      for (auto& t : l.transforms) {
        t.qkv = matrix(), t.qkv_bias = vector(), t.out = matrix(), t.out_bias = vector();
        t.in_mlp = matrix(), t.in_mlp_bias = vector(), t.out_mlp = matrix(), t.out_mlp_bias = vector();
        if (!s.is_wide) continue;
        t.contraction = matrix(), t.contraction_bias = vector(), t.expansion = matrix(), t.expansion_bias = vector();
        t.in_node = matrix(), t.in_node_bias = vector(), t.out_node = matrix(), t.out_node_bias = vector();
      }
      l.even = matrix(), l.odd = matrix(), l.mean = vector(), l.constant = vector();
      l.combine = matrix(), l.combine_bias = vector();
    }
    for (auto* head : {&center, &pair}) {
      head->first = matrix(), head->first_bias = vector(), head->second = matrix(), head->second_bias = vector();
      head->last = vector(), head->last_bias = vector();
    }
  }
};

template <class T>
struct Saved {  // activations of all layers in one workspace
  struct Transform {
    T *edge, *edge_norm, *edge_qkv, *edge_sum, *middle, *middle_norm, *up;
    T *center, *center_norm, *center_qkv, *center_sum, *node, *node_norm, *node_up;
  };
  struct Layer {
    T *hidden, *tokens, *mean, *scale, *both;
    std::vector<Transform> transforms;
  };
  struct Head {
    T *first, *second, *value;
  };
  std::vector<Layer> layers;
  Head center, pair;
  T* center_answer;  // (N, D) what the centers attended to; shared by all layers
  Int size = 0;
  Saved(const Shape& s, T* start) {
    const Int N = s.n_atoms, P = s.n_pairs, D = s.width, F = s.d_feedforward, M = s.d_node, H = s.n_heads;
    const auto next = [&](Int n) {
      T* here = start ? start + size : nullptr;
      size += (n + 15) / 16 * 16;
      return here;
    };
    center_answer = next(N * D);
    layers.resize(s.n_layers);
    for (auto& l : layers) {
      l.hidden = next(P * D), l.tokens = next(P * D), l.mean = next(P), l.scale = next(P), l.both = next(P * 2 * D);
      l.transforms.resize(s.n_attention);
      for (auto& t : l.transforms) {
        t.edge = next(P * D), t.edge_norm = next(P), t.edge_sum = next(P * H);
        t.middle = next(P * D), t.middle_norm = next(P);
        if (!s.is_lean) t.edge_qkv = next(P * 3 * D), t.up = next(P * 2 * F);  // else computed again on the way back
        t.center = next(N * D), t.center_norm = next(N), t.center_qkv = next(N * 3 * D), t.center_sum = next(N * H);
        if (s.is_wide) t.node = next(N * M), t.node_norm = next(N), t.node_up = next(N * 4 * M);
      }
    }
    center.first = next(N * s.d_head), center.second = next(N * s.d_head), center.value = next(N);
    pair.first = next(P * s.d_head), pair.second = next(P * s.d_head), pair.value = next(P);
  }
};

