#include "tensors.h"

#include <math.h>
#include <string.h>

#include "json.h"

enum { LENGTH_BYTES = 8, BITS = 8, ALIGNMENT = 8 };

static const struct {
    const char *name;
    size_t num_bytes;
} DTYPES[] = {[F32] = {"F32", 4}, [BF16] = {"BF16", 2}, [I32] = {"I32", 4}, [I8] = {"I8", 1}};

size_t element_bytes(Dtype dtype) {
    return DTYPES[dtype].num_bytes;
}

static uint64_t load(const unsigned char *bytes, size_t num_bytes) {
    uint64_t value = 0;
    for (size_t i = num_bytes; i > 0; i--) {
        value = value << BITS | bytes[i - 1];
    }
    return value;
}

static void store(unsigned char *bytes, size_t num_bytes, uint64_t value) {
    for (size_t i = 0; i < num_bytes; i++) {
        bytes[i] = (unsigned char)(value >> BITS * i & 0xff);
    }
}

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

float round_to(Dtype dtype, float x) {
    if (dtype == F32 || isnan(x)) {
        return x;
    }
    uint32_t bits = bits_of(x);
    uint32_t last_kept = bits >> 16 & 1;
    return float_of((bits + 0x7fff + last_kept) & 0xffff0000);
}

static Dtype parse_dtype(const char *path, const Json *entry) {
    const char *name = get_string(entry, "dtype");
    for (size_t i = 0; i < sizeof DTYPES / sizeof *DTYPES; i++) {
        if (strcmp(DTYPES[i].name, name) == 0) {
            return (Dtype)i;
        }
    }
    fail("%s: tensor %s: dtype %s is not read here", path, entry->name, name);
}

static size_t item(const char *path, const Json *entry, const Json *number) {
    if (number == NULL || number->kind != JSON_NUMBER || !(number->number >= 0 && number->number < 1e15)) {
        fail("%s: tensor %s: shape and data_offsets must be integers from 0 up", path, entry->name);
    }
    return (size_t)number->number;
}

static Tensor *parse_tensor(Arena *arena, const char *path, const Json *entry, Contents data) {
    Tensor *tensor = take(arena, 1, sizeof *tensor);
    tensor->name = entry->name;
    tensor->dtype = parse_dtype(path, entry);
    tensor->num_elements = 1;
    for (const Json *size = get_list(entry, "shape"); size != NULL; size = size->next) {
        if (tensor->rank == MAX_RANK) {
            fail("%s: tensor %s: more than %d axes", path, entry->name, MAX_RANK);
        }
        tensor->shape[tensor->rank] = item(path, entry, size);
        if (tensor->shape[tensor->rank] > data.num_bytes) {
            fail("%s: tensor %s: its shape is larger than the file", path, entry->name);
        }
        tensor->num_elements *= tensor->shape[tensor->rank++];
    }
    const Json *offsets = get_list(entry, "data_offsets");
    size_t begin = item(path, entry, offsets);
    size_t end = item(path, entry, offsets->next);
    if (begin > end || end > data.num_bytes || end - begin != tensor->num_elements * element_bytes(tensor->dtype)) {
        fail("%s: tensor %s: its bytes %zu to %zu do not fit its shape and the file", path, entry->name, begin, end);
    }
    tensor->bytes = data.bytes + begin;
    return tensor;
}

const Tensor *read_tensors(Arena *arena, const char *path) {
    Contents file = read_file(arena, path);
    uint64_t length = file.num_bytes < LENGTH_BYTES ? UINT64_MAX : load(file.bytes, LENGTH_BYTES);
    if (length > file.num_bytes - LENGTH_BYTES) {
        fail("%s: truncated, or no safetensors file", path);
    }
    Contents header = {(const unsigned char *)text(arena, "%.*s", (int)length, file.bytes + LENGTH_BYTES), length};
    Contents data = {file.bytes + LENGTH_BYTES + length, file.num_bytes - LENGTH_BYTES - length};
    Tensor *tensors = NULL;
    for (const Json *entry = parse_json(arena, path, header)->first; entry != NULL; entry = entry->next) {
        if (strcmp(entry->name, "__metadata__") != 0) {
            Tensor *tensor = parse_tensor(arena, path, entry, data);
            tensor->next = tensors;
            tensors = tensor;
        }
    }
    return tensors;
}

