#pragma once
// Matrix products with weights that are packed once: y = x W + bias, for rows of x.
//
// Weights lie in panels of a few registers' width, so that the innermost loop reads them in order and keeps a tile of the
// answer in registers. Written for weights of at most a few hundred rows, which is what a transformer layer has.

#include "lanes.h"

#if defined(__AVX512F__)
constexpr int TILE_ROWS = 8, TILE_WIDTH = 3;
#else
constexpr int TILE_ROWS = 3, TILE_WIDTH = 2;  // each is several registers here
#endif

template <class T, int R, int C>
inline void tile(Int depth, const T* x, const T* panel, T* y, Int width, const T* bias, bool add) {
  using V = typename Lanes<T>::V;
  constexpr Int n = Lanes<T>::n;
  V sum[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) sum[r][c] = add ? load(y + r * width + c * n) : bias ? load(bias + c * n) : V{};
  for (Int k = 0; k < depth; ++k, panel += C * n) {
    V w[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) w[c] = load(panel + c * n);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const T a = x[r * depth + k];
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) sum[r][c] += a * w[c];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) store(y + r * width + c * n, sum[r][c]);
}

template <class T, int R, int C>
void down(Int rows, Int depth, const T* x, const T* panel, T* y, Int width, const T* bias, bool add) {
  Int r = 0;
  for (; r + R <= rows; r += R) tile<T, R, C>(depth, x + r * depth, panel, y + r * width, width, bias, add);
  if constexpr (R > 1)
    if (r < rows) down<T, R / 2, C>(rows - r, depth, x + r * depth, panel, y + r * width, width, bias, add);
}

// act(first column, registers) for every panel of a matrix of this width.
template <class T, class F>
void for_panels(Int width, F act) {
  constexpr Int n = Lanes<T>::n;
  Int c = 0;
  for (; c + TILE_WIDTH * n <= width; c += TILE_WIDTH * n) act(c, std::integral_constant<int, TILE_WIDTH>{});
  if constexpr (TILE_WIDTH > 2)
    for (; c + 2 * n <= width; c += 2 * n) act(c, std::integral_constant<int, 2>{});
  for (; c < width; c += n) act(c, std::integral_constant<int, 1>{});
}

// y (rows, width) = x (rows, depth) W + bias; with `add`, W's product is added to y.
template <class T>
void product(Int rows, Int width, Int depth, const T* x, const T* packed, T* y, const T* bias, bool add) {
  for_panels<T>(width, [&](Int c, auto w) {
    down<T, TILE_ROWS, decltype(w)::value>(rows, depth, x, packed + c * depth, y + c, width, bias ? bias + c : nullptr, add);
  });
}

// Panels of W (depth, width), whose element (k, c) is at weight[k * by_row + c * by_column]; narrow ones padded with 0.
template <class T>
void pack(Int depth, Int width, Int padded, Int by_row, Int by_column, const T* weight, T* out) {
  for_panels<T>(padded, [&](Int c, auto w) {
    constexpr Int columns = decltype(w)::value * Lanes<T>::n;
    for (Int k = 0; k < depth; ++k)
      for (Int o = 0; o < columns; ++o)
        out[c * depth + k * columns + o] = c + o < width ? weight[k * by_row + (c + o) * by_column] : 0;
  });
}
