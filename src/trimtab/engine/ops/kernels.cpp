// What torch does badly on a CPU, for steps of few tokens. Plain C functions over pointers: rows of
// tokens are contiguous, matrices are row-major, T is float or bfloat16, sums are in float.
// Threads come from the OpenMP runtime that torch has loaded.

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

// As wide as the machine's registers; the compiler maps these onto them.
#if defined(__AVX512F__)
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
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

template <class T>
void norm_row(const T* x, const T* weight, T* out, int n, float epsilon) {
    float squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int i = 0; i < n; i++) {
        float v = load(x + i);
        squares += v * v;
    }
    float scale = 1.0f / std::sqrt(squares / n + epsilon);
#pragma omp simd
    for (int i = 0; i < n; i++) {
        T rounded;
        store(&rounded, load(x + i) * scale);
        store(out + i, load(&rounded) * load(weight + i));
    }
}

// x += delta where there is one; out = norm(x) * weight.
template <class T>
void norm(T* x, const T* delta, const T* weight, T* out, int tokens, int width, float epsilon) {
#pragma omp parallel for schedule(static) if (tokens > 4)
    for (int t = 0; t < tokens; t++) {
        T* row = x + size_t(t) * width;
        if (delta != nullptr) {
            const T* more = delta + size_t(t) * width;
#pragma omp simd
            for (int i = 0; i < width; i++) store(row + i, load(row + i) + load(more + i));
        }
        norm_row(row, weight, out + size_t(t) * width, width, epsilon);
    }
}

template <class T>
void rotate_head(T* head, const float* cos, const float* sin, int half) {
#pragma omp simd
    for (int i = 0; i < half; i++) {
        float first = load(head + i), second = load(head + half + i);
        store(head + i, first * cos[i] - second * sin[i]);
        store(head + half + i, second * cos[i] + first * sin[i]);
    }
}

template <class T>
void rotate_and_store(T* qkv, const T* q_norm, const T* k_norm, const float* cos, const float* sin,
                      T* keys, T* values, const int64_t* places, int tokens, int heads,
                      int kv_heads, int dim, float epsilon) {
    int width = (heads + 2 * kv_heads) * dim, half = dim / 2;
#pragma omp parallel for schedule(static) if (tokens > 4)
    for (int t = 0; t < tokens; t++) {
        T* row = qkv + size_t(t) * width;
        const float *c = cos + size_t(t) * half, *s = sin + size_t(t) * half;
        for (int h = 0; h < heads + kv_heads; h++) {
            T* head = row + h * dim;
            const T* weight = h < heads ? q_norm : k_norm;
            if (weight != nullptr) norm_row(head, weight, head, dim, epsilon);
            rotate_head(head, c, s, half);
        }
        for (int h = 0; h < kv_heads; h++) {
            size_t head = (size_t(places[t] / BLOCK) * kv_heads + h) * BLOCK * dim;
            int at = int(places[t] % BLOCK);
            const T *key = row + (heads + h) * dim, *value = key + kv_heads * dim;
            for (int d = 0; d < dim; d++) keys[head + size_t(d) * BLOCK + at] = key[d];
            std::memcpy(values + head + size_t(at) * dim, value, sizeof(T) * dim);
        }
    }
}

// The query rows of some tokens of one sequence, for the heads that share a key head.
template <class T>
struct Attention {
    const T* qkv;
    const T* keys;    // (blocks, kv_heads, dim, BLOCK): one register holds a number of many keys
    const T* values;  // (blocks, kv_heads, BLOCK, dim)
    T* out;
    int heads, kv_heads, dim;

