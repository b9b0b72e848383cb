// Numbers in memory and in registers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

namespace {

constexpr int BLOCK = 16;  // tokens in a block of the cache, as blocks.py has it

struct bf16 {
    uint16_t bits;
};

inline float load(const float* p) { return *p; }
inline float load(const bf16* p) {
    uint32_t bits = uint32_t(p->bits) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
inline void store(float* p, float value) { *p = value; }
inline void store(bf16* p, float value) {
    // Round to nearest even; NaN stays NaN.
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if (value != value) {
        p->bits = 0x7fc0;
        return;
    }
    p->bits = uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// As wide as the registers of the level that is compiled; the compiler maps these onto them.
#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
typedef float Floats __attribute__((vector_size(LANES * 4)));
typedef uint32_t Words __attribute__((vector_size(LANES * 4)));
typedef uint16_t Halves __attribute__((vector_size(LANES * 2)));

inline Floats load_lanes(const float* p) {
    Floats v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
inline Floats load_lanes(const bf16* p) {
    Halves half;
    std::memcpy(&half, p, sizeof half);
    Words wide = __builtin_convertvector(half, Words) << 16;
    Floats v;
    std::memcpy(&v, &wide, sizeof v);
    return v;
}
inline float sum(Floats v) {
    // In halves: a chain of additions would wait for each of them.
    float lanes[LANES];
    std::memcpy(lanes, &v, sizeof v);
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
    return lanes[0];
}

inline Floats spread(float v) { return v - Floats{}; }

// e^v to two units in the last place: the power of two apart, the rest by a polynomial (Cephes).
inline Floats exponential(Floats v) {
    v = v > 88.0f ? spread(88.0f) : v;
    v = v < -87.0f ? spread(-87.0f) : v;
    // Adding 1.5 * 2^23 rounds to a whole number, which stands in the low bits.
    Floats rounded = v * 1.44269504f + 12582912.0f;
    Words whole;
    std::memcpy(&whole, &rounded, sizeof whole);
    rounded -= 12582912.0f;
    v = v - rounded * 0.693359375f + rounded * 2.12194440e-4f;
    Floats series = 1.9875691500e-4f * v + 1.3981999507e-3f;
    series = series * v + 8.3334519073e-3f;
    series = series * v + 4.1665795894e-2f;
    series = series * v + 1.6666665459e-1f;
    series = series * v + 5.0000001201e-1f;
    series = series * v * v + v + 1.0f;
    Words power = (whole + 127u) << 23;
    Floats scale;
    std::memcpy(&scale, &power, sizeof scale);
    return series * scale;
}

template <class A, class B>
inline float dot(const A* a, const B* b, int n) {
    Floats total = {};
    int i = 0;
    for (; i + LANES <= n; i += LANES) total += load_lanes(a + i) * load_lanes(b + i);
    float rest = sum(total);
    for (; i < n; i++) rest += load(a + i) * load(b + i);
    return rest;
}

}  // namespace
