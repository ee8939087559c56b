// What the generated code is written in: vectors of any width, loops along them, and products in registers.
// T is the program's type, float or double. Vectors are those of GCC and Clang, so this is for any processor they know.
#define INL static inline __attribute__((always_inline))
#if defined(__AVX512F__)
#define VBYTES 64
#elif defined(__AVX__)
#define VBYTES 32
#else
#define VBYTES 16
#endif
constexpr int VL = VBYTES / sizeof(T);
template <int W> struct Vec {
  typedef T type __attribute__((vector_size(W * sizeof(T))));
  typedef T loose __attribute__((vector_size(W * sizeof(T)), aligned(sizeof(T)), may_alias));
};
template <> struct Vec<1> { typedef T type; typedef T loose; };
template <int W> struct Width { static constexpr int w = W; };

// Reading and writing: whole vectors, a number for all lanes, numbers that lie S apart.
template <int W> INL typename Vec<W>::type ld(const T* p) { return *(const typename Vec<W>::loose*)p; }
template <int W> INL typename Vec<W>::type bc(T x) {
  if constexpr (W == 1) return x; else return x - typename Vec<W>::type{};
}
template <int W, class V> INL typename Vec<W>::type bc(V x) { return x; }
// What is stored is rounded first: else, where it is read in the same loop, the compiler would take a product on to
// the sum that it is read for, and `a * a - b`, both of them stored, need not be zero where they are the same.
#if defined(__x86_64__) && !defined(__clang__)
#define ROUNDED(x) asm("" : "+v"(x))
#elif defined(__aarch64__)
#define ROUNDED(x) asm("" : "+w"(x))
#else
#define ROUNDED(x)
#endif
template <int W, class V> INL void st(T* p, V x) {
  typename Vec<W>::type y = bc<W>(x);
  if constexpr (sizeof(y) <= VBYTES) ROUNDED(y);  // wider ones are no sums: they are moved
  *(typename Vec<W>::loose*)p = y;
}
template <int W, int S> INL typename Vec<W>::type gather(const T* p) {
  if constexpr (W == 1) return *p;
  else { typename Vec<W>::type v; for (int i = 0; i < W; i++) v[i] = p[i * S]; return v; }
}

// mask ? a : b, for any mixture of scalars and vectors
template <class V> struct lanes { static constexpr int w = sizeof(V) / sizeof(T); };
template <> struct lanes<bool> { static constexpr int w = 1; };
template <class M, class A, class B> INL auto sel(M m, A a, B b) {
  constexpr int x = lanes<A>::w, y = lanes<B>::w, W = x > y ? x : y;
  if constexpr (lanes<M>::w == 1) return m ? bc<W>(a) : bc<W>(b);
  else { constexpr int Z = lanes<M>::w > W ? lanes<M>::w : W; return m ? bc<Z>(a) : bc<Z>(b); }
}
INL T root(T x) { return sizeof(T) == 4 ? (T)__builtin_sqrtf(x) : (T)__builtin_sqrt(x); }
template <class V> INL V root(V x) { V y; for (int i = 0; i < lanes<V>::w; i++) y[i] = root((T)x[i]); return y; }
template <class V> INL V magnitude(V x) { return sel(x < 0, -x, x); }
// GCC makes a comparison and a choice of `x < 0 ? 0 : x` where x86 has one instruction, which gives its second operand
// if either one is not a number or both are zero.
template <class V> INL V relu(V x) {
#if defined(__AVX__) && !defined(__clang__)
  if constexpr (sizeof(V) >= 16) {
    V y;
    const V zero{};
    if constexpr (sizeof(T) == 4) asm("vmaxps %2, %1, %0" : "=v"(y) : "v"(zero), "vm"(x));
    else asm("vmaxpd %2, %1, %0" : "=v"(y) : "v"(zero), "vm"(x));
    return y;
  }
#endif
  return sel(x < 0, T(0), x);
}
template <class V> INL V square(V x) { return x * x; }
template <class V> INL V cube(V x) { return x * x * x; }
// what is not a number stays it: in the first argument here, in either one below
template <class A, class B> INL auto atleast(A x, B y) { return sel(x < y, y, x); }
template <class A, class B> INL auto atmost(A x, B y) { return sel(x > y, y, x); }
template <class A, class B> INL auto larger(A x, B y) { return sel((x < y) | (y != y), y, x); }
template <class A, class B> INL auto smaller(A x, B y) { return sel((x > y) | (y != y), y, x); }
template <class A, class B> INL auto sigmoid_backward(A g, B y) { return g * (1 - y) * y; }

