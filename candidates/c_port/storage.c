#include "storage.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FAILED = 2, REFUSED = 1 };

typedef struct Block {
    struct Block *before;
    max_align_t memory[];
} Block;

void *take(Arena *arena, size_t num_items, size_t item_bytes) {
    if (num_items > (SIZE_MAX / 2 - sizeof(Block)) / item_bytes) {
        fail("%zu items of %zu bytes are more than memory can hold", num_items, item_bytes);
    }
    Block *block = calloc(1, sizeof *block + num_items * item_bytes);
    if (block == NULL) {
        fail("no memory for %zu items of %zu bytes", num_items, item_bytes);
    }
    block->before = arena->last;
    arena->last = block;
    return block->memory;
}

void release(Arena *arena) {
    while (arena->last != NULL) {
        Block *block = arena->last;
        arena->last = block->before;
        free(block);
    }
}

char *text(Arena *arena, const char *format, ...) {
    va_list values;
    va_start(values, format);
    int length = vsnprintf(NULL, 0, format, values);
    va_end(values);
    char *result = take(arena, (size_t)length + 1, 1);
    va_start(values, format);
    vsnprintf(result, (size_t)length + 1, format, values);
    va_end(values);
    return result;
}

Contents read_file(Arena *arena, const char *path) {
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0) {
        fail("%s: cannot be read", path);
    }
    long length = ftell(file);
    rewind(file);
    if (length < 0) {
        fail("%s: cannot be read", path);
    }
    unsigned char *bytes = take(arena, (size_t)length + 1, 1);
    if (fread(bytes, 1, (size_t)length, file) != (size_t)length) {
        fail("%s: cannot be read", path);
    }
    fclose(file);
    return (Contents){bytes, (size_t)length};
}

void write_file(const char *path, const void *head, size_t head_bytes, const void *body, size_t body_bytes) {
    Arena arena = {0};
    const char *partial = text(&arena, "%s.partial", path);
    FILE *file = fopen(partial, "wb");
    if (file == NULL) {
        fail("%s: cannot be written: make its folder first", path);
    }
    int whole = fwrite(head, 1, head_bytes, file) == head_bytes && fwrite(body, 1, body_bytes, file) == body_bytes;
    if (fclose(file) != 0 || !whole || rename(partial, path) != 0) {
        remove(partial);
        fail("%s: cannot be written: is the disk full?", path);
    }
    release(&arena);
}

static _Noreturn void end(int status, const char *before, const char *format, va_list values) {
    fflush(stdout);
    fputs(before, stderr);
    vfprintf(stderr, format, values);
    fputc('\n', stderr);
    exit(status);
}

void fail(const char *format, ...) {
    va_list values;
    va_start(values, format);
    end(FAILED, "", format, values);
}

void refuse(const char *format, ...) {
    va_list values;
    va_start(values, format);
    end(REFUSED, "unsupported: ", format, values);
}