    void tile(const int32_t* table, int first, int count, int position, int kv_head) const {
        int shared = heads / kv_heads, rows = count * shared;
        size_t width = size_t(heads + 2 * kv_heads) * dim;
        thread_local std::vector<float> memory;
        memory.assign(size_t(rows) * (2 * dim + 2), 0.0f);
        float* query = memory.data();
        float* total = query + size_t(rows) * dim;
        float* largest = total + size_t(rows) * dim;
        float* weight = largest + rows;
        float scale = 1.0f / std::sqrt(float(dim));
        for (int r = 0; r < rows; r++) {
            const T* from = qkv + (first + r / shared) * width + (kv_head * shared + r % shared) * dim;
            for (int d = 0; d < dim; d++) query[r * dim + d] = load(from + d) * scale;
            largest[r] = -std::numeric_limits<float>::infinity();
        }
        int end = position + count;  // keys that the last row sees
        for (int begin = 0; begin < end; begin += BLOCK) {
            size_t head = (size_t(table[begin / BLOCK]) * kv_heads + kv_head) * BLOCK * dim;
            int r = std::max(0, begin - position) * shared;  // rows before it see none of these
            auto group = [&](auto number) {
                constexpr int ROWS = decltype(number)::value;
                for (; r + ROWS <= rows; r += ROWS) {
                    Floats scores[ROWS][PARTS] = {};
                    score<ROWS>(query + r * dim, keys + head, scores);
                    for (int k = 0; k < ROWS; k++) {
                        int seen = std::min(BLOCK, position + (r + k) / shared + 1 - begin);
                        add(scores[k], values + head, seen, largest[r + k], weight[r + k],
                            total + (r + k) * dim);
                    }
                }
            };
            group(std::integral_constant<int, 4>());
            group(std::integral_constant<int, 3>());
            group(std::integral_constant<int, 1>());
        }
        for (int r = 0; r < rows; r++) {
            T* to = out + size_t(first + r / shared) * heads * dim +
                    (kv_head * shared + r % shared) * dim;
            for (int d = 0; d < dim; d++) store(to + d, total[r * dim + d] / weight[r]);
        }
    }

    static constexpr int PARTS = BLOCK / LANES;

    template <int ROWS>
    void score(const float* query, const T* key, Floats (*scores)[PARTS]) const {
        Floats sums[ROWS][PARTS] = {};
        for (int d = 0; d < dim; d++)
            for (int part = 0; part < PARTS; part++) {
                Floats lanes = load_lanes(key + d * BLOCK + part * LANES);
                for (int r = 0; r < ROWS; r++) sums[r][part] += query[r * dim + d] * lanes;
            }
        std::memcpy(scores, sums, sizeof sums);
    }

    // One block's keys for one query row, into the running softmax (Milakov and Gimelshein, 2018).
    void add(const Floats* scores, const T* value, int seen, float& largest, float& weight,
             float* total) const {
        float score[BLOCK];
        std::memcpy(score, scores, sizeof score);
        float top = largest;
        for (int k = 0; k < seen; k++) top = std::max(top, score[k]);
        for (int k = seen; k < BLOCK; k++) score[k] = -std::numeric_limits<float>::infinity();
        float added = 0;
        for (int part = 0; part < PARTS; part++) {
            Floats powers = exponential(load_lanes(score + part * LANES) - top);
            std::memcpy(score + part * LANES, &powers, sizeof powers);
        }
        for (int k = 0; k < seen; k++) added += score[k];
        float shrink = std::exp(largest - top);
        largest = top;
        weight = weight * shrink + added;
        for (int d = 0; d < dim; d += LANES) {
            Floats sum = load_lanes(total + d) * shrink;
            for (int k = 0; k < seen; k++) sum += score[k] * load_lanes(value + k * dim + d);
            std::memcpy(total + d, &sum, sizeof sum);
        }
    }
};

template <class T>
void attend(const T* qkv, const T* keys, const T* values, const int32_t* tables, int table_width,
            const int32_t* starts, const int32_t* lengths, int sequences, T* out, int heads,
            int kv_heads, int dim) {
    constexpr int TILE = 16;  // tokens
    struct Task {
        int sequence, first, count;
    };
    std::vector<Task> tasks;
    for (int s = 0; s < sequences; s++)
        for (int first = starts[s]; first < starts[s + 1]; first += TILE)
            tasks.push_back({s, first, std::min(TILE, starts[s + 1] - first)});
    Attention<T> attention{qkv, keys, values, out, heads, kv_heads, dim};
    int work = int(tasks.size()) * kv_heads;
#pragma omp parallel for schedule(dynamic, 1)
    for (int i = 0; i < work; i++) {
        const Task& task = tasks[tasks.size() - 1 - i / kv_heads];  // the longest begin first
        int s = task.sequence;
        int position = lengths[s] - (starts[s + 1] - task.first);
        attention.tile(tables + size_t(s) * table_width, task.first, task.count, position,
                       i % kv_heads);
    }
}

