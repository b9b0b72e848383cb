// All layers of the network in one call, in float32: between two kernels nobody else is asked.
#pragma once

#include <atomic>
#include <memory>
#include <thread>

#include <omp.h>
#include <time.h>

#include "adapt.h"
#include "attention.h"
#include "linear.h"
#include "rows.h"

namespace {

// A projection's panels; `narrow` ones are bfloat16.
struct Projection {
    const void* panels;
    const float* bias;
    int64_t narrow, inputs, outputs;
};

constexpr int GROUPS = 4;
enum Group { QKV, O, GATE_UP, DOWN };

struct Layer {
    Projection groups[GROUPS];
    const float *before_attention, *before_mlp, *q_norm, *k_norm;
};

// What one step computes, see batch.py. `adapters` point to tables of (layers, GROUPS) pairs, where
// an adapter that leaves a projection alone has one of no rank. Of the tokens that are `wanted`, in
// their order, somebody will read what comes out.
struct Step {
    const float *cos, *sin;
    const int64_t* places;
    const int32_t *tables, *starts, *lengths;
    const Segment* segments;
    const Pair* const* adapters;
    const int64_t* wanted;
    int64_t tokens, sequences, table_width, segment_count, adapter_count, wanted_count;
};

struct Network {
    int64_t layers, hidden, heads, kv_heads, dim, cached;  // `cached`: numbers of a layer's keys
    double epsilon;
};

template <class W>
void project(const Linear<W>& job, const Pair* pairs, const std::vector<Segment>& segments) {
    Adapting<float> adapting(job.y, job.x, job.inputs, job.outputs, pairs, segments.data(),
                             int(segments.size()));
    int pieces = job.pieces(), first_half = adapting.first_half();
    int second_half = adapting.second_half();
#pragma omp parallel
    {
#pragma omp for schedule(dynamic, 1) nowait
        for (int i = 0; i < pieces; i++) job.piece(i);
#pragma omp for schedule(dynamic, 1)
        for (int i = 0; i < first_half; i++) adapting.down(i);
#pragma omp for schedule(dynamic, 1)
        for (int i = 0; i < second_half; i++) adapting.up(i);
    }
}

// Some of a step's tokens on their way through all layers. A thread that has a part of its own meets
// the others only where a sequence's keys are: who is held up by somebody else's work holds up
// nobody at the end of every kernel.
class Part {
  public:
    Part(const Step& step, int first, int last) : step(step), first(first), last(last) {
        while (step.starts[sequence + 1] <= first) sequence++;
        for (int s = sequence; s < step.sequences && step.starts[s] < last; s++) {
            int end = std::min(int(step.starts[s + 1]), last);
            starts.push_back(std::max(int(step.starts[s]), first) - first);
            lengths.push_back(step.lengths[s] - (step.starts[s + 1] - end));
        }
        starts.push_back(last - first);
        for (int s = 0; s < step.segment_count; s++) {
            Segment own = step.segments[s];
            own.first = std::max(own.first, first) - first;
            own.last = std::min(own.last, last) - first;
            if (own.first < own.last) segments.push_back(own);
        }
        for (int w = 0; w < step.wanted_count; w++) {
            if (step.wanted[w] < first) place++;
            else if (step.wanted[w] < last) wanted.push_back(int(step.wanted[w]) - first);
        }
    }

