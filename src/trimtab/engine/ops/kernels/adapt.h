// Low-rank adapters beside a projection, many of them in one step.
#pragma once

#include "linear.h"

namespace {

constexpr int PROJECTIONS = 3;  // at most so many are fused into one matrix

// One adapter at one place: y += (x down^T) up. Of the fused projections those that it changes: their
// `ranks` rows of `down` begin at `rows`, their `widths` outputs at `columns`. Both halves lie in
// panels, `up` those of its transpose; what is narrow is bfloat16, else float.
struct Pair {
    const void *down, *lengthen;
    const void* up[PROJECTIONS];
    int64_t rows[PROJECTIONS], ranks[PROJECTIONS], columns[PROJECTIONS], widths[PROJECTIONS];
    int64_t rank, projections, narrow_down, narrow_up;
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
        : y(y), inputs(inputs), outputs(outputs), pairs(pairs), segments(segments) {
        size_t total = 0;
        for (int s = 0; s < count; s++) {
            const Pair& pair = pairs[segments[s].pair];
            for (int t = segments[s].first; t < segments[s].last; t += TOKENS) {
                int end = std::min(int(segments[s].last), t + TOKENS);
                for (int p = 0; p < panels(pair.rank); p++)
                    downs.push_back({s, 0, t, end, p, p + 1, total});
                for (int k = 0; k < pair.projections; k++)
                    for (int p = 0, last = panels(pair.widths[k]); p < last; p += PIECE)
                        ups.push_back({s, k, t, end, p, std::min(last, p + PIECE), total});
                total += size_t(end - t) * pair.rank;
            }
        }
        between.resize(total);
        if constexpr (std::is_same_v<T, float>) {
            wide = x;
        } else if (count) {
            widened.resize(size_t(segments[count - 1].last) * inputs);
            for (size_t i = 0; i < widened.size(); i++) widened[i] = load(x + i);
            wide = widened.data();
        }
    }

    int first_half() const { return int(downs.size()); }
    int second_half() const { return int(ups.size()); }

    void down(int i) {
        const Task& task = downs[i];
        if (pair_of(task).narrow_down)
            down<bf16>(task);
        else
            down<float>(task);
    }

    void up(int i) {
        const Task& task = ups[i];
        if (pair_of(task).narrow_up)
            up<bf16>(task);
        else
            up<float>(task);
    }

  private:
    static constexpr int TOKENS = 24, PIECE = 8;  // of a task, at most; a piece is of panels

    // Tokens `first` to `last` and panels `begin` to `end`. What lies between the halves begins at
    // `place`.
    struct Task {
        int segment, projection, first, last, begin, end;
        size_t place;
    };

    static int panels(int64_t outputs) { return int((outputs + PANEL - 1) / PANEL); }
    const Pair& pair_of(const Task& task) const { return pairs[segments[task.segment].pair]; }

    template <class W>
    void down(const Task& task) {
        const Pair& pair = pair_of(task);
        many_tokens(wide + size_t(task.first) * inputs, static_cast<const W*>(pair.down),
                    between.data() + task.place, task.last - task.first, inputs, inputs,
                    int(pair.rank), task.begin, task.end);
    }

    template <class W>
    void up(const Task& task) {
        const Pair& pair = pair_of(task);
        int k = task.projection, ranks = int(pair.ranks[k]);
        const W* weight = static_cast<const W*>(pair.up[k]);
        const T* lengthen = static_cast<const T*>(pair.lengthen);
        const float* from = between.data() + task.place + pair.rows[k];
        for (int p = task.begin; p < task.end; p++) {
            size_t column = size_t(pair.columns[k]) + size_t(p) * PANEL;
            int here = std::min(PANEL, int(pair.widths[k]) - p * PANEL);
            for_tiles(task.first, task.last, [&](int t, auto height) {
                constexpr int COUNT = decltype(height)::value;
                float sums[COUNT * PANEL];
                panel_tile<1, COUNT>(from + size_t(t - task.first) * pair.rank,
                                     weight + size_t(p) * ranks * PANEL, sums, ranks, pair.rank, 0,
                                     PANEL, PANEL, true);
                add(sums, COUNT, here, lengthen ? lengthen + column : nullptr,
                    y + size_t(t) * outputs + column);
            });
        }
    }

    // `here` outputs of a panel for `count` tokens. Unrolled for each height of a tile it would take
    // the compiler a third of its time.
    __attribute__((noinline)) void add(const float* sums, int count, int here, const T* lengthen,
                                       T* to) const {
        for (int n = 0; n < count; n++, sums += PANEL, to += outputs)
            for (int lane = 0; lane < here; lane++) {
                float longer = lengthen ? load(lengthen + lane) : 1.0f;
                store(to + lane, (load(to + lane) + sums[lane]) * longer);
            }
    }

    T* y;
    const float* wide;
    int inputs, outputs;
    const Pair* pairs;
    const Segment* segments;
    std::vector<Task> downs, ups;
    std::vector<float> between, widened;
};

template <class T>
void adapt(T* y, const T* x, int inputs, int outputs, const Pair* pairs, const Segment* segments,
           int count) {
    Adapting<T> job(y, x, inputs, outputs, pairs, segments, count);
    int first_half = job.first_half(), second_half = job.second_half();
#pragma omp parallel
    {
#pragma omp for schedule(dynamic, 1)
        for (int i = 0; i < first_half; i++) job.down(i);
#pragma omp for schedule(dynamic, 1)
        for (int i = 0; i < second_half; i++) job.up(i);
    }
}

}  // namespace
