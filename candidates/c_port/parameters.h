/* The configuration and the weights of a model, brought into float32 (SPEC §1, §2, §3). */

#ifndef PARAMETERS_H
#define PARAMETERS_H

#include "tensors.h"

/* Sizes by axis letter; `m` names of config.json are spelt out where no letter exists (SPEC §1). */
typedef struct {
    size_t num_layers, d, q, g, h, e, c, f, v, s;
    int32_t pad_token;
    float embedding_multiplier, attention_multiplier, output_multiplier;
    Dtype fprop;
} Config;

/* A layer's matrices, dequantized. A dense layer has one expert's and no router. */
typedef struct {
    const float *norms[4];                      /* [d] each: rms_norm, _1, _2, _3 */
    const float *query, *key, *value, *output;  /* [d, q·h], [d, g·h], [d, g·h], [q·h, d] */
    const float *router;                        /* [d, e] */
    const float *linear, *linear_v, *linear_1;  /* [e, d, f], [e, d, f], [e, f, d] */
    Dtype expert;                               /* in which activation and up are kept (SPEC §4.6, §9) */
} Layer;

typedef struct {
    Config config;
    const float *embeddings; /* [v, d] */
    const float *final_norm; /* [d] */
    const Layer *layers;
    const Tensor *loaded; /* all of these as they are held, by their stored names after `loaded/` */
} Model;

/* Reads config.json and weights.safetensors of a job folder; ends the program if they do not fit each other. */
const Model *load_model(Arena *arena, const char *job_dir);

#endif
