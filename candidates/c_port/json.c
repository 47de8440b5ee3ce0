#include "json.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_DEPTH = 64 };

static const double LARGEST_COUNT = 9007199254740992.0; /* 2^53: doubles hold every integer up to it */

typedef struct {
    Arena *arena;
    const char *path;
    const char *start;
    const char *at;
    int depth;
} Parser;

static _Noreturn void fail_at(const Parser *parser, const char *wanted) {
    fail("%s: byte %td is no JSON: expected %s", parser->path, parser->at - parser->start, wanted);
}

static void skip_space(Parser *parser) {
    parser->at += strspn(parser->at, " \t\r\n");
}

static int accept(Parser *parser, const char *word) {
    skip_space(parser);
    size_t length = strlen(word);
    if (strncmp(parser->at, word, length) != 0) {
        return 0;
    }
    parser->at += length;
    return 1;
}

static void expect(Parser *parser, const char *word) {
    if (!accept(parser, word)) {
        fail_at(parser, word);
    }
}

static char unescaped(const Parser *parser, char escape) {
    static const char escapes[] = "\"\\/bfnrt", characters[] = "\"\\/\b\f\n\r\t";
    const char *found = escape == '\0' ? NULL : strchr(escapes, escape);
    if (found == NULL) {
        fail_at(parser, "one of the escapes \\\" \\\\ \\/ \\b \\f \\n \\r \\t");
    }
    return characters[found - escapes];
}

static const char *parse_string(Parser *parser) {
    expect(parser, "\"");
    const char *end = parser->at;
    while (*end != '"' && *end != '\0') {
        end += *end == '\\' && end[1] != '\0' ? 2 : 1;
    }
    if (*end == '\0') {
        fail_at(parser, "a string that ends");
    }
    char *string = take(parser->arena, (size_t)(end - parser->at) + 1, 1);
    for (char *next = string; parser->at != end; parser->at++) {
        *next++ = *parser->at == '\\' ? unescaped(parser, *++parser->at) : *parser->at;
    }
    parser->at++;
    return string;
}

static Json *parse_value(Parser *parser);

static Json *parse_members(Parser *parser, const char *close, int named) {
    Json *first = NULL;
    Json **next = &first;
    if (accept(parser, close)) {
        return NULL;
    }
    do {
        const char *name = named ? parse_string(parser) : NULL;
        if (named) {
            expect(parser, ":");
        }
        *next = parse_value(parser);
        (*next)->name = name;
        next = &(*next)->next;
    } while (accept(parser, ","));
    expect(parser, close);
    return first;
}

static Json *parse_value(Parser *parser) {
    Json *value = take(parser->arena, 1, sizeof *value);
    if (++parser->depth > MAX_DEPTH) {
        fail_at(parser, "fewer levels of nesting");
    }
    skip_space(parser);
    if (*parser->at == '"') {
        value->kind = JSON_STRING;
        value->string = parse_string(parser);
    } else if (accept(parser, "{")) {
        value->kind = JSON_OBJECT;
        value->first = parse_members(parser, "}", 1);
    } else if (accept(parser, "[")) {
        value->kind = JSON_ARRAY;
        value->first = parse_members(parser, "]", 0);
    } else if (accept(parser, "true")) {
        value->kind = JSON_BOOLEAN;
        value->number = 1;
    } else if (accept(parser, "false")) {
        value->kind = JSON_BOOLEAN;
    } else if (!accept(parser, "null")) {
        char *end;
        value->kind = JSON_NUMBER;
        value->number = strtod(parser->at, &end);
        if (end == parser->at) {
            fail_at(parser, "a value");
        }
        parser->at = end;
    }
    parser->depth--;
    return value;
}

const Json *parse_json(Arena *arena, const char *path, Contents contents) {
    const char *start = (const char *)contents.bytes;
    Parser parser = {arena, path, start, start, 0};
    const Json *value = parse_value(&parser);
    skip_space(&parser);
    if (parser.at != start + contents.num_bytes) {
        fail_at(&parser, "the end of the file");
    }
    return value;
}

const Json *find_member(const Json *object, const char *name) {
    for (const Json *member = object->first; member != NULL; member = member->next) {
        if (member->name != NULL && strcmp(member->name, name) == 0) {
            return member;
        }
    }
    return NULL;
}

static const Json *get(const Json *object, const char *name, JsonKind kind) {
    static const char *const kinds[] = {"null", "a boolean", "a number", "a string", "an array", "an object"};
    const Json *member = find_member(object, name);
    if (member == NULL || member->kind != kind) {
        fail("\"%s\" must be %s", name, kinds[kind]);
    }
    return member;
}

const Json *get_list(const Json *object, const char *name) {
    return get(object, name, JSON_ARRAY)->first;
}

const Json *get_object(const Json *object, const char *name) {
    return get(object, name, JSON_OBJECT);
}

const char *get_string(const Json *object, const char *name) {
    return get(object, name, JSON_STRING)->string;
}

size_t get_count(const Json *object, const char *name) {
    double number = get(object, name, JSON_NUMBER)->number;
    if (!(number >= 0 && number <= LARGEST_COUNT) || number != (double)(size_t)number) {
        fail("\"%s\" must be an integer from 0 up", name);
    }
    return (size_t)number;
}

double get_real(const Json *object, const char *name) {
    const Json *member = find_member(object, name);
    if (member != NULL && member->kind == JSON_NUMBER) {
        return member->number;
    }
    const char *string = get_string(object, name);
    char *end;
    double number = strtod(string, &end);
    if (end == string || *end != '\0') {
        fail("\"%s\" must be a real number, not \"%s\"", name, string);
    }
    return number;
}