template <class T>
void gate(const T* gate_up, T* out, int tokens, int width) {
    constexpr int PIECE = 256;
    int pieces = (width + PIECE - 1) / PIECE;
#pragma omp parallel for schedule(static) if (tokens > 1)
    for (int i = 0; i < tokens * pieces; i++) {
        size_t t = i / pieces;
        int begin = i % pieces * PIECE, end = std::min(width, begin + PIECE);
        const T *g = gate_up + t * 2 * width, *u = g + width;
        T* to = out + t * width;
        int k = begin;
        for (; k + LANES <= end; k += LANES) {
            Floats v = load_lanes(g + k);
            v /= 1.0f + exponential(-v);
            for (int lane = 0; lane < LANES; lane++) {
                T rounded;
                store(&rounded, v[lane]);
                store(to + k + lane, load(&rounded) * load(u + k + lane));
            }
        }
        for (; k < end; k++) {
            T rounded;
            store(&rounded, load(g + k) / (1.0f + std::exp(-load(g + k))));
            store(to + k, load(&rounded) * load(u + k));
        }
    }
}

// How far ahead of the multiplication the weights are asked for: measured, not derived.
constexpr int AHEAD = 1024;

// y = x w^T for ROWS rows of w and TOKENS rows of x.
template <int ROWS, int TOKENS>
inline void narrow_tile(const float* x, const bf16* w, float* y, int inputs, int outputs) {
    Floats sums[ROWS][TOKENS] = {};
    int i = 0;
    for (; i + LANES <= inputs; i += LANES) {
        Floats rows[ROWS];
        for (int r = 0; r < ROWS; r++) {
            const bf16* from = w + size_t(r) * inputs + i;
            rows[r] = load_lanes(from);
            __builtin_prefetch(from + AHEAD);
        }
        for (int t = 0; t < TOKENS; t++) {
            Floats v = load_lanes(x + size_t(t) * inputs + i);
            for (int r = 0; r < ROWS; r++) sums[r][t] += v * rows[r];
        }
    }
    for (int r = 0; r < ROWS; r++)
        for (int t = 0; t < TOKENS; t++) {
            float total = sum(sums[r][t]);
            for (int k = i; k < inputs; k++)
                total += load(w + size_t(r) * inputs + k) * x[size_t(t) * inputs + k];
            y[size_t(t) * outputs + r] = total;
        }
}

// ROWS * TOKENS sums stay in registers: twelve where there are sixteen of them.
template <int ROWS>
void narrow_rows(const float* x, const bf16* w, float* y, int tokens, int inputs, int outputs) {
    int t = 0;
    auto tile = [&](auto whole) {
        constexpr int TOKENS = decltype(whole)::value;
        for (; t + TOKENS <= tokens; t += TOKENS)
            narrow_tile<ROWS, TOKENS>(x + size_t(t) * inputs, w, y + size_t(t) * outputs, inputs,
                                      outputs);
    };
    tile(std::integral_constant<int, 6>());
    tile(std::integral_constant<int, 5>());
    tile(std::integral_constant<int, 4>());
    tile(std::integral_constant<int, 3>());
    tile(std::integral_constant<int, 2>());
    tile(std::integral_constant<int, 1>());
}

}  // namespace