// Sums of lanes by halves: the order is the same on every processor of one width.
template <int W> INL T hsum(typename Vec<W>::type v) {
  if constexpr (W == 1) return v;
  else {
    typedef typename Vec<W / 2>::loose half;
    typename Vec<W / 2>::type a = *(const half*)&v, b = *((const half*)&v + 1);
    return hsum<W / 2>(a + b);
  }
}
template <int R, int W, class F> INL void vtail(F f, int j) {
  if constexpr (R > 0) {
    if constexpr (R >= W) { f(Width<W>{}, j); vtail<R - W, W>(f, j + W); }
    else vtail<R, W / 2>(f, j);
  }
}
// f(width, j) over 0..N in vectors, the rest in narrower ones
template <int N, class F> INL void vloop(F f) {
  constexpr int full = N / VL;
  if constexpr (full <= 8) {
    #pragma GCC unroll 8
    for (int b = 0; b < full; b++) f(Width<VL>{}, b * VL);
  } else {
    #pragma GCC unroll 4
    for (int b = 0; b < full; b++) f(Width<VL>{}, b * VL);
  }
  vtail<N % VL, VL / 2>(f, full * VL);
}
template <int N, class F> INL T vsum(F f) {
  constexpr int full = N / VL;
  T s = 0;
  if constexpr (full > 0) {
    typename Vec<VL>::type a{}, b{};
    int j = 0;
    for (; j + 2 * VL <= full * VL; j += 2 * VL) { a += bc<VL>(f(Width<VL>{}, j)); b += bc<VL>(f(Width<VL>{}, j + VL)); }
    if (j < full * VL) a += bc<VL>(f(Width<VL>{}, j));
    s = hsum<VL>(a + b);
  }
  vtail<N % VL, VL / 2>([&](auto w, int j) __attribute__((always_inline)) {
    constexpr int W = decltype(w)::w;
    s += hsum<W>(bc<W>(f(w, j)));
  }, full * VL);
  return s;
}

// c[i][j] = sum over k of a[i * AM + k * AK] * b[k * LDB + j], R rows by NV vectors of it in registers at a time;
// f(width, i, j, value) stores it
template <int W, int NV, int R, int K, int AM, int AK, int LDB, class F>
INL void block(const T* a, const T* b, int i0, int j0, F f) {
  typedef typename Vec<W>::type V;
  V c[R][NV];
  #pragma GCC unroll 16
  for (int r = 0; r < R; r++)
    #pragma GCC unroll 4
    for (int v = 0; v < NV; v++) c[r][v] = V{};
  a += i0 * AM; b += j0;
  #pragma GCC unroll 1
  for (int k = 0; k < K; k++, a += AK, b += LDB) {
    V bv[NV];
    #pragma GCC unroll 4
    for (int v = 0; v < NV; v++) bv[v] = ld<W>(b + v * W);
    #pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      T s = a[r * AM];
      #pragma GCC unroll 4
      for (int v = 0; v < NV; v++) c[r][v] += s * bv[v];
    }
  }
  #pragma GCC unroll 16
  for (int r = 0; r < R; r++)
    #pragma GCC unroll 4
    for (int v = 0; v < NV; v++) f(Width<W>{}, i0 + r, j0 + v * W, c[r][v]);
}
template <int W, int NV, int M, int K, int AM, int AK, int LDB, class F>
INL void rows(const T* a, const T* b, int j0, F f) {
  constexpr int most = VBYTES == 64 ? 12 : (NV == 1 ? 10 : 5), blocks = (M + most - 1) / most;
  constexpr int R = (M + blocks - 1) / blocks, full = M / R, rest = M % R;
  for (int i = 0; i < full; i++) block<W, NV, R, K, AM, AK, LDB>(a, b, i * R, j0, f);
  if constexpr (rest > 0) block<W, NV, rest, K, AM, AK, LDB>(a, b, full * R, j0, f);
}
template <int W, int M, int N, int K, int AM, int AK, int LDB, class F>
INL void cols(const T* a, const T* b, int j0, F f) {
  if constexpr (N > 0) {
    if constexpr (W == VL && N >= 2 * W) {
      constexpr int two = N / (2 * W);
      for (int c = 0; c < two; c++) rows<W, 2, M, K, AM, AK, LDB>(a, b, j0 + c * 2 * W, f);
      cols<W, M, N % (2 * W), K, AM, AK, LDB>(a, b, j0 + two * 2 * W, f);
    } else if constexpr (N >= W) {
      rows<W, 1, M, K, AM, AK, LDB>(a, b, j0, f);
      cols<W / 2, M, N - W, K, AM, AK, LDB>(a, b, j0 + W, f);
    } else cols<W / 2, M, N, K, AM, AK, LDB>(a, b, j0, f);
  }
}
template <int M, int N, int K, int AM, int AK, int LDB, class F> INL void mm(const T* a, const T* b, F f) {
  cols<VL, M, N, K, AM, AK, LDB>(a, b, 0, f);
}

