// Low-rank adapters beside a projection, many of them in one step.
#pragma once

#include "numbers.h"

namespace {

constexpr int PROJECTIONS = 3;  // at most so many are fused into one matrix

// One adapter at one place: y += (x down^T) up. Of the fused projections those that it changes: their
// `ranks` rows of `down` begin at `rows`, their `widths` outputs at `columns`.
struct Pair {
    const void *down, *lengthen;
    const void* up[PROJECTIONS];
    int64_t rows[PROJECTIONS], ranks[PROJECTIONS], columns[PROJECTIONS], widths[PROJECTIONS];
    int64_t rank, projections;
};

// Tokens `first` to `last` are changed by pair number `pair`.
struct Segment {
    int32_t first, last, pair;
};

// Every weight is read once for all tokens of its segment.
template <class T>
void adapt(T* y, const T* x, int inputs, int outputs, const Pair* pairs, const Segment* segments,
           int count) {
    constexpr int ROWS = 8, PIECE = 128;
    struct Task {
        int segment, projection, begin, end;
    };
    static thread_local std::vector<Task> downs, ups;
    static thread_local std::vector<float> memory;
    static thread_local std::vector<size_t> places;
    downs.clear(), ups.clear(), places.clear();
    size_t total = 0;
    for (int s = 0; s < count; s++) {
        const Pair& pair = pairs[segments[s].pair];
        int rank = int(pair.rank);
        places.push_back(total);
        total += size_t(segments[s].last - segments[s].first) * rank;
        for (int r = 0; r < rank; r += ROWS) downs.push_back({s, 0, r, std::min(rank, r + ROWS)});
        for (int p = 0; p < pair.projections; p++)
            for (int c = 0; c < pair.widths[p]; c += PIECE)
                ups.push_back({s, p, c, std::min(int(pair.widths[p]), c + PIECE)});
    }
    memory.resize(total);
    float* between = memory.data();
    const Task *down_tasks = downs.data(), *up_tasks = ups.data();
    const size_t* place = places.data();
    int first_half = int(downs.size()), second_half = int(ups.size());
#pragma omp parallel
    {
#pragma omp for schedule(dynamic, 4)
        for (int i = 0; i < first_half; i++) {
            const Task& task = down_tasks[i];
            const Segment& segment = segments[task.segment];
            const Pair& pair = pairs[segment.pair];
            int rank = int(pair.rank);
            for (int r = task.begin; r < task.end; r++) {
                const T* down = static_cast<const T*>(pair.down) + size_t(r) * inputs;
                for (int t = segment.first; t < segment.last; t++)
                    between[place[task.segment] + size_t(t - segment.first) * rank + r] =
                        dot(x + size_t(t) * inputs, down, inputs);
            }
        }
#pragma omp for schedule(dynamic, 4)
        for (int i = 0; i < second_half; i++) {
            const Task& task = up_tasks[i];
            const Segment& segment = segments[task.segment];
            const Pair& pair = pairs[segment.pair];
            int rank = int(pair.rank);
            int p = task.projection, n = task.end - task.begin, ranks = int(pair.ranks[p]);
            size_t column = size_t(pair.columns[p]) + task.begin;
            const T* up = static_cast<const T*>(pair.up[p]) + task.begin;
            const T* lengthen = static_cast<const T*>(pair.lengthen);
            for (int t = segment.first; t < segment.last; t++) {
                const float* factors = between + place[task.segment] +
                                       size_t(t - segment.first) * rank + pair.rows[p];
                T* to = y + size_t(t) * outputs + column;
                float sums[PIECE];
                for (int k = 0; k < n; k++) sums[k] = load(to + k);
                for (int r = 0; r < ranks; r++) {
                    const T* from = up + r * pair.widths[p];
                    float factor = factors[r];
#pragma omp simd
                    for (int k = 0; k < n; k++) sums[k] += factor * load(from + k);
                }
                for (int k = 0; k < n; k++)
                    store(to + k, sums[k] * (lengthen ? load(lengthen + column + k) : 1.0f));
            }
        }
    }
}

}  // namespace
