// What torch does badly on a CPU, for steps of few tokens. Plain C functions over pointers: rows of
// tokens are contiguous, matrices are row-major, T is float or bfloat16, sums are in float.
// Threads come from the OpenMP runtime that torch has loaded. Compiled once for each level of the
// processor's abilities, whose name the functions end with; see levels.cpp.

#include "adapt.h"
#include "attention.h"
#include "linear.h"
#include "network.h"
#include "numbers.h"
#include "rows.h"

#define JOIN(NAME, LEVEL) NAME##_##LEVEL
#define JOIN_VALUES(NAME, LEVEL) JOIN(NAME, LEVEL)
#define AT_LEVEL(NAME) JOIN_VALUES(NAME, LEVEL)

#define BOTH(T, SUFFIX)                                                                            \
    void AT_LEVEL(norm_##SUFFIX)(T* x, const T* delta, const T* weight, T* out, int tokens, int width,       \
                       float epsilon) {                                                            \
        norm(x, delta, weight, out, tokens, width, epsilon);                                       \
    }                                                                                              \
    void AT_LEVEL(rotate_and_store_##SUFFIX)(T* qkv, const T* q_norm, const T* k_norm, const float* cos,     \
                                   const float* sin, T* keys, T* values, const int64_t* places,    \
                                   int tokens, int heads, int kv_heads, int dim, float epsilon) {  \
        rotate_and_store(qkv, q_norm, k_norm, cos, sin, keys, values, places, tokens, heads,       \
                         kv_heads, dim, epsilon);                                                  \
    }                                                                                              \
    void AT_LEVEL(attend_##SUFFIX)(const T* qkv, const T* keys, const T* values, const int32_t* tables,      \
                         int table_width, const int32_t* starts, const int32_t* lengths,           \
                         int sequences, T* out, int heads, int kv_heads, int dim) {                \
        attend(qkv, keys, values, tables, table_width, starts, lengths, sequences, out, heads,     \
               kv_heads, dim);                                                                     \
    }                                                                                              \
    void AT_LEVEL(gate_##SUFFIX)(const T* gate_up, T* out, int tokens, int width) {                          \
        gate(gate_up, out, tokens, width);                                                         \
    }                                                                                              \
    void AT_LEVEL(adapt_##SUFFIX)(T* y, const T* x, int inputs, int outputs, const Pair* pairs,              \
                        const Segment* segments, int count) {                                      \
        adapt(y, x, inputs, outputs, pairs, segments, count);                                      \
    }

extern "C" {

BOTH(float, float32)
BOTH(bf16, bfloat16)

void AT_LEVEL(through)(float* x, float* out, const Layer* layers, const Network* network, const Step* step,
             float* keys, float* values) {
    through(x, out, layers, *network, *step, keys, values);
}
void AT_LEVEL(best_float32)(const float* logits, int64_t* tokens, float* normalisers, int rows, int width) {
    best(logits, tokens, normalisers, rows, width);
}
void AT_LEVEL(panel_float32)(const float* rows, float* panels, int outputs, int inputs) {
    panel(rows, panels, outputs, inputs);
}
void AT_LEVEL(panel_bfloat16)(const bf16* rows, bf16* panels, int outputs, int inputs) {
    panel(rows, panels, outputs, inputs);
}
void AT_LEVEL(linear_float32)(const float* x, const float* w, float* y, int tokens, int inputs, int outputs) {
    linear(x, w, y, tokens, inputs, outputs);
}
void AT_LEVEL(linear_bfloat16)(const float* x, const bf16* w, float* y, int tokens, int inputs, int outputs) {
    linear(x, w, y, tokens, inputs, outputs);
}
}
