/* Safetensors files, read and written; bytes are little-endian on every machine. */

#ifndef TENSORS_H
#define TENSORS_H

#include <stdint.h>

#include "storage.h"

typedef enum { F32, BF16, I32, I8 } Dtype;

enum { MAX_RANK = 8 };

/* A named tensor; its bytes are those of the file. */
typedef struct Tensor {
    const char *name;
    Dtype dtype;
    size_t rank;
    size_t shape[MAX_RANK];
    size_t num_elements;
    const unsigned char *bytes;
    struct Tensor *next;
} Tensor;

/* Returns how many bytes an element takes. */
size_t element_bytes(Dtype dtype);

/* Rounds to a float dtype, to nearest, ties to even. */
float round_to(Dtype dtype, float x);

/* Reads a file into a list of tensors; ends the program if a tensor does not lie within the file. */
const Tensor *read_tensors(Arena *arena, const char *path);

/* Writes a list of tensors. */
void write_tensors(const char *path, const Tensor *tensors);

/* Returns a tensor by name, NULL if there is none. */
const Tensor *find_tensor(const Tensor *tensors, const char *name);

/* Returns a tensor of this shape, and ends the program if there is none; `path` names its file. */
const Tensor *get_tensor(const Tensor *tensors, const char *path, const char *name, size_t rank, const size_t *shape);

/* Return the values of a tensor of a float dtype (or int8), or of int32. */
float *floats_of(Arena *arena, const Tensor *tensor);
int32_t *integers_of(Arena *arena, const Tensor *tensor);

/* Returns values as bytes of a dtype: floats, or int32_t for I32. */
unsigned char *encode(Arena *arena, Dtype dtype, const void *values, size_t num_elements);

/* A shape, as the arguments `rank, shape` of a function. */
#define SHAPE(...) sizeof((size_t[]){__VA_ARGS__}) / sizeof(size_t), (size_t[]){__VA_ARGS__}

#endif
