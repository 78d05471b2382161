// The compiled side of training.py: energies with their slopes, and the derivatives of both by weights and inputs.

#include "second.h"

namespace {

// in: inputs, factor, first nodes, condition; out: energies, slopes of inputs and factor (zeroed), scratch.
template <class T>
int run_first(const Shape& s, const Where& g, const void* const* w, T* workspace, const void* const* in, void* const* out) {
  return with_heads<T>(s.n_heads, [&](auto h) {
    const auto at = [&](int k) { return static_cast<const T*>(in[k]); };
    const auto to = [&](int k) { return static_cast<T*>(out[k]); };
    T *x = const_cast<T*>(at(0)), *f = const_cast<T*>(at(1));
    const Tangent<T, decltype(h)::value> way(s, g, w, workspace, {x, nullptr}, {f, nullptr});
    T *node = to(3), *messages = node + s.n_atoms * s.d_node, *rest = messages + s.n_pairs * s.width;
    way.forward(at(2), at(3), node, messages, to(0));
    const std::vector<T> ones(s.n_atoms, T(1));
    way.trunk.backward(node, messages, to(1), to(2), rest, ones.data());
  });
}

// in: inputs, factor, their directions, derivatives by the energies; out: those by inputs, factor and condition (zeroed),
// scratch, whose first (2, N, d_node) are those by the first nodes along with their values.
template <class T>
int run_second(const Shape& s, const Where& g, const void* const* w, const void* const* gradients, Int step, T* workspace,
               const void* const* in, void* const* out) {
  return with_heads<T>(s.n_heads, [&](auto h) {
    const auto at = [&](int k) { return const_cast<T*>(static_cast<const T*>(in[k])); };
    const auto to = [&](int k) { return static_cast<T*>(out[k]); };
    const Second<T, decltype(h)::value> way(s, g, w, gradients, step, workspace, {at(0), at(2)}, {at(1), at(3)});
    T* next = to(3);
    const auto take = [&](Int size) {
      const Twin<T> here = {next, next + size};
      next += 2 * size;
      return here;
    };
    const Twin<T> node = take(way.N * way.M), messages = take(way.P * way.D), tokens = take(way.P * way.D);
    const Twin<T> answer = take(way.N * way.D), qkv = take(way.N * 3 * way.D);
    way.along();
    way.backward({node, messages, tokens, answer, qkv, to(0), to(1), to(2)}, at(4));
  });
}

}  // namespace

extern "C" {
Int size32(const Shape* s) { return Kept<float>(*s, nullptr).size; }
Int size64(const Shape* s) { return Kept<double>(*s, nullptr).size; }
int first32(const Shape* s, const Where* g, const void* const* w, float* ws, const void* const* in, void* const* out) {
  return run_first(*s, *g, w, ws, in, out);
}
int first64(const Shape* s, const Where* g, const void* const* w, double* ws, const void* const* in, void* const* out) {
  return run_first(*s, *g, w, ws, in, out);
}
int second32(const Shape* s, const Where* g, const void* const* w, const void* const* gradients, Int step, float* ws,
             const void* const* in, void* const* out) {
  return run_second(*s, *g, w, gradients, step, ws, in, out);
}
int second64(const Shape* s, const Where* g, const void* const* w, const void* const* gradients, Int step, double* ws,
             const void* const* in, void* const* out) {
  return run_second(*s, *g, w, gradients, step, ws, in, out);
}
}
