#include "model.h"

#include <string.h>

#include "operations.h"

enum { WHOLE_MODEL = -1 };

/* One call: what every layer needs to know. */
typedef struct {
    Arena *arena;
    const Config *config;
    Memory *memory;
    const int32_t *tokens; /* [b, t] */
    size_t b, t;
    Taps *taps;
} Call;

static float *floats(const Call *call, size_t num_elements) {
    return take(call->arena, num_elements, sizeof(float));
}

static int is_wanted(const Taps *taps, const char *name) {
    for (const Json *wanted = taps->wanted; wanted != NULL; wanted = wanted->next) {
        if (wanted->kind == JSON_STRING && strcmp(wanted->string, name) == 0) {
            return 1;
        }
    }
    return 0;
}

/* Shows a value under the name of the operation that made it; `values` are floats, or int32_t for I32. */
static void tap(Taps *taps, int layer, const char *operation, Dtype dtype, const void *values, size_t rank,
                const size_t *shape) {
    const char *name = layer == WHOLE_MODEL ? operation : text(taps->arena, "layers.%02d.%s", layer, operation);
    if (!is_wanted(taps, name)) {
        return;
    }
    Tensor *tensor = take(taps->arena, 1, sizeof *tensor);
    *tensor = (Tensor){
        .name = text(taps->arena, "call%zu/%s", taps->call, name),
        .dtype = dtype,
        .rank = rank,
        .num_elements = 1,
        .next = (Tensor *)taps->shown,
    };
    for (size_t axis = 0; axis < rank; axis++) {
        tensor->shape[axis] = shape[axis];
        tensor->num_elements *= shape[axis];
    }
    tensor->bytes = encode(taps->arena, dtype, values, tensor->num_elements);
    taps->shown = tensor;
}

/* Marks the slots that the softmax of one query runs over (SPEC §4.4).
 *
 * A key of this call is seen if it is no pad and not later than the query, a key of an earlier call always; a single
 * token that is a pad sees none. A query that sees no key averages over the first step + t slots, a single token over
 * all; returns whether it sees one. */
static int mark_seen(unsigned char *seen, const Call *call, size_t row, size_t query) {
    const int32_t *tokens = call->tokens + row * call->t;
    size_t step = (size_t)call->memory->steps[row];
    int sees_any = 0;
    for (size_t slot = 0; slot < call->config->s; slot++) {
        const int32_t *masking = call->t == 1 ? tokens : slot >= step ? tokens + (slot - step) : NULL;
        seen[slot] = slot <= step + query && (masking == NULL || *masking > call->config->pad_token);
        sees_any |= seen[slot];
    }
    if (!sees_any) {
        memset(seen, 1, call->t == 1 ? call->config->s : step + call->t);
    }
    return sees_any;
}

/* Returns the attended values [b, t, q, h] of rotated queries; query head j uses KV head j / r (SPEC §4.4). */
static const float *attend(const Call *call, int layer, const float *query, const float *keys, const float *values) {
    const Config *config = call->config;
    size_t b = call->b, t = call->t, q = config->q, g = config->g, r = q / g, h = config->h, s = config->s;
    float *logits = floats(call, b * q * t * s); /* [b, g, r, t, s] */
    float *weights = floats(call, b * q * t * s);
    float *heads = floats(call, b * t * q * h);
    const float *masked = floats(call, s); /* the logits of a query that sees no key: all equal */
    unsigned char *seen = take(call->arena, s, 1);
    for (size_t row = 0; row < b; row++) {
        for (size_t i = 0; i < t; i++) {
            int sees_any = mark_seen(seen, call, row, i);
            for (size_t head = 0; head < q; head++) {
                size_t at = ((row * q + head) * t + i) * s;
                size_t cached = row * s * g * h + head / r * h;
                size_t place = ((row * t + i) * q + head) * h;
                attention_logits(logits + at, query + place, keys + cached, config->attention_multiplier, s, g * h, h,
                                 config->fprop);
                softmax(weights + at, sees_any ? logits + at : masked, seen, s, config->fprop);
                for (size_t slot = 0; slot < s; slot++) {
                    for (size_t j = 0; seen[slot] && j < h; j++) {
                        heads[place + j] += weights[at + slot] * values[cached + slot * g * h + j];
                    }
                }
                for (size_t j = 0; j < h; j++) {
                    heads[place + j] = round_to(config->fprop, heads[place + j]);
                }
            }
        }
    }
    tap(call->taps, layer, "attention.logits", F32, logits, SHAPE(b, g, r, t, s));
    tap(call->taps, layer, "attention.weights", config->fprop, weights, SHAPE(b, g, r, t, s));
    tap(call->taps, layer, "attention.heads", config->fprop, heads, SHAPE(b, t, q, h));
    return heads;
}

