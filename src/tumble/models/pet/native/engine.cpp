// The compiled side of engine.py: see there for what is computed.
//
// Every atom attends to its own pairs only, so a thread takes a few atoms at a time through a whole layer while their
// numbers stay in its cache; threads meet where atoms exchange messages. The activations that the way back needs are
// kept in one workspace.

#include "edges.h"
#include "trunk.h"

namespace {

template <class T>
Int run_edges(const Pairs& g, const Cut& cut, const void* vectors, void* const* out) {
  const auto real = [&](int k) { return static_cast<T*>(out[k]); };
  const auto whole = [&](int k) { return static_cast<Int*>(out[k]); };
  return find_edges<T>(g, cut, static_cast<const T*>(vectors),
                       {real(0), real(1), whole(2), whole(3), whole(4), whole(5), real(6), real(7), real(8), real(9)});
}
template <class T>
void run_edges_back(const Pairs& g, const Cut& cut, Int n_kept, const void* const* in, void* slope) {
  const auto real = [&](int k) { return static_cast<const T*>(in[k]); };
  edges_back(g, cut, n_kept, real(0), real(1), static_cast<const Int*>(in[2]), real(3), real(4), real(5), real(6),
             static_cast<T*>(slope));
}
template <class T>
int run_forward(const Shape& s, const Where& g, const void* const* w, void* workspace, const void* const* in, void* const* out) {
  return with_heads<T>(s.n_heads, [&](auto h) {
    const auto at = [&](int k) { return static_cast<const T*>(in[k]); };
    Trunk<T, decltype(h)::value> trunk(s, g, w, static_cast<T*>(workspace), at(0), at(1));
    trunk.forward(at(2), at(3), static_cast<T*>(out[0]), static_cast<T*>(out[1]), static_cast<T*>(out[2]));
  });
}
template <class T>
int run_backward(const Shape& s, const Where& g, const void* const* w, void* workspace, const void* const* in, void* const* out) {
  return with_heads<T>(s.n_heads, [&](auto h) {
    const auto at = [&](int k) { return static_cast<T*>(out[k]); };
    Trunk<T, decltype(h)::value> trunk(s, g, w, static_cast<T*>(workspace), static_cast<const T*>(in[0]),
                                       static_cast<const T*>(in[1]));
    trunk.backward(at(0), at(1), at(2), at(3), at(4), static_cast<const T*>(in[2]));
  });
}

}  // namespace

extern "C" {
Int workspace(const Shape* s) { return Saved<float>(*s, nullptr).size; }
int forward32(const Shape* s, const Where* g, const void* const* w, void* ws, const void* const* in, void* const* out) {
  return run_forward<float>(*s, *g, w, ws, in, out);
}
int backward32(const Shape* s, const Where* g, const void* const* w, void* ws, const void* const* in, void* const* out) {
  return run_backward<float>(*s, *g, w, ws, in, out);
}
int forward64(const Shape* s, const Where* g, const void* const* w, void* ws, const void* const* in, void* const* out) {
  return run_forward<double>(*s, *g, w, ws, in, out);
}
int backward64(const Shape* s, const Where* g, const void* const* w, void* ws, const void* const* in, void* const* out) {
  return run_backward<double>(*s, *g, w, ws, in, out);
}
Int edges32(const Pairs* g, const Cut* c, const void* vectors, void* const* out) { return run_edges<float>(*g, *c, vectors, out); }
Int edges64(const Pairs* g, const Cut* c, const void* vectors, void* const* out) { return run_edges<double>(*g, *c, vectors, out); }
void edges_back32(const Pairs* g, const Cut* c, Int n, const void* const* in, void* slope) { run_edges_back<float>(*g, *c, n, in, slope); }
void edges_back64(const Pairs* g, const Cut* c, Int n, const void* const* in, void* slope) { run_edges_back<double>(*g, *c, n, in, slope); }
void pack32(Int depth, Int width, Int padded, Int by_row, Int by_column, const float* weight, float* out) {
  pack(depth, width, padded, by_row, by_column, weight, out);
}
void pack64(Int depth, Int width, Int padded, Int by_row, Int by_column, const double* weight, double* out) {
  pack(depth, width, padded, by_row, by_column, weight, out);
}
}
