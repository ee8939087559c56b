// Convolutions as products. An image's patches are the columns of a matrix: a row for each channel and each place in
// the filter, a column for each image and each place that the filter is laid on, `ld` of them with zeros at the end.
// What lies beside each other is known when this is compiled, what lies below each other is not: half the code.
struct Patches {
  int images, channels, height, kernel_height, high;  // the last: places of the filter
  int stride, padding, dilation, ld;
};
template <int START, int SIZE, int OUT, int STRIDE> struct Reach {  // of places whose pixel lies within a row
  static constexpr int room = SIZE > START ? (SIZE - START - 1) / STRIDE + 1 : 0, last = room < OUT ? room : OUT;
  static constexpr int before = START >= 0 ? 0 : (STRIDE - 1 - START) / STRIDE, first = before < last ? before : last;
};
template <int J, int KERNEL, class F> INL void each_place(F f) {
  if constexpr (J < KERNEL) { f(Width<J>{}); each_place<J + 1, KERNEL>(f); }
}
// f(where in the images a row of places begins, whether it lies within them, where in the columns, Reach)
template <int WIDTH, int KERNEL, int OUT, int STRIDE, int PADDING, int DILATION, class F>
INL void patches(const Patches& g, F f) {
  for (int c = 0; c < g.channels; c++)
    for (int i = 0; i < g.kernel_height; i++)
      each_place<0, KERNEL>([&](auto place) __attribute__((always_inline)) {
        constexpr int J = decltype(place)::w, start = J * DILATION - PADDING;
        const long row = ((long)(c * g.kernel_height + i) * KERNEL + J) * g.ld;
        for (int n = 0; n < g.images; n++)
          for (int o = 0; o < g.high; o++) {
            const int y = o * g.stride + i * g.dilation - g.padding;
            const long at = (((long)n * g.channels + c) * g.height + y) * WIDTH + start;
            f(at, y >= 0 && y < g.height, row + (n * g.high + o) * OUT, Reach<start, WIDTH, OUT, STRIDE>{});
          }
      });
}
template <int WIDTH, int KERNEL, int OUT, int STRIDE, int PADDING, int DILATION>
static __attribute__((noinline)) void unfold(const T* __restrict x, T* __restrict columns, const Patches g) {
  patches<WIDTH, KERNEL, OUT, STRIDE, PADDING, DILATION>(
    g, [&](long at, bool within, long to, auto reach) __attribute__((always_inline)) {
      if (!within) { for (int o = 0; o < OUT; o++) columns[to + o] = 0; return; }
      for (int o = 0; o < reach.first; o++) columns[to + o] = 0;
      for (int o = reach.first; o < reach.last; o++) columns[to + o] = x[at + o * STRIDE];
      for (int o = reach.last; o < OUT; o++) columns[to + o] = 0;
    });
  const int used = g.images * g.high * OUT;
  for (long k = 0; k < (long)g.channels * g.kernel_height * KERNEL; k++)
    for (int p = used; p < g.ld; p++) columns[k * g.ld + p] = 0;
}
// the other way: what all patches say of a pixel, summed
template <int WIDTH, int KERNEL, int OUT, int STRIDE, int PADDING, int DILATION>
static __attribute__((noinline)) void fold(const T* __restrict columns, T* __restrict x, const Patches g) {
  for (long k = 0; k < (long)g.images * g.channels * g.height * WIDTH; k++) x[k] = 0;
  patches<WIDTH, KERNEL, OUT, STRIDE, PADDING, DILATION>(
    g, [&](long at, bool within, long from, auto reach) __attribute__((always_inline)) {
      if (within) for (int o = reach.first; o < reach.last; o++) x[at + o * STRIDE] += columns[from + o];
    });
}