#define BOTH(T, SUFFIX)                                                                            \
    void norm_##SUFFIX(T* x, const T* delta, const T* weight, T* out, int tokens, int width,       \
                       float epsilon) {                                                            \
        norm(x, delta, weight, out, tokens, width, epsilon);                                       \
    }                                                                                              \
    void rotate_and_store_##SUFFIX(T* qkv, const T* q_norm, const T* k_norm, const float* cos,     \
                                   const float* sin, T* keys, T* values, const int64_t* places,    \
                                   int tokens, int heads, int kv_heads, int dim, float epsilon) {  \
        rotate_and_store(qkv, q_norm, k_norm, cos, sin, keys, values, places, tokens, heads,       \
                         kv_heads, dim, epsilon);                                                  \
    }                                                                                              \
    void attend_##SUFFIX(const T* qkv, const T* keys, const T* values, const int32_t* tables,      \
                         int table_width, const int32_t* starts, const int32_t* lengths,           \
                         int sequences, T* out, int heads, int kv_heads, int dim) {                \
        attend(qkv, keys, values, tables, table_width, starts, lengths, sequences, out, heads,     \
               kv_heads, dim);                                                                     \
    }                                                                                              \
    void gate_##SUFFIX(const T* gate_up, T* out, int tokens, int width) {                          \
        gate(gate_up, out, tokens, width);                                                         \
    }                                                                                              \
    void adapt_##SUFFIX(T* y, const T* x, int inputs, int outputs, int tokens,                     \
                        const Adapting* pairs, const int32_t* which) {                             \
        adapt(y, x, inputs, outputs, tokens, pairs, which);                                        \
    }

struct Adapting {
    const void *down, *up, *lengthen;
    int64_t rank;
};

namespace {

// y += (x down^T) up for each token with its own pair; which[t] names it, -1 for none.
template <class T>
void adapt(T* y, const T* x, int inputs, int outputs, int tokens, const Adapting* pairs,
           const int32_t* which) {
    int64_t widest = 0;
    for (int t = 0; t < tokens; t++)
        if (which[t] >= 0) widest = std::max(widest, pairs[which[t]].rank);
    thread_local std::vector<float> memory;
    memory.resize(size_t(tokens) * widest);
    float* between = memory.data();
    constexpr int PIECE = 128;
    int pieces = (outputs + PIECE - 1) / PIECE;
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int i = 0; i < tokens * int(widest); i++) {
            int t = i / int(widest), r = i % int(widest);
            if (which[t] < 0 || r >= pairs[which[t]].rank) continue;
            const T* down = static_cast<const T*>(pairs[which[t]].down) + size_t(r) * inputs;
            between[i] = dot(x + size_t(t) * inputs, down, inputs);
        }
#pragma omp for schedule(static)
        for (int i = 0; i < tokens * pieces; i++) {
            int t = i / pieces, begin = i % pieces * PIECE, end = std::min(outputs, begin + PIECE);
            if (which[t] < 0) continue;
            const Adapting& pair = pairs[which[t]];
            const T* up = static_cast<const T*>(pair.up);
            const T* lengthen = static_cast<const T*>(pair.lengthen);
            float sums[PIECE];
            T* to = y + size_t(t) * outputs;
            for (int k = begin; k < end; k++) sums[k - begin] = load(to + k);
            for (int64_t r = 0; r < pair.rank; r++) {
                float factor = between[size_t(t) * widest + r];
                const T* row = up + r * outputs;
#pragma omp simd
                for (int k = begin; k < end; k++) sums[k - begin] += factor * load(row + k);
            }
            for (int k = begin; k < end; k++)
                store(to + k, sums[k - begin] * (lengthen ? load(lengthen + k) : 1.0f));
        }
    }
}

}  // namespace

extern "C" {

BOTH(float, float32)
BOTH(bf16, bfloat16)

// y (tokens, outputs) = x (tokens, inputs) times w^T, w (outputs, inputs) in bfloat16.
void linear_narrow(const float* x, const bf16* w, float* y, int tokens, int inputs, int outputs) {
    constexpr int ROWS = 2;
    int whole = outputs / ROWS;
#pragma omp parallel for schedule(static)
    for (int i = 0; i < whole; i++)
        narrow_rows<ROWS>(x, w + size_t(i) * ROWS * inputs, y + i * ROWS, tokens, inputs, outputs);
    for (int r = whole * ROWS; r < outputs; r++)
        narrow_rows<1>(x, w + size_t(r) * inputs, y + r, tokens, inputs, outputs);
}
}
