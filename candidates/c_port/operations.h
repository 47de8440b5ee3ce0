/* The operations of the graph on float32 arrays, each rounded to the dtype given (SPEC §4).
 *
 * Sizes are the specification's axes: b batch, t query, s cache slot, d model width, q query head, g KV head,
 * h head width, e expert, c chosen expert. Arrays are in C order.
 */

#ifndef OPERATIONS_H
#define OPERATIONS_H

#include "tensors.h"

/* y [n, m] = x [n, k] · w [k, m], summed in float32 (SPEC §4.4). */
void multiply(float *y, const float *x, const float *w, size_t n, size_t k, size_t m, Dtype dtype);

/* y [n, d] = x · rsqrt(mean(x²) + 1e-5) · scale [d], float32 inside (SPEC §4). */
void rms_norm(float *y, const float *x, const float *scale, size_t n, size_t d, Dtype dtype);

/* y [n] = x1 + x2, the residual stream (SPEC §4.5, §4.7). */
void add(float *y, const float *x1, const float *x2, size_t n, Dtype dtype);

/* y [d] = a row of the table times the multiplier, both in dtype (SPEC §4.2). */
void embed(float *y, const float *row, float multiplier, size_t d, Dtype dtype);

/* y [n, v] = x [n, d] · tableᵀ [d, v], rounded, times the multiplier (SPEC §4.8). */
void unembed(float *y, const float *x, const float *table, float multiplier, size_t n, size_t d, size_t v,
             Dtype dtype);

/* Rotates the halves x1, x2 of heads of width h at a position: x1·cos − x2·sin, x2·cos + x1·sin (SPEC §4.4). */
void rotate(float *y, const float *x, size_t num_heads, size_t h, size_t position, Dtype dtype);

/* y [s] = 30·tanh(query [h] · keys [s, h] · multiplier / 30), the products rounded first (SPEC §4.4).
 *
 * Keys of consecutive slots lie `stride` apart. */
void attention_logits(float *y, const float *query, const float *keys, float multiplier, size_t s, size_t stride,
                      size_t h, Dtype dtype);

/* y [n] = softmax of x where seen, 0 elsewhere, in float32 (SPEC §4.4, §4.6). A NULL `seen` sees all. */
void softmax(float *y, const float *x, const unsigned char *seen, size_t n, Dtype dtype);

/* Chooses the c largest of e probabilities, largest first, ties to the lowest index (SPEC §4.6). */
void choose_experts(int32_t *index, float *gate, const float *probabilities, size_t e, size_t c);

/* y [n] = gelu(activation) · up; gelu in its tanh form, rounded to the dtype (SPEC §4.6, §9). */
void gated_hidden(float *y, const float *activation, const float *up, size_t n, Dtype dtype);

/* y [d] = Σ gate [c] · outputs [c, d], the gates rounded to the dtype, float32 inside (SPEC §4.6). */
void combine(float *y, const float *outputs, const float *gate, size_t c, size_t d, Dtype dtype);

#endif
