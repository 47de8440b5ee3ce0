/* JSON as job folders hold it: parsed into linked lists of values. */

#ifndef JSON_H
#define JSON_H

#include "storage.h"

typedef enum { JSON_NULL, JSON_BOOLEAN, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT } JsonKind;

/* A value. An object's members have names; the members of an array or object are `first`, `first->next`, … */
typedef struct Json {
    JsonKind kind;
    const char *name;
    const char *string;
    double number; /* of a boolean: 0 or 1 */
    struct Json *first;
    struct Json *next;
} Json;

/* Parses a file's contents; `path` is named in errors, which end the program. */
const Json *parse_json(Arena *arena, const char *path, Contents contents);

/* Returns a member of an object, NULL if there is none. */
const Json *find_member(const Json *object, const char *name);

/* Return a member of an object, and end the program if it is absent or of another kind. */
const Json *get_list(const Json *object, const char *name);
const Json *get_object(const Json *object, const char *name);
const char *get_string(const Json *object, const char *name);
size_t get_count(const Json *object, const char *name);

/* Returns a real number, which travels as a string, or as a JSON number if it is an integer. */
double get_real(const Json *object, const char *name);

#endif
