// How the threads of a loop wait for each other, and how a processor is told to hurry.
extern "C" int sched_yield(void);
// Threads wait here for each other, first by looking, then by giving way.
static void meet(int* sync, int threads) {
  if (threads == 1) return;
  int turn = __atomic_load_n(sync + 16, __ATOMIC_ACQUIRE);
  if (__atomic_add_fetch(sync, 1, __ATOMIC_ACQ_REL) == threads) {
    __atomic_store_n(sync, 0, __ATOMIC_RELAXED);
    __atomic_store_n(sync + 16, turn + 1, __ATOMIC_RELEASE);
  } else for (int looks = 0; __atomic_load_n(sync + 16, __ATOMIC_ACQUIRE) == turn; looks++) {
    if (looks < 4000) asm volatile("" ::: "memory"); else sched_yield();
  }
}
#ifdef __SSE__
static void set_mode(unsigned mode) { __builtin_ia32_ldmxcsr(mode); }
static unsigned mode_now() { return __builtin_ia32_stmxcsr(); }
#else
static void set_mode(unsigned) {}
static unsigned mode_now() { return 0; }
#endif
// From here on numbers too small to be normal count as zero: they are a hundred times slower. Returns the mode before.
static unsigned hasten() {
  const unsigned mode = mode_now();
  set_mode(mode | 0x8040);
  return mode;
}
