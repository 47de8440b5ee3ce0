#include "parameters.h"

#include <string.h>

#include "json.h"

/* Where weights come from: the tensors of a file, its path for errors, the compute dtype; and what became of them. */
typedef struct {
    Arena *arena;
    const char *path;
    const Tensor *tensors;
    Dtype fprop;
    const Tensor **loaded;
} Source;

static size_t ffn_size(size_t emb_size, double widening_factor) {
    size_t size = (size_t)(widening_factor * (double)emb_size) * 2 / 3;
    return size + (8 - size % 8) % 8;
}

static Dtype parse_fprop(const char *name) {
    if (strcmp(name, "float32") == 0) {
        return F32;
    }
    if (strcmp(name, "bfloat16") == 0) {
        return BF16;
    }
    refuse("fprop_dtype %s; it runs float32 and bfloat16", name);
}

static Config parse_config(const Json *json) {
    const Json *model = get_object(json, "model");
    Config config = {
        .num_layers = get_count(model, "num_layers"),
        .d = get_count(model, "emb_size"),
        .q = get_count(model, "num_q_heads"),
        .g = get_count(model, "num_kv_heads"),
        .h = get_count(model, "key_size"),
        .e = get_count(model, "num_experts"),
        .c = get_count(model, "num_selected_experts"),
        .v = get_count(json, "vocab_size"),
        .s = get_count(json, "sequence_len"),
        .pad_token = (int32_t)get_count(json, "pad_token"),
        .embedding_multiplier = (float)get_real(json, "embedding_multiplier_scale"),
        .attention_multiplier = (float)get_real(model, "attn_output_multiplier"),
        .output_multiplier = (float)get_real(json, "output_multiplier_scale"),
        .fprop = parse_fprop(get_string(json, "fprop_dtype")),
    };
    config.f = ffn_size(config.d, get_real(model, "widening_factor"));
    if (config.g == 0 || config.q % config.g != 0 || config.h % 2 != 0) {
        fail("config.json: num_q_heads must be a multiple of num_kv_heads, and key_size even");
    }
    if (config.e > 1 && (config.c < 1 || config.c > config.e)) {
        fail("config.json: num_selected_experts must lie in 1 to num_experts");
    }
    return config;
}

/* Keeps a parameter for all to see; `stored` has its shape. */
static const float *show(const Source *source, const char *name, const Tensor *stored, const float *values) {
    Tensor *shown = take(source->arena, 1, sizeof *shown);
    *shown = *stored;
    shown->name = text(source->arena, "loaded/%s", name);
    shown->dtype = F32;
    shown->bytes = encode(source->arena, F32, values, shown->num_elements);
    shown->next = (Tensor *)*source->loaded;
    *source->loaded = shown;
    return values;
}

static const float *plain(const Source *source, const char *name, size_t rank, const size_t *shape, Dtype dtype) {
    const Tensor *tensor = get_tensor(source->tensors, source->path, name, rank, shape);
    float *values = floats_of(source->arena, tensor);
    for (size_t i = 0; i < tensor->num_elements; i++) {
        values[i] = round_to(dtype, values[i]);
    }
    return show(source, name, tensor, values);
}

/* The scales of a quantised matrix, NULL for a plain one. */
static const Tensor *scales_of(const Source *source, const char *name) {
    return find_tensor(source->tensors, text(source->arena, "%s.scales", name));
}

/* Row k of a matrix has the scales of group k / (K / G). The product is rounded to the scales' dtype, and to the compute
 * dtype unless it is an expert's; in float32 not at all (SPEC §3, §9). */