    // `x` (all tokens, hidden) changes; what comes of the wanted ones goes to `out`. The parts
    // before this one stand in `parts`.
    void walk(float* x, float* out, const Layer* layers, const Network& network, float* keys,
              float* values, const std::vector<std::unique_ptr<Part>>& parts) {
        int tokens = last - first, hidden = int(network.hidden), dim = int(network.dim);
        int heads = int(network.heads), kv_heads = int(network.kv_heads);
        float epsilon = float(network.epsilon);
        size_t widest = size_t(hidden);
        for (const Projection& by : layers[0].groups)
            widest = std::max(widest, size_t(std::max(by.inputs, by.outputs)));
        static thread_local std::vector<float> memory;
        memory.resize(3 * widest * tokens);
        float* narrow = memory.data();
        float *wide = narrow + widest * tokens, *delta = wide + widest * tokens;
        std::vector<Pair> pairs(step.adapter_count);
        auto project = [&](const Layer& layer, int l, int group, const float* from, float* to) {
            for (int a = 0; a < step.adapter_count; a++)
                pairs[a] = step.adapters[a][l * GROUPS + group];
            multiply(layer.groups[group], from, to, tokens, pairs.data());
        };
        x += size_t(first) * hidden;
        const float* more = nullptr;
        for (int l = 0; l < network.layers; l++) {
            const Layer& layer = layers[l];
            float *own_keys = keys + l * network.cached, *own_values = values + l * network.cached;
            norm(x, more, layer.before_attention, narrow, tokens, hidden, epsilon);
            project(layer, l, QKV, narrow, wide);
            rotate_and_store(wide, layer.q_norm, layer.k_norm, step.cos + size_t(first) * dim / 2,
                             step.sin + size_t(first) * dim / 2, own_keys, own_values,
                             step.places + first, tokens, heads, kv_heads, dim, epsilon);
            stored.store(l + 1, std::memory_order_release);
            if (l + 1 == network.layers) {
                keep_wanted(x, hidden);
                keep_wanted(wide, int(layer.groups[QKV].outputs));
                tokens = forget_unwanted();
                if (!tokens) return;
            }
            for (const auto& part : parts)
                if (part.get() == this) break;
                else if (part->last > step.starts[sequence]) part->await(l + 1);
            attend(wide, own_keys, own_values, step.tables + sequence * step.table_width,
                   int(step.table_width), starts.data(), lengths.data(), int(lengths.size()), narrow,
                   heads, kv_heads, dim);
            project(layer, l, O, narrow, delta);
            norm(x, delta, layer.before_mlp, narrow, tokens, hidden, epsilon);
            project(layer, l, GATE_UP, narrow, wide);
            gate(wide, narrow, tokens, int(layer.groups[DOWN].inputs));
            project(layer, l, DOWN, narrow, delta);
            more = delta;
        }
        out += size_t(place) * hidden;
        for (size_t i = 0; i < size_t(tokens) * hidden; i++) out[i] = x[i] + more[i];
    }

  private:
    // Until the keys and values of so many layers are in the cache.
    void await(int layers) const {
        constexpr int SPINS = 1000;
        for (int spins = 0; stored.load(std::memory_order_acquire) < layers; spins++)
            if (spins >= SPINS) std::this_thread::yield();
    }

    void multiply(const Projection& by, const float* x, float* y, int tokens, const Pair* pairs) const {
        int inputs = int(by.inputs), outputs = int(by.outputs);
        auto multiply = [&](auto panels) {
            using W = std::remove_const_t<std::remove_pointer_t<decltype(panels)>>;
            Linear<W> job{x, panels, y, tokens, inputs, outputs};
            if (segments.empty())
                job.all();
            else
                project(job, pairs, segments);
        };
        if (by.narrow)
            multiply(static_cast<const bf16*>(by.panels));
        else
            multiply(static_cast<const float*>(by.panels));
        for (int t = 0; by.bias != nullptr && t < tokens; t++)
            for (int i = 0; i < outputs; i++) y[size_t(t) * outputs + i] += by.bias[i];
    }

    void keep_wanted(float* rows, int width) const {
        for (size_t w = 0; w < wanted.size(); w++)
            if (size_t(wanted[w]) != w)
                std::memcpy(rows + w * width, rows + size_t(wanted[w]) * width, width * sizeof(float));
    }

    // The last layer is for the wanted tokens, the last ones of each sequence. Returns their number.
    int forget_unwanted() {
        auto before = [&](int token) {
            return int32_t(std::lower_bound(wanted.begin(), wanted.end(), token) - wanted.begin());
        };
        for (int32_t& start : starts) start = before(start);
        for (Segment& own : segments) own = {before(own.first), before(own.last), own.pair};
        return int(wanted.size());
    }

