// torch's generator for the CPU: MT19937, seeded by 32 bits (Matsumoto and Nishimura, 1998, doi 10.1145/272991.272995).
typedef unsigned int U;
struct Mersenne {
  static constexpr int N = 624, M = 397;
  alignas(64) U state[N], drawn[N];
  int at = N;
  Mersenne(U seed) {
    state[0] = seed;
    for (int k = 1; k < N; k++) state[k] = 1812433253u * (state[k - 1] ^ (state[k - 1] >> 30)) + k;
  }
  static U mixed(U a, U b) { return (((a & 0x80000000u) | (b & 0x7fffffffu)) >> 1) ^ (-(b & 1) & 0x9908b0dfu); }
  void draw() {
    #pragma GCC ivdep
    for (int k = 0; k < N - M; k++) state[k] = state[k + M] ^ mixed(state[k], state[k + 1]);
    for (int k = N - M; k < N - 1; k++) state[k] = state[k + M - N] ^ mixed(state[k], state[k + 1]);
    state[N - 1] = state[M - 1] ^ mixed(state[N - 1], state[0]);
    for (int k = 0; k < N; k++) {
      U y = state[k];
      y ^= y >> 11; y ^= (y << 7) & 0x9d2c5680u; y ^= (y << 15) & 0xefc60000u; y ^= y >> 18;
      drawn[k] = y;
    }
    at = 0;
  }
  // As torch.rand in double precision: 53 of 64 bits, the first 32 of them on top.
  void uniform(double* out, long count) {
    while (count > 0) {
      if (at == N) draw();
      long some = (N - at) / 2 < count ? (N - at) / 2 : count;
      const U* from = drawn + at;
      for (long i = 0; i < some; i++) {
        const unsigned long long bits = (unsigned long long)from[2 * i] << 32 | from[2 * i + 1];
        out[i] = (double)(long long)(bits & 0x1fffffffffffff) * 0x1p-53;
      }
      out += some; count -= some; at += 2 * some;
    }
  }
};
