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

// What adapters add to one projection, in tasks that any thread may compute: all of the first half
// before any of the second. A weight is loaded once for some tokens of its segment.
template <class T>
class Adapting {
  public:
    Adapting(T* y, const T* x, int inputs, int outputs, const Pair* pairs, const Segment* segments,
             int count)
        : y(y), x(x), inputs(inputs), outputs(outputs), pairs(pairs), segments(segments) {
        size_t total = 0;
        for (int s = 0; s < count; s++) {
            const Pair& pair = pairs[segments[s].pair];
            int rank = int(pair.rank);
            for (int t = segments[s].first; t < segments[s].last; t += TOKENS) {
                int end = std::min(int(segments[s].last), t + TOKENS);
                for (int r = 0; r < rank; r += ROWS)
                    downs.push_back({s, 0, t, end, r, std::min(rank, r + ROWS), total});
                for (int p = 0; p < pair.projections; p++)
                    for (int c = 0; c < pair.widths[p]; c += PIECE)
                        ups.push_back({s, p, t, end, c, std::min(int(pair.widths[p]), c + PIECE),
                                       total});
                total += size_t(end - t) * rank;
            }
        }
        between.resize(total);
    }

    int first_half() const { return int(downs.size()); }
    int second_half() const { return int(ups.size()); }

    void down(int i) {
        const Task& task = downs[i];
        const Pair& pair = pairs[segments[task.segment].pair];
        int t = task.first;
        auto group = [&](auto number) {
            constexpr int COUNT = decltype(number)::value;
            for (; t + COUNT <= task.last; t += COUNT) {
                int r = task.begin;
                for (; r + 4 <= task.end; r += 4) dots<COUNT, 4>(task, pair, t, r);
                for (; r < task.end; r++) dots<COUNT, 1>(task, pair, t, r);
            }
        };
        group(std::integral_constant<int, 3>());
        group(std::integral_constant<int, 1>());
    }

    void up(int i) {
        const Task& task = ups[i];
        const Pair& pair = pairs[segments[task.segment].pair];
        int t = task.first;
        auto group = [&](auto number) {
            constexpr int COUNT = decltype(number)::value;
            for (; t + COUNT <= task.last; t += COUNT) {
                int c = task.begin;
                for (; c + 2 * LANES <= task.end; c += 2 * LANES)
                    sums<COUNT, 2, LANES>(task, pair, t, c);
                for (; c < task.end; c++) sums<COUNT, 1, 1>(task, pair, t, c);
            }
        };
        group(std::integral_constant<int, 4>());
        group(std::integral_constant<int, 1>());
    }

  private:
    static constexpr int TOKENS = 24, ROWS = 8, PIECE = 128;

    // Tokens `first` to `last`, and of the down half its rows, of the up half its columns from
    // `begin` to `end`. What lies between the halves begins at `place`.
    struct Task {
        int segment, projection, first, last, begin, end;
        size_t place;
    };

    float* between_of(const Task& task, const Pair& pair, int t) {
        return between.data() + task.place + size_t(t - task.first) * pair.rank;
    }

    template <int COUNT, int RANKS>
    void dots(const Task& task, const Pair& pair, int t, int r) {
        const T* row = x + size_t(t) * inputs;
        const T* weight = static_cast<const T*>(pair.down) + size_t(r) * inputs;
        Floats totals[COUNT][RANKS] = {};
        int i = 0;
        for (; i + LANES <= inputs; i += LANES) {
            Floats weights[RANKS];
            for (int k = 0; k < RANKS; k++) weights[k] = load_lanes(weight + size_t(k) * inputs + i);
            for (int n = 0; n < COUNT; n++) {
                Floats lanes = load_lanes(row + size_t(n) * inputs + i);
                for (int k = 0; k < RANKS; k++) totals[n][k] += lanes * weights[k];
            }
        }
        for (int n = 0; n < COUNT; n++)
            for (int k = 0; k < RANKS; k++) {
                float rest = sum(totals[n][k]);
                for (int j = i; j < inputs; j++)
                    rest += load(row + size_t(n) * inputs + j) * load(weight + size_t(k) * inputs + j);
                between_of(task, pair, t + n)[r + k] = rest;
            }
    }

    // COUNT tokens by PARTS registers of WIDE columns.
    template <int COUNT, int PARTS, int WIDE>
    void sums(const Task& task, const Pair& pair, int t, int c) {
        int p = task.projection, ranks = int(pair.ranks[p]);
        size_t width = size_t(pair.widths[p]), column = size_t(pair.columns[p]) + c;
        const T* weight = static_cast<const T*>(pair.up[p]) + c;
        const T* lengthen = static_cast<const T*>(pair.lengthen);
        const float* factors[COUNT];
        Floats totals[COUNT][PARTS] = {};
        for (int n = 0; n < COUNT; n++) {
            factors[n] = between_of(task, pair, t + n) + pair.rows[p];
            const T* from = y + size_t(t + n) * outputs + column;
            for (int part = 0; part < PARTS; part++) totals[n][part] = read<WIDE>(from + part * WIDE);
        }
        for (int r = 0; r < ranks; r++) {
            Floats weights[PARTS];
            for (int part = 0; part < PARTS; part++)
                weights[part] = read<WIDE>(weight + r * width + part * WIDE);
            for (int n = 0; n < COUNT; n++)
                for (int part = 0; part < PARTS; part++)
                    totals[n][part] += factors[n][r] * weights[part];
        }
        for (int n = 0; n < COUNT; n++)
            for (int part = 0; part < PARTS; part++)
                for (int lane = 0; lane < WIDE; lane++) {
                    size_t at = column + part * WIDE + lane;
                    float longer = lengthen ? load(lengthen + at) : 1.0f;
                    store(y + size_t(t + n) * outputs + at, totals[n][part][lane] * longer);
                }
    }

    template <int WIDE>
    static Floats read(const T* from) {
        if constexpr (WIDE == LANES) return load_lanes(from);
        Floats one = {};
        one[0] = load(from);
        return one;
    }

    T* y;
    const T* x;
    int inputs, outputs;
    const Pair* pairs;
    const Segment* segments;
    std::vector<Task> downs, ups;
    std::vector<float> between;
};

template <class T>
void adapt(T* y, const T* x, int inputs, int outputs, const Pair* pairs, const Segment* segments,
           int count) {
    Adapting<T> job(y, x, inputs, outputs, pairs, segments, count);
    int first_half = job.first_half(), second_half = job.second_half();
#pragma omp parallel
    {
#pragma omp for schedule(dynamic, 4)
        for (int i = 0; i < first_half; i++) job.down(i);
#pragma omp for schedule(dynamic, 4)
        for (int i = 0; i < second_half; i++) job.up(i);
    }
}

}  // namespace
