// Which of the compiled levels this processor runs. Compiled for the lowest, for it runs first.

// The name of the highest; empty where even the lowest asks too much. Each contains those below it.
extern "C" const char* highest_level() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    // Asks the operating system too, which must keep the wide registers of a thread.
    if (!__builtin_cpu_supports("sse4.2")) return "";
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return "sse4";
    bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return wide ? "avx512" : "avx2";
#else
    return "base";
#endif
}
