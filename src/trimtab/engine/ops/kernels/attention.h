// Attention over the paged cache.
#pragma once

#include "numbers.h"

namespace {

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
            size_t head = block(table, begin, kv_head);
            int r = std::max(0, begin - position) * shared;  // rows before it see none of these
            const T* next = end > begin + BLOCK ? keys + block(table, begin + BLOCK, kv_head) : nullptr;
            auto group = [&](auto number) {
                constexpr int ROWS = decltype(number)::value;
                for (; r + ROWS <= rows; r += ROWS) {
                    float scores[ROWS][BLOCK], shrink[ROWS];
                    score<ROWS>(query + r * dim, keys + head, next, scores);
                    int most = 0;
                    for (int k = 0; k < ROWS; k++) {
                        int seen = std::min(BLOCK, position + (r + k) / shared + 1 - begin);
                        shrink[k] = soften(scores[k], seen, largest[r + k], weight[r + k]);
                        most = std::max(most, seen);
                    }
                    const T* after = next ? values + (next - keys) : nullptr;
                    add<ROWS>(scores, shrink, values + head, after, most, total + r * dim);
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
    static constexpr size_t LINE = 64;  // bytes

    size_t block(const int32_t* table, int begin, int kv_head) const {
        return (size_t(table[begin / BLOCK]) * kv_heads + kv_head) * BLOCK * dim;
    }

    // The block that comes `next` is asked for meanwhile: blocks lie anywhere, and no hardware can
    // guess where.
    template <int ROWS>
    void score(const float* query, const T* key, const T* next, float (*scores)[BLOCK]) const {
        Floats sums[ROWS][PARTS] = {};
        for (int d = 0; d < dim; d++) {
            if (next && d * BLOCK * sizeof(T) % LINE == 0) __builtin_prefetch(next + d * BLOCK);
            for (int part = 0; part < PARTS; part++) {
                Floats lanes = load_lanes(key + d * BLOCK + part * LANES);
                for (int r = 0; r < ROWS; r++) sums[r][part] += query[r * dim + d] * lanes;
            }
        }
        std::memcpy(scores, sums, sizeof sums);
    }

    // One block's scores of one query row into the running softmax (Milakov and Gimelshein, 2018):
    // `score` becomes the keys' weights; returns what the sums so far shrink by.
    float soften(float* score, int seen, float& largest, float& weight) const {
        float top = largest;
        for (int k = 0; k < seen; k++) top = std::max(top, score[k]);
        for (int k = seen; k < BLOCK; k++) score[k] = -std::numeric_limits<float>::infinity();
        for (int part = 0; part < PARTS; part++) {
            Floats powers = exponential(load_lanes(score + part * LANES) - top);
            std::memcpy(score + part * LANES, &powers, sizeof powers);
        }
        for (int k = seen; k < BLOCK; k++) score[k] = 0.0f;
        float added = 0;
        for (int k = 0; k < BLOCK; k++) added += score[k];
        float shrink = largest == top ? 1.0f : std::exp(largest - top);
        largest = top;
        weight = weight * shrink + added;
        return shrink;
    }

    // A block's values under the weights of rows that share them, in sums that do not wait for each
    // other.
    template <int ROWS>
    void add(const float (*weights)[BLOCK], const float* shrink, const T* value, const T* next,
             int seen, float* total) const {
        constexpr int WIDE = ROWS == 1 ? 4 : 2;
        auto stretch = [&](auto number, int d) {
            constexpr int PARTS = decltype(number)::value;
            Floats sums[ROWS][PARTS];
            for (int r = 0; r < ROWS; r++)
                for (int part = 0; part < PARTS; part++)
                    sums[r][part] = load_lanes(total + r * dim + d + part * LANES) * shrink[r];
            for (int k = 0; k < seen; k++) {
                const T* from = value + k * dim + d;
                if (next && (k * dim + d) * sizeof(T) % LINE == 0)
                    __builtin_prefetch(next + k * dim + d);
                for (int part = 0; part < PARTS; part++) {
                    Floats lanes = load_lanes(from + part * LANES);
                    for (int r = 0; r < ROWS; r++) sums[r][part] += weights[r][k] * lanes;
                }
            }
            for (int r = 0; r < ROWS; r++)
                std::memcpy(total + r * dim + d, sums[r], sizeof sums[r]);
        };
        int d = 0;
        for (; d + WIDE * LANES <= dim; d += WIDE * LANES)
            stretch(std::integral_constant<int, WIDE>(), d);
        for (; d < dim; d += LANES) stretch(std::integral_constant<int, 1>(), d);
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

}  // namespace