// One that is long enough to be called, so that all who want it share its code.
template <int M, int N, int K, int AM, int AK, int LDB, int LDC>
static __attribute__((noinline)) void product(const T* __restrict a, const T* __restrict b, T* __restrict c) {
  mm<M, N, K, AM, AK, LDB>(a, b, [&](auto w, int i, int j, auto acc) __attribute__((always_inline)) {
    constexpr int W = decltype(w)::w;
    st<W>(c + i * LDC + j, acc);
  });
}

// The solution of a x = b in place of b [N, M], by elimination with partial pivoting; a [N, N] is used up.
// A matrix without an inverse gives infinities or NaN.
template <int N, int M> static void solve(T* __restrict a, T* __restrict b) {
  #pragma GCC unroll 1
  for (int k = 0; k < N; k++) {
    int p = k;
    for (int i = k + 1; i < N; i++) if (magnitude(a[i * N + k]) > magnitude(a[p * N + k])) p = i;
    if (p != k) {
      for (int j = k; j < N; j++) { T x = a[k * N + j]; a[k * N + j] = a[p * N + j]; a[p * N + j] = x; }
      for (int j = 0; j < M; j++) { T x = b[k * M + j]; b[k * M + j] = b[p * M + j]; b[p * M + j] = x; }
    }
    #pragma GCC unroll 1
    for (int i = k + 1; i < N; i++) {
      const T factor = a[i * N + k] / a[k * N + k];
      for (int j = k + 1; j < N; j++) a[i * N + j] -= factor * a[k * N + j];
      for (int j = 0; j < M; j++) b[i * M + j] -= factor * b[k * M + j];
    }
  }
  #pragma GCC unroll 1
  for (int k = N - 1; k >= 0; k--)
    for (int j = 0; j < M; j++) {
      T s = b[k * M + j];
      for (int i = k + 1; i < N; i++) s -= a[k * N + i] * b[i * M + j];
      b[k * M + j] = s / a[k * N + k];
    }
}

// d[c * R + r] = s[r * LD + c], in squares of eight by eight
#define SH(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
template <int R, int C, int LD> INL void transpose(const T* s, T* d) {
  typedef T V8 __attribute__((vector_size(8 * sizeof(T))));
  for (int r = 0; r + 8 <= R; r += 8)
    for (int c = 0; c + 8 <= C; c += 8) {
      V8 x[8], y[8];
      #pragma GCC unroll 8
      for (int i = 0; i < 8; i++) x[i] = ld<8>(s + (r + i) * LD + c);
      #pragma GCC unroll 4
      for (int i = 0; i < 4; i++) {
        y[2 * i] = SH(x[2 * i], x[2 * i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        y[2 * i + 1] = SH(x[2 * i], x[2 * i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
      }
      #pragma GCC unroll 2
      for (int i = 0; i < 2; i++) {
        x[4 * i] = SH(y[4 * i], y[4 * i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
        x[4 * i + 1] = SH(y[4 * i], y[4 * i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        x[4 * i + 2] = SH(y[4 * i + 1], y[4 * i + 3], 0, 1, 8, 9, 4, 5, 12, 13);
        x[4 * i + 3] = SH(y[4 * i + 1], y[4 * i + 3], 2, 3, 10, 11, 6, 7, 14, 15);
      }
      #pragma GCC unroll 4
      for (int i = 0; i < 4; i++) {
        st<8>(d + (c + i) * R + r, SH(x[i], x[i + 4], 0, 1, 2, 3, 8, 9, 10, 11));
        st<8>(d + (c + i + 4) * R + r, SH(x[i], x[i + 4], 4, 5, 6, 7, 12, 13, 14, 15));
      }
    }
  if constexpr (R % 8 != 0)
    for (int c = 0; c < C; c++) for (int r = R / 8 * 8; r < R; r++) d[c * R + r] = s[r * LD + c];
  if constexpr (C % 8 != 0)
    for (int r = 0; r < R / 8 * 8; r++) for (int c = C / 8 * 8; c < C; c++) d[c * R + r] = s[r * LD + c];
}
