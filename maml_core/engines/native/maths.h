// Functions that a processor does not have: by Sleef, which torch brings, where it has them for this width of vectors
// (SLEEF names them), else one lane after the other by the C library.
#ifdef SLEEF
#define SLEEF_NAME2(name, suffix) Sleef_##name##suffix##_u10
#define SLEEF_NAME(name, suffix) SLEEF_NAME2(name, suffix)
#define MATHS(name) \
  extern "C" Vec<VL>::type SLEEF_NAME(name, SLEEF)(Vec<VL>::type); \
  INL T maths_##name(T x) { return sizeof(T) == 4 ? (T)__builtin_##name##f(x) : (T)__builtin_##name(x); } \
  template <class V> INL V maths_##name(V x) { \
    if constexpr (lanes<V>::w == VL) return SLEEF_NAME(name, SLEEF)(x); \
    else { \
      typename Vec<VL>::type y{}; \
      __builtin_memcpy(&y, &x, sizeof x); \
      y = SLEEF_NAME(name, SLEEF)(y); \
      V z; \
      __builtin_memcpy(&z, &y, sizeof z); \
      return z; \
    } \
  }
#else
#define MATHS(name) \
  INL T maths_##name(T x) { return sizeof(T) == 4 ? (T)__builtin_##name##f(x) : (T)__builtin_##name(x); } \
  template <class V> INL V maths_##name(V x) { \
    V y; \
    for (int i = 0; i < lanes<V>::w; i++) y[i] = maths_##name((T)x[i]); \
    return y; \
  }
#endif
MATHS(exp) MATHS(expm1) MATHS(log) MATHS(log1p) MATHS(sin) MATHS(cos) MATHS(tanh) MATHS(erf)
template <class V> INL V maths_sigmoid(V x) { return 1 / (1 + maths_exp(-x)); }
template <class V> INL V maths_silu(V x) { return x / (1 + maths_exp(-x)); }