static const float *dequantized(const Source *source, const char *name, size_t e, size_t k, size_t n) {
    const Tensor *scales = scales_of(source, name);
    size_t num_groups = scales->rank < 2 ? 0 : scales->shape[scales->rank - 2];
    if (num_groups == 0 || k % num_groups != 0 || scales->num_elements != e * num_groups * n) {
        fail("%s: tensor %s.scales: must be [.., G, %zu] with G dividing %zu", source->path, name, n, k);
    }
    const Tensor *weight = find_tensor(source->tensors, text(source->arena, "%s.weight", name));
    if (weight == NULL || weight->dtype != I8 || weight->num_elements != e * k * n) {
        fail("%s: tensor %s.weight: must be int8 and fit the configuration", source->path, name);
    }
    float *values = floats_of(source->arena, weight);
    const float *factors = floats_of(source->arena, scales);
    Dtype dtype = source->fprop == F32 || (e > 1 && scales->dtype == F32) ? F32 : BF16;
    for (size_t expert = 0; expert < e; expert++) {
        for (size_t row = 0; row < k; row++) {
            size_t group = expert * num_groups + row / (k / num_groups);
            for (size_t column = 0; column < n; column++) {
                float *value = values + (expert * k + row) * n + column;
                *value = round_to(dtype, *value * factors[group * n + column]);
            }
        }
    }
    return show(source, name, weight, values);
}

/* A matrix [e, k, n] of experts, or one of rank 2 with e = 1. */
static const float *matrix(const Source *source, const char *name, size_t e, size_t k, size_t n, int of_experts) {
    if (scales_of(source, name) != NULL) {
        return dequantized(source, name, e, k, n);
    }
    size_t shape[] = {e, k, n};
    return plain(source, name, of_experts ? 3 : 2, of_experts ? shape : shape + 1, source->fprop);
}

static const float *attention_matrix(const Source *source, const char *layer, const char *name, size_t k, size_t n) {
    return matrix(source, text(source->arena, "%s/multi_head_attention/%s/w", layer, name), 1, k, n, 0);
}

static const float *block_matrix(const Source *source, const char *layer, const char *name, size_t e, size_t k,
                                 size_t n) {
    return matrix(source, text(source->arena, "%s/%s%s/w", layer, e > 1 ? "moe/" : "", name), e, k, n, e > 1);
}

static Layer load_layer(const Source *source, const Config *config, size_t index) {
    const char *name = text(source->arena, "transformer/decoder_layer_%zu", index);
    size_t d = config->d, f = config->f, e = config->e > 1 ? config->e : 1;
    Layer layer = {
        .query = attention_matrix(source, name, "query", d, config->q * config->h),
        .key = attention_matrix(source, name, "key", d, config->g * config->h),
        .value = attention_matrix(source, name, "value", d, config->g * config->h),
        .output = attention_matrix(source, name, "linear", config->q * config->h, d),
        .linear = block_matrix(source, name, "linear", e, d, f),
        .linear_v = block_matrix(source, name, "linear_v", e, d, f),
        .linear_1 = block_matrix(source, name, "linear_1", e, f, d),
        .expert = config->fprop,
    };
    static const char *const suffixes[] = {"", "_1", "_2", "_3"};
    for (size_t i = 0; i < 4; i++) {
        layer.norms[i] = plain(source, text(source->arena, "%s/rms_norm%s/scale", name, suffixes[i]), SHAPE(d), F32);
    }
    if (e > 1) {
        const Tensor *scales = scales_of(source, text(source->arena, "%s/moe/linear/w", name));
        layer.router = plain(source, text(source->arena, "%s/router/w", name), SHAPE(d, e), F32);
        layer.expert = scales != NULL && scales->dtype == F32 ? F32 : config->fprop;
    }
    return layer;
}

const Model *load_model(Arena *arena, const char *job_dir) {
    const char *config_path = text(arena, "%s/config.json", job_dir);
    Model *model = take(arena, 1, sizeof *model);
    model->config = parse_config(parse_json(arena, config_path, read_file(arena, config_path)));
    const Config *config = &model->config;
    const char *path = text(arena, "%s/weights.safetensors", job_dir);
    Source source = {arena, path, read_tensors(arena, path), config->fprop, &model->loaded};
    size_t v = config->v, d = config->d;
    model->embeddings = plain(&source, "language_model/in_out_embed/embeddings", SHAPE(v, d), config->fprop);
    model->final_norm = plain(&source, "language_model/rms_norm/scale", SHAPE(d), F32);
    Layer *layers = take(arena, config->num_layers, sizeof *layers);
    for (size_t i = 0; i < config->num_layers; i++) {
        layers[i] = load_layer(&source, config, i);
    }
    model->layers = layers;
    return model;
}
