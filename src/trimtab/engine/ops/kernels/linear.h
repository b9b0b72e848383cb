// Projections of few and of many tokens, from one copy of the weights.
//
// Weights lie in panels of 16 outputs: (panels, inputs, 16), the last one filled up with zeros. A
// panel of bfloat16 keeps output j and output j + 8 in the halves of one word, so that a shift and a
// mask widen sixteen of them. Six tokens by one panel, the sums of which fill the registers, go over
// a stretch of inputs that the first-level cache holds.
#pragma once

#include "numbers.h"

namespace {

constexpr int PANEL = 16;    // outputs
constexpr int TILE = 6;      // tokens
constexpr int STRETCH = 768; // inputs: a panel and a tile of them fit the first-level cache, nearly
constexpr int TOKENS = 48;   // tokens that stay in the second-level cache
// How far ahead of the multiplication the weights are asked for, in bytes: measured, not derived.
constexpr int AHEAD = 1024;

typedef float Eight __attribute__((vector_size(32)));
typedef uint32_t EightWords __attribute__((vector_size(32)));

// One input's weights for the outputs of a panel.
inline void load_panel(const bf16* p, Eight& low, Eight& high) {
    EightWords words;
    std::memcpy(&words, p, sizeof words);
    EightWords first = words << 16, second = words & 0xffff0000u;
    std::memcpy(&low, &first, sizeof low);
    std::memcpy(&high, &second, sizeof high);
}
inline void load_panel(const float* p, Eight& low, Eight& high) {
    std::memcpy(&low, p, sizeof low);
    std::memcpy(&high, p + 8, sizeof high);
}

// The place of output `lane` among the 16 numbers that a panel keeps of one input.
inline int place(const float*, int lane) { return lane; }
inline int place(const bf16*, int lane) { return lane < PANEL / 2 ? 2 * lane : 2 * lane - PANEL + 1; }

// Rows (outputs, inputs) into panels; the last one is filled up with zeros.
template <class W>
void panel(const W* rows, W* panels, int outputs, int inputs) {
    int count = (outputs + PANEL - 1) / PANEL;
#pragma omp parallel for schedule(static)
    for (int p = 0; p < count; p++) {
        W* to = panels + size_t(p) * inputs * PANEL;
        int here = std::min(PANEL, outputs - p * PANEL);
        if (here < PANEL) std::memset(static_cast<void*>(to), 0, size_t(inputs) * PANEL * sizeof(W));
        // A piece of the panel at a time, so that each of its lines is written while it is near.
        constexpr int PIECE = 64;
        for (int begin = 0; begin < inputs; begin += PIECE)
            for (int lane = 0; lane < here; lane++) {
                const W* from = rows + (size_t(p) * PANEL + lane) * inputs;
                int at = place(to, lane), end = std::min(inputs, begin + PIECE);
                for (int k = begin; k < end; k++) to[size_t(k) * PANEL + at] = from[k];
            }
    }
}

// y += x w for PANELS panels and COUNT tokens over `inputs` inputs; `fresh` says that y holds
// nothing yet. Rows of x are `width` apart, of y `outputs`, panels of w `apart`.
template <int PANELS, int COUNT, class W>
inline void panel_tile(const float* x, const W* w, float* y, int inputs, size_t width, size_t apart,
                       int outputs, int left, bool fresh) {
    Eight sums[PANELS][COUNT][2] = {};
    // On from the sums so far: a token's are added in one order, whoever is beside it.
    for (int t = 0; t < COUNT && !fresh; t++)
        for (int p = 0; p < PANELS; p++) {
            size_t here = std::min(PANEL, left - p * PANEL) * sizeof(float);
            std::memcpy(sums[p][t], y + size_t(t) * outputs + p * PANEL, here);
        }
    for (int k = 0; k < inputs; k++) {
        Eight weights[PANELS][2];
        for (int p = 0; p < PANELS; p++) {
            const W* from = w + p * apart + size_t(k) * PANEL;
            load_panel(from, weights[p][0], weights[p][1]);
            __builtin_prefetch(reinterpret_cast<const char*>(from) + AHEAD);
        }
        for (int t = 0; t < COUNT; t++) {
            float v = x[t * width + k];
            for (int p = 0; p < PANELS; p++) {
                sums[p][t][0] += v * weights[p][0];
                sums[p][t][1] += v * weights[p][1];
            }
        }
    }
    for (int t = 0; t < COUNT; t++)
        for (int p = 0; p < PANELS; p++) {
            size_t here = std::min(PANEL, left - p * PANEL) * sizeof(float);
            std::memcpy(y + size_t(t) * outputs + p * PANEL, sums[p][t], here);
        }
}

// A few tokens wait for memory, not for sums: several panels at once keep the registers full.
template <int PANELS, int COUNT, class W>
void few_tokens(const float* x, const W* w, float* y, int inputs, int outputs, int first,
                int last) {
    size_t apart = size_t(inputs) * PANEL;
    int p = first;
    for (; p + PANELS <= last; p += PANELS)
        panel_tile<PANELS, COUNT>(x, w + p * apart, y + p * PANEL, inputs, inputs, apart, outputs,
                                  outputs - p * PANEL, true);
    for (; p < last; p++)
        panel_tile<1, COUNT>(x, w + p * apart, y + p * PANEL, inputs, inputs, apart, outputs,
                             outputs - p * PANEL, true);
}

// Tokens in tiles of nearly equal height: a tile of one would waste the others' loads.
template <class F>
inline void for_tiles(int first, int last, F compute) {
    int tiles = (last - first + TILE - 1) / TILE;
    for (int i = 0; i < tiles; i++) {
        int t = first + (last - first) * i / tiles;
        switch (first + (last - first) * (i + 1) / tiles - t) {
            case 1: compute(t, std::integral_constant<int, 1>()); break;
            case 2: compute(t, std::integral_constant<int, 2>()); break;
            case 3: compute(t, std::integral_constant<int, 3>()); break;
            case 4: compute(t, std::integral_constant<int, 4>()); break;
            case 5: compute(t, std::integral_constant<int, 5>()); break;
            default: compute(t, std::integral_constant<int, TILE>());
        }
    }
}

// Rows of x are `width` apart.
template <class W>
void many_tokens(const float* x, const W* w, float* y, int tokens, int inputs, size_t width,
                 int outputs, int first, int last) {
    size_t apart = size_t(inputs) * PANEL;
    int stretches = (inputs + STRETCH - 1) / STRETCH, blocks = (tokens + TOKENS - 1) / TOKENS;
    for (int b = 0; b < blocks; b++) {
        int block = tokens * b / blocks, end = tokens * (b + 1) / blocks;
        for (int s = 0; s < stretches; s++) {
            int from = inputs * s / stretches, count = inputs * (s + 1) / stretches - from;
            for (int p = first; p < last; p++) {
                const W* panel = w + p * apart + size_t(from) * PANEL;
                for_tiles(block, end, [&](int t, auto height) {
                    panel_tile<1, decltype(height)::value>(
                        x + t * width + from, panel, y + size_t(t) * outputs + p * PANEL, count, width,
                        apart, outputs, outputs - p * PANEL, s == 0);
                });
            }
        }
    }
}

// y (tokens, outputs) = x (tokens, inputs) times the transpose of what lies in the panels, in pieces
// that any thread may compute.
template <class W>
struct Linear {
    const float* x;
    const W* w;
    float* y;
    int tokens, inputs, outputs;

