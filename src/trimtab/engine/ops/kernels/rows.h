// What is done to each token by itself: norms, rotations, the gate of the MLP.
#pragma once

#include "numbers.h"

namespace {

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
            if constexpr (std::is_same_v<T, float>) {
                v *= load_lanes(u + k);
                std::memcpy(to + k, &v, sizeof v);
                continue;
            }
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

// Of each row of logits the first largest, and the logarithm of the sum of all powers; that is not
// finite where a logit is not.
void best(const float* logits, int64_t* tokens, float* normalisers, int rows, int width) {
#pragma omp parallel for schedule(dynamic, 1)
    for (int row = 0; row < rows; row++) {
        const float* v = logits + size_t(row) * width;
        Floats most = spread(-std::numeric_limits<float>::infinity());
        int i = 0;
        for (; i + LANES <= width; i += LANES) {
            Floats lanes = load_lanes(v + i);
            most = lanes > most ? lanes : most;
        }
        float top = most[0];
        for (int lane = 1; lane < LANES; lane++) top = std::max(top, most[lane]);
        for (; i < width; i++) top = std::max(top, v[i]);
        Floats sums = {};
        for (i = 0; i + LANES <= width; i += LANES) sums += exponential(load_lanes(v + i) - top);
        float total = sum(sums);
        for (; i < width; i++) total += std::exp(v[i] - top);
        int64_t first = 0;
        while (first < width - 1 && v[first] != top) first++;
        tokens[row] = first;
        normalisers[row] = top + std::log(total);
    }
}

}  // namespace
