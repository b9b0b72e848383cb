// All layers of the network in one call, in float32: between two kernels nobody else is asked.
#pragma once

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
// an adapter that leaves a projection alone has one of no rank.
struct Step {
    const float *cos, *sin;
    const int64_t* places;
    const int32_t *tables, *starts, *lengths;
    const Segment* segments;
    const Pair* const* adapters;
    int64_t tokens, sequences, table_width, segment_count, adapter_count;
};

struct Network {
    int64_t layers, hidden, heads, kv_heads, dim, cached;  // `cached`: numbers of a layer's keys
    double epsilon;
};

template <class W>
void project(const Linear<W>& job, const Pair* pairs, const Step& step) {
    Adapting<float> adapting(job.y, job.x, job.inputs, job.outputs, pairs, step.segments,
                             int(step.segment_count));
    int pieces = job.pieces(), first_half = adapting.first_half();
    int second_half = adapting.second_half();
#pragma omp parallel
    {
#pragma omp for schedule(dynamic, 1) nowait
        for (int i = 0; i < pieces; i++) job.piece(i);
#pragma omp for schedule(dynamic, 4)
        for (int i = 0; i < first_half; i++) adapting.down(i);
#pragma omp for schedule(dynamic, 4)
        for (int i = 0; i < second_half; i++) adapting.up(i);
    }
}

void project(const Projection& by, int place, const float* x, float* y, const Step& step,
             std::vector<Pair>& pairs) {
    int tokens = int(step.tokens), inputs = int(by.inputs), outputs = int(by.outputs);
    for (int a = 0; a < step.adapter_count; a++) pairs[a] = step.adapters[a][place];
    auto multiply = [&](auto panels) {
        using W = std::remove_const_t<std::remove_pointer_t<decltype(panels)>>;
        if (step.segment_count)
            project(Linear<W>{x, panels, y, tokens, inputs, outputs}, pairs.data(), step);
        else
            linear(x, panels, y, tokens, inputs, outputs);
    };
    if (by.narrow)
        multiply(static_cast<const bf16*>(by.panels));
    else
        multiply(static_cast<const float*>(by.panels));
    for (int t = 0; by.bias != nullptr && t < tokens; t++)
        for (int i = 0; i < outputs; i++) y[size_t(t) * outputs + i] += by.bias[i];
}

// x (tokens, hidden) on its way through all layers, in place.
void through(float* x, const Layer* layers, const Network& network, const Step& step, float* keys,
             float* values) {
    int tokens = int(step.tokens), hidden = int(network.hidden), dim = int(network.dim);
    int heads = int(network.heads), kv_heads = int(network.kv_heads);
    float epsilon = float(network.epsilon);
    size_t widest = size_t(hidden);
    for (const Projection& by : layers[0].groups)
        widest = std::max(widest, size_t(std::max(by.inputs, by.outputs)));
    static thread_local std::vector<float> memory;
    memory.resize(3 * widest * tokens);
    float *narrow = memory.data(), *wide = narrow + widest * tokens, *delta = wide + widest * tokens;
    std::vector<Pair> pairs(step.adapter_count);
    const float* more = nullptr;
    for (int l = 0; l < network.layers; l++) {
        const Layer& layer = layers[l];
        const Projection* by = layer.groups;
        float *own_keys = keys + l * network.cached, *own_values = values + l * network.cached;
        norm(x, more, layer.before_attention, narrow, tokens, hidden, epsilon);
        project(by[QKV], l * GROUPS + QKV, narrow, wide, step, pairs);
        rotate_and_store(wide, layer.q_norm, layer.k_norm, step.cos, step.sin, own_keys, own_values,
                         step.places, tokens, heads, kv_heads, dim, epsilon);
        attend(wide, own_keys, own_values, step.tables, int(step.table_width), step.starts,
               step.lengths, int(step.sequences), narrow, heads, kv_heads, dim);
        project(by[O], l * GROUPS + O, narrow, delta, step, pairs);
        norm(x, delta, layer.before_mlp, narrow, tokens, hidden, epsilon);
        project(by[GATE_UP], l * GROUPS + GATE_UP, narrow, wide, step, pairs);
        gate(wide, narrow, tokens, int(by[DOWN].inputs));
        project(by[DOWN], l * GROUPS + DOWN, narrow, delta, step, pairs);
        more = delta;
    }
    for (size_t i = 0; more != nullptr && i < size_t(tokens) * hidden; i++) x[i] += more[i];
}

}  // namespace
