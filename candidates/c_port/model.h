/* The model: operations wired into layers, the cache kept between calls, and the values shown (SPEC §4, §5). */

#ifndef MODEL_H
#define MODEL_H

#include "json.h"
#include "parameters.h"

/* What a call shows: the taps whose names are in `wanted`, stored as `call0/NAME`, newest first. */
typedef struct {
    Arena *arena;
    const Json *wanted;
    size_t call;
    const Tensor *shown;
} Taps;

/* The caches of all layers: keys after RoPE and values [layer, b, s, g, h], and each row's next position. */
typedef struct {
    size_t b;
    float *keys, *values;
    int32_t *steps;
} Memory;

/* Returns empty caches for b rows. */
Memory new_memory(Arena *arena, const Config *config, size_t b);

/* Runs tokens [b, t] at each row's step; the steps stay as they are. Ends the program if they do not fit the cache. */
void forward(Arena *arena, const Model *model, Memory *memory, const int32_t *tokens, size_t t, Taps *taps);

#endif