    int panels() const { return (outputs + PANEL - 1) / PANEL; }
    // More pieces than threads: who is held up by somebody else's work leaves some to the others.
    int pieces() const { return std::min(panels(), 16); }

    void piece(int i) const {
        int first = int(int64_t(panels()) * i / pieces());
        int last = int(int64_t(panels()) * (i + 1) / pieces());
        switch (tokens) {
            case 1: few_tokens<4, 1>(x, w, y, inputs, outputs, first, last); break;
            case 2: few_tokens<3, 2>(x, w, y, inputs, outputs, first, last); break;
            case 3: few_tokens<2, 3>(x, w, y, inputs, outputs, first, last); break;
            case 4: few_tokens<1, 4>(x, w, y, inputs, outputs, first, last); break;
            case 5: few_tokens<1, 5>(x, w, y, inputs, outputs, first, last); break;
            case 6: few_tokens<1, 6>(x, w, y, inputs, outputs, first, last); break;
            default: many_tokens(x, w, y, tokens, inputs, inputs, outputs, first, last);
        }
    }

    void all() const {
        int count = pieces();
#pragma omp parallel for schedule(dynamic, 1)
        for (int i = 0; i < count; i++) piece(i);
    }
};

template <class W>
void linear(const float* x, const W* w, float* y, int tokens, int inputs, int outputs) {
    Linear<W>{x, w, y, tokens, inputs, outputs}.all();
}

}  // namespace