/* Writes new keys or values [b, t, g, h] into a cache [b, s, g, h] at each row's step (SPEC §5). */
static void update_cache(const Call *call, float *cache, const float *new) {
    size_t width = call->config->g * call->config->h;
    for (size_t row = 0; row < call->b; row++) {
        size_t slot = row * call->config->s + (size_t)call->memory->steps[row];
        memcpy(cache + slot * width, new + row * call->t * width, call->t * width * sizeof *cache);
    }
}

static const float *rotated(const Call *call, const float *x, size_t num_heads) {
    size_t width = num_heads * call->config->h;
    float *y = floats(call, call->b * call->t * width);
    for (size_t i = 0; i < call->b * call->t; i++) {
        size_t position = (size_t)call->memory->steps[i / call->t] + i % call->t;
        rotate(y + i * width, x + i * width, num_heads, call->config->h, position, call->config->fprop);
    }
    return y;
}

static const float *attention(const Call *call, const Layer *layer, int index, const float *x) {
    const Config *config = call->config;
    size_t b = call->b, t = call->t, n = b * t, d = config->d, q = config->q, g = config->g, h = config->h;
    size_t s = config->s, cached = (size_t)index * b * s * g * h;
    float *keys = call->memory->keys + cached, *values = call->memory->values + cached; /* [b, s, g, h] */
    Dtype dtype = config->fprop;
    float *query = floats(call, n * q * h), *key = floats(call, n * g * h), *value = floats(call, n * g * h);
    multiply(query, x, layer->query, n, d, q * h, dtype);
    multiply(key, x, layer->key, n, d, g * h, dtype);
    multiply(value, x, layer->value, n, d, g * h, dtype);
    const float *query_rotated = rotated(call, query, q), *key_rotated = rotated(call, key, g);
    update_cache(call, keys, key_rotated);
    update_cache(call, values, value);
    tap(call->taps, index, "attention.query", dtype, query, SHAPE(b, t, q, h));
    tap(call->taps, index, "attention.key", dtype, key, SHAPE(b, t, g, h));
    tap(call->taps, index, "attention.value", dtype, value, SHAPE(b, t, g, h));
    tap(call->taps, index, "attention.query_rotated", dtype, query_rotated, SHAPE(b, t, q, h));
    tap(call->taps, index, "attention.key_rotated", dtype, key_rotated, SHAPE(b, t, g, h));
    tap(call->taps, index, "kv.keys", dtype, keys, SHAPE(b, s, g, h));
    tap(call->taps, index, "kv.values", dtype, values, SHAPE(b, s, g, h));
    const float *heads = attend(call, index, query_rotated, keys, values);
    float *output = floats(call, n * d);
    multiply(output, heads, layer->output, n, q * h, d, dtype);
    tap(call->taps, index, "attention.output", dtype, output, SHAPE(b, t, d));
    return output;
}

static const float *mixture(const Call *call, const Layer *layer, int index, const float *x) {
    const Config *config = call->config;
    size_t b = call->b, t = call->t, n = b * t, d = config->d, e = config->e, c = config->c, f = config->f;
    float *logits = floats(call, n * e), *probabilities = floats(call, n * e), *gate = floats(call, n * c);
    float *activation = floats(call, n * c * f), *up = floats(call, n * c * f), *hidden = floats(call, n * c * f);
    float *outputs = floats(call, n * c * d), *combined = floats(call, n * d);
    int32_t *chosen = take(call->arena, n * c, sizeof *chosen);
    multiply(logits, x, layer->router, n, d, e, F32);
    for (size_t i = 0; i < n; i++) {
        softmax(probabilities + i * e, logits + i * e, NULL, e, F32);
        choose_experts(chosen + i * c, gate + i * c, probabilities + i * e, e, c);
        for (size_t place = i * c; place < (i + 1) * c; place++) {
            size_t matrix = (size_t)chosen[place] * d * f;
            multiply(activation + place * f, x + i * d, layer->linear + matrix, 1, d, f, layer->expert);
            multiply(up + place * f, x + i * d, layer->linear_v + matrix, 1, d, f, layer->expert);
            gated_hidden(hidden + place * f, activation + place * f, up + place * f, f, F32);
            multiply(outputs + place * d, hidden + place * f, layer->linear_1 + matrix, 1, f, d, F32);
        }
        combine(combined + i * d, outputs + i * c * d, gate + i * c, c, d, config->fprop);
    }
    tap(call->taps, index, "router.logits", F32, logits, SHAPE(b, t, e));
    tap(call->taps, index, "router.probabilities", F32, probabilities, SHAPE(b, t, e));
    tap(call->taps, index, "moe.expert_index", I32, chosen, SHAPE(b, t, c));
    tap(call->taps, index, "moe.expert_gate", F32, gate, SHAPE(b, t, c));
    tap(call->taps, index, "moe.expert_activation", layer->expert, activation, SHAPE(b, t, c, f));
    tap(call->taps, index, "moe.expert_up", layer->expert, up, SHAPE(b, t, c, f));
    tap(call->taps, index, "moe.expert_hidden", F32, hidden, SHAPE(b, t, c, f));
    tap(call->taps, index, "moe.expert_output", F32, outputs, SHAPE(b, t, c, d));
    return combined;
}

