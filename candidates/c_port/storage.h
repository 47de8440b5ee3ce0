/* Memory that is given back all at once, files, and errors of one line. */

#ifndef STORAGE_H
#define STORAGE_H

#include <stddef.h>

/* Blocks of memory that live and end together. A new arena is {0}. */
typedef struct {
    struct Block *last;
} Arena;

/* Returns zeroed memory for so many items, aligned for any type. */
void *take(Arena *arena, size_t num_items, size_t item_bytes);

/* Frees all that was taken from an arena, which may then be used again. */
void release(Arena *arena);

/* Returns a formatted string, as printf makes it. */
char *text(Arena *arena, const char *format, ...);

/* The bytes of a file; a zero byte follows them. */
typedef struct {
    const unsigned char *bytes;
    size_t num_bytes;
} Contents;

/* Reads a whole file, and ends the program if it cannot be read. */
Contents read_file(Arena *arena, const char *path);

/* Writes a file under another name, which becomes `path` once it is complete. */
void write_file(const char *path, const void *head, size_t head_bytes, const void *body, size_t body_bytes);

/* Ends the program with status 2 and one line on stderr. */
_Noreturn void fail(const char *format, ...);

/* Ends the program with status 1: it does not support this job, for the reason given. */
_Noreturn void refuse(const char *format, ...);

#endif