    const Step& step;
    int first, last, sequence = 0, place = 0;
    std::vector<int32_t> starts, lengths;
    std::vector<Segment> segments;
    std::vector<int> wanted;
    std::atomic<int> stored{0};
};

// A step in a part a thread, each as much work as any other; too few tokens stay together, and
// threads share every matrix.
std::vector<std::unique_ptr<Part>> divide(const Step& step, const Layer& like, const Network& network) {
    constexpr int FEWEST = 8;  // tokens that use the weights often enough to read them alone
    constexpr double SLOWER = 4;  // a multiplication of attention, beside one of a projection
    double weights = 0, each = SLOWER * 2 * double(network.heads * network.dim);
    for (const Projection& by : like.groups) weights += double(by.inputs * by.outputs);
    std::vector<double> until{0};
    for (int s = 0; s < step.sequences; s++)
        for (int t = step.starts[s]; t < step.starts[s + 1]; t++)
            until.push_back(until.back() + weights +
                            each * (step.lengths[s] - (step.starts[s + 1] - t) + 1));
    int tokens = int(step.tokens), count = omp_get_max_threads();
    if (tokens < FEWEST * count) count = 1;
    std::vector<std::unique_ptr<Part>> parts;
    for (int p = 0, first = 0; p < count; p++) {
        double goal = until.back() * (p + 1) / count;
        int last = int(std::lower_bound(until.begin(), until.end(), goal) - until.begin());
        last = p + 1 == count ? tokens : std::min(last, tokens);
        if (first < last) parts.push_back(std::make_unique<Part>(step, first, last));
        first = std::max(first, last);
    }
    return parts;
}

// Whether threads that share every matrix help. They wait for each other at every kernel, so where
// somebody else has a core for himself, all wait for him and one alone is many times as fast. Time that
// passed without computing tells.
class Company {
  public:
    Company() : threads(omp_get_max_threads()) {
        if (alone > 0) omp_set_num_threads(1);
        if (alone == 0) began = {clock_s(CLOCK_MONOTONIC), clock_s(CLOCK_THREAD_CPUTIME_ID)};
    }
    ~Company() {
        omp_set_num_threads(threads);
        if (alone > 0) {
            alone--;
            return;
        }
        double passed = clock_s(CLOCK_MONOTONIC) - began.passed;
        double computed = clock_s(CLOCK_THREAD_CPUTIME_ID) - began.computed;
        bool waited = threads > 1 && computed < passed / 6;
        pause = waited ? std::min(2 * pause, LONGEST) : SHORTEST;
        alone = waited ? pause : 0;
    }

  private:
    static constexpr int SHORTEST = 16, LONGEST = 1024;  // steps until the next try
    struct Times {
        double passed, computed;
    };
    static double clock_s(clockid_t clock) {
        timespec time;
        clock_gettime(clock, &time);
        return double(time.tv_sec) + 1e-9 * double(time.tv_nsec);
    }
    inline static thread_local int alone = 0, pause = SHORTEST;
    int threads;
    Times began{};
};

// x (tokens, hidden) on its way through all layers, into `out` (wanted tokens, hidden).
void through(float* x, float* out, const Layer* layers, const Network& network, const Step& step,
             float* keys, float* values) {
    auto parts = divide(step, layers[0], network);
    int count = int(parts.size());
    auto walk = [&](int p) { parts[p]->walk(x, out, layers, network, keys, values, parts); };
    if (count == 1) {
        Company company;
        return walk(0);
    }
    // In their order, which OpenMP 5 keeps only where it is told to: a part waits for those before
    // it alone.
#pragma omp parallel for schedule(monotonic : dynamic, 1)
    for (int p = 0; p < count; p++) walk(p);
}

}  // namespace