static const float *dense_block(const Call *call, const Layer *layer, int index, const float *x) {
    const Config *config = call->config;
    size_t b = call->b, t = call->t, n = b * t, d = config->d, f = config->f;
    Dtype dtype = config->fprop;
    float *activation = floats(call, n * f), *up = floats(call, n * f), *hidden = floats(call, n * f);
    float *output = floats(call, n * d);
    multiply(activation, x, layer->linear, n, d, f, dtype);
    multiply(up, x, layer->linear_v, n, d, f, dtype);
    gated_hidden(hidden, activation, up, n * f, dtype);
    multiply(output, hidden, layer->linear_1, n, f, d, dtype);
    tap(call->taps, index, "dense.activation", dtype, activation, SHAPE(b, t, f));
    tap(call->taps, index, "dense.up", dtype, up, SHAPE(b, t, f));
    tap(call->taps, index, "dense.hidden", dtype, hidden, SHAPE(b, t, f));
    return output;
}

static const float *norm(const Call *call, int index, const char *operation, const float *x, const float *scale) {
    size_t d = call->config->d;
    float *y = floats(call, call->b * call->t * d);
    rms_norm(y, x, scale, call->b * call->t, d, call->config->fprop);
    tap(call->taps, index, operation, call->config->fprop, y, SHAPE(call->b, call->t, d));
    return y;
}

static const float *residual(const Call *call, int index, const char *operation, const float *x, const float *update) {
    size_t d = call->config->d;
    float *y = floats(call, call->b * call->t * d);
    add(y, x, update, call->b * call->t * d, call->config->fprop);
    tap(call->taps, index, operation, call->config->fprop, y, SHAPE(call->b, call->t, d));
    return y;
}

/* Returns the residual stream [b, t, d] after one layer (SPEC §4.4-§4.7). */
static const float *decoder_layer(const Call *call, const Layer *layer, int index, const float *x) {
    const float *a = norm(call, index, "attention.norm", x, layer->norms[0]);
    const float *attended = attention(call, layer, index, a);
    const float *update = norm(call, index, "attention.output_norm", attended, layer->norms[1]);
    x = residual(call, index, "attention.residual", x, update);
    const float *m = norm(call, index, "moe.norm", x, layer->norms[2]);
    const float *output = layer->router == NULL ? dense_block(call, layer, index, m) : mixture(call, layer, index, m);
    tap(call->taps, index, "moe.output", call->config->fprop, output, SHAPE(call->b, call->t, call->config->d));
    update = norm(call, index, "moe.output_norm", output, layer->norms[3]);
    return residual(call, index, "output", x, update);
}

Memory new_memory(Arena *arena, const Config *config, size_t b) {
    size_t num_elements = config->num_layers * b * config->s * config->g * config->h;
    return (Memory){
        .b = b,
        .keys = take(arena, num_elements, sizeof(float)),
        .values = take(arena, num_elements, sizeof(float)),
        .steps = take(arena, b, sizeof(int32_t)),
    };
}

static void check_call(const Call *call) {
    for (size_t i = 0; i < call->b * call->t; i++) {
        if (call->tokens[i] < 0 || (size_t)call->tokens[i] >= call->config->v) {
            fail("token %d in row %zu is outside the vocabulary of %zu", call->tokens[i], i / call->t, call->config->v);
        }
    }
    for (size_t row = 0; row < call->b; row++) {
        int32_t step = call->memory->steps[row];
        if (step < 0 || (size_t)step + call->t > call->config->s) {
            fail("row %zu: step %d + %zu tokens exceed the cache of %zu slots", row, step, call->t, call->config->s);
        }
    }
}

void forward(Arena *arena, const Model *model, Memory *memory, const int32_t *tokens, size_t t, Taps *taps) {
    const Config *config = &model->config;
    Call call = {arena, config, memory, tokens, memory->b, t, taps};
    check_call(&call);
    size_t b = memory->b, n = b * t, d = config->d, v = config->v;
    float *embedded = floats(&call, n * d);
    for (size_t i = 0; i < n; i++) {
        const float *row = model->embeddings + (size_t)tokens[i] * d;
        embed(embedded + i * d, row, config->embedding_multiplier, d, config->fprop);
    }
    tap(taps, WHOLE_MODEL, "embedding", config->fprop, embedded, SHAPE(b, t, d));
    const float *x = embedded;
    for (size_t index = 0; index < config->num_layers; index++) {
        x = decoder_layer(&call, model->layers + index, (int)index, x);
    }
    const float *hidden = norm(&call, WHOLE_MODEL, "final_norm", x, model->final_norm);
    float *logits = floats(&call, n * v);
    unembed(logits, hidden, model->embeddings, config->output_multiplier, n, d, v, config->fprop);
    tap(taps, WHOLE_MODEL, "logits", config->fprop, logits, SHAPE(b, t, v));
}
