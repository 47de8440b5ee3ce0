#include "operations.h"

#include <math.h>
#include <string.h>

static const float NORM_EPSILON = 1e-5f;
static const float ROPE_BASE = 10000.0f;
static const float LOGIT_CAP = 30.0f;
static const float SQRT_2_OVER_PI = 0.79788456f;
static const float GELU_CUBIC = 0.044715f;

static float dot(const float *x, const float *y, size_t n) {
    float sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += x[i] * y[i];
    }
    return sum;
}

void multiply(float *y, const float *x, const float *w, size_t n, size_t k, size_t m, Dtype dtype) {
    for (size_t row = 0; row < n; row++, x += k, y += m) {
        memset(y, 0, m * sizeof *y);
        for (size_t i = 0; i < k; i++) {
            for (size_t j = 0; j < m; j++) {
                y[j] += x[i] * w[i * m + j];
            }
        }
        for (size_t j = 0; j < m; j++) {
            y[j] = round_to(dtype, y[j]);
        }
    }
}

void rms_norm(float *y, const float *x, const float *scale, size_t n, size_t d, Dtype dtype) {
    for (size_t row = 0; row < n; row++, x += d, y += d) {
        float inverse = 1 / sqrtf(dot(x, x, d) / (float)d + NORM_EPSILON);
        for (size_t i = 0; i < d; i++) {
            y[i] = round_to(dtype, x[i] * inverse * scale[i]);
        }
    }
}

void add(float *y, const float *x1, const float *x2, size_t n, Dtype dtype) {
    for (size_t i = 0; i < n; i++) {
        y[i] = round_to(dtype, x1[i] + x2[i]);
    }
}

void embed(float *y, const float *row, float multiplier, size_t d, Dtype dtype) {
    float rounded = round_to(dtype, multiplier);
    for (size_t i = 0; i < d; i++) {
        y[i] = round_to(dtype, row[i] * rounded);
    }
}

void unembed(float *y, const float *x, const float *table, float multiplier, size_t n, size_t d, size_t v,
             Dtype dtype) {
    float rounded = round_to(dtype, multiplier);
    for (size_t row = 0; row < n; row++) {
        for (size_t token = 0; token < v; token++) {
            float product = round_to(dtype, dot(x + row * d, table + token * d, d));
            y[row * v + token] = round_to(dtype, product * rounded);
        }
    }
}

void rotate(float *y, const float *x, size_t num_heads, size_t h, size_t position, Dtype dtype) {
    size_t half = h / 2;
    for (size_t j = 0; j < half; j++) {
        float phase = (float)position * powf(ROPE_BASE, -(float)j / (float)half);
        float cosine = cosf(phase), sine = sinf(phase);
        for (size_t head = 0; head < num_heads; head++) {
            float first = x[head * h + j], second = x[head * h + half + j];
            y[head * h + j] = round_to(dtype, first * cosine - second * sine);
            y[head * h + half + j] = round_to(dtype, second * cosine + first * sine);
        }
    }
}

void attention_logits(float *y, const float *query, const float *keys, float multiplier, size_t s, size_t stride,
                      size_t h, Dtype dtype) {
    for (size_t slot = 0; slot < s; slot++) {
        float scaled = round_to(dtype, dot(query, keys + slot * stride, h)) * multiplier;
        y[slot] = LOGIT_CAP * tanhf(scaled / LOGIT_CAP);
    }
}

void softmax(float *y, const float *x, const unsigned char *seen, size_t n, Dtype dtype) {
    float largest = -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++) {
        if (seen == NULL || seen[i]) {
            largest = fmaxf(largest, x[i]);
        }
    }
    for (size_t i = 0; i < n; i++) {
        y[i] = seen == NULL || seen[i] ? expf(x[i] - largest) : 0;
        sum += y[i];
    }
    for (size_t i = 0; i < n; i++) {
        y[i] = round_to(dtype, y[i] / sum);
    }
}

void choose_experts(int32_t *index, float *gate, const float *probabilities, size_t e, size_t c) {
    for (size_t rank = 0; rank < c; rank++) {
        gate[rank] = -1;
        for (size_t expert = 0; expert < e; expert++) {
            int taken = 0;
            for (size_t earlier = 0; earlier < rank; earlier++) {
                taken |= index[earlier] == (int32_t)expert;
            }
            if (!taken && probabilities[expert] > gate[rank]) {
                gate[rank] = probabilities[expert];
                index[rank] = (int32_t)expert;
            }
        }
    }
}

void gated_hidden(float *y, const float *activation, const float *up, size_t n, Dtype dtype) {
    for (size_t i = 0; i < n; i++) {
        float a = activation[i];
        float gelu = 0.5f * a * (1 + tanhf(SQRT_2_OVER_PI * (a + GELU_CUBIC * a * a * a)));
        y[i] = round_to(dtype, round_to(dtype, gelu) * up[i]);
    }
}

void combine(float *y, const float *outputs, const float *gate, size_t c, size_t d, Dtype dtype) {
    for (size_t i = 0; i < d; i++) {
        float sum = 0;
        for (size_t rank = 0; rank < c; rank++) {
            sum += round_to(dtype, gate[rank]) * outputs[rank * d + i];
        }
        y[i] = round_to(dtype, sum);
    }
}