void write_tensors(const char *path, const Tensor *tensors) {
    Arena arena = {0};
    const char *header = "{";
    size_t end = 0;
    for (const Tensor *tensor = tensors; tensor != NULL; tensor = tensor->next) {
        const char *shape = "";
        for (size_t axis = 0; axis < tensor->rank; axis++) {
            shape = text(&arena, "%s%s%zu", shape, axis == 0 ? "" : ",", tensor->shape[axis]);
        }
        size_t begin = end;
        end += tensor->num_elements * element_bytes(tensor->dtype);
        header = text(&arena, "%s%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}", header,
                      tensor == tensors ? "" : ",", tensor->name, DTYPES[tensor->dtype].name, shape, begin, end);
    }
    header = text(&arena, "%s}", header);
    size_t length = strlen(header);
    unsigned char *head = take(&arena, LENGTH_BYTES + length, 1);
    store(head, LENGTH_BYTES, length);
    memcpy(head + LENGTH_BYTES, header, length);
    unsigned char *body = take(&arena, end, 1);
    size_t at = 0;
    for (const Tensor *tensor = tensors; tensor != NULL; tensor = tensor->next) {
        size_t num_bytes = tensor->num_elements * element_bytes(tensor->dtype);
        memcpy(body + at, tensor->bytes, num_bytes);
        at += num_bytes;
    }
    write_file(path, head, LENGTH_BYTES + length, body, end);
    release(&arena);
}

const Tensor *find_tensor(const Tensor *tensors, const char *name) {
    while (tensors != NULL && strcmp(tensors->name, name) != 0) {
        tensors = tensors->next;
    }
    return tensors;
}

const Tensor *get_tensor(const Tensor *tensors, const char *path, const char *name, size_t rank, const size_t *shape) {
    const Tensor *tensor = find_tensor(tensors, name);
    if (tensor == NULL) {
        fail("%s: tensor %s is missing", path, name);
    }
    for (size_t axis = 0; axis < rank; axis++) {
        if (tensor->rank != rank || tensor->shape[axis] != shape[axis]) {
            fail("%s: tensor %s: its shape does not fit the configuration", path, name);
        }
    }
    return tensor;
}

float *floats_of(Arena *arena, const Tensor *tensor) {
    float *values = take(arena, tensor->num_elements, sizeof *values);
    for (size_t i = 0; i < tensor->num_elements; i++) {
        const unsigned char *bytes = tensor->bytes + i * element_bytes(tensor->dtype);
        uint32_t bits = (uint32_t)load(bytes, element_bytes(tensor->dtype));
        switch (tensor->dtype) {
        case F32: values[i] = float_of(bits); break;
        case BF16: values[i] = float_of(bits << 16); break;
        case I8: values[i] = (float)(int8_t)bits; break;
        case I32: fail("tensor %s: int32, where real numbers belong", tensor->name);
        }
    }
    return values;
}

int32_t *integers_of(Arena *arena, const Tensor *tensor) {
    if (tensor->dtype != I32) {
        fail("tensor %s: must be int32", tensor->name);
    }
    int32_t *values = take(arena, tensor->num_elements, sizeof *values);
    for (size_t i = 0; i < tensor->num_elements; i++) {
        values[i] = (int32_t)(uint32_t)load(tensor->bytes + i * sizeof *values, sizeof *values);
    }
    return values;
}

unsigned char *encode(Arena *arena, Dtype dtype, const void *values, size_t num_elements) {
    size_t num_bytes = element_bytes(dtype);
    unsigned char *bytes = take(arena, num_elements, num_bytes);
    for (size_t i = 0; i < num_elements; i++) {
        uint32_t bits;
        memcpy(&bits, (const unsigned char *)values + i * sizeof bits, sizeof bits);
        store(bytes + i * num_bytes, num_bytes, dtype == BF16 ? bits >> 16 : bits);
    }
    return bytes;
}
