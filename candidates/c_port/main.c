/* Grok-1 in C11 with nothing beyond the standard library: answers a job folder (harness/PROTOCOL.md).
 *
 * `c_port JOB_DIR OUT_DIR` shows every tap in float32 and bfloat16. Written for the eye, not for speed.
 */

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "model.h"
#include "sha256.h"

enum { FORMAT = 1 };

static const char INFO[] = "{\"name\": \"c_port\", \"version\": \"1\", \"taps\": [\"*\"]}\n";

static void write_text(const char *path, const char *content) {
    write_file(path, content, strlen(content), "", 0);
}

/* Starts from the cache given in the inputs. */
static void preload(Arena *arena, const Config *config, const Tensor *inputs, const char *path, Memory *memory) {
    const Tensor *steps = find_tensor(inputs, "preload/steps");
    if (steps == NULL || steps->rank != 1) {
        fail("%s: preload/steps must be int32 [b]", path);
    }
    size_t b = steps->num_elements;
    size_t shape[] = {config->num_layers, b, config->s, config->g, config->h};
    *memory = (Memory){
        .b = b,
        .keys = floats_of(arena, get_tensor(inputs, path, "preload/keys", 5, shape)),
        .values = floats_of(arena, get_tensor(inputs, path, "preload/values", 5, shape)),
        .steps = integers_of(arena, steps),
    };
}

/* Makes the calls of a case from a fresh state, and returns the taps shown. */
static const Tensor *run_calls(Arena *arena, const Model *model, const Json *row, const Json *wanted,
                               const Tensor *inputs, const char *path) {
    Taps taps = {.arena = arena, .wanted = wanted};
    Memory memory = {0};
    const Json *is_preloaded = find_member(row, "preload");
    if (is_preloaded != NULL && is_preloaded->number != 0) {
        preload(arena, &model->config, inputs, path, &memory);
    }
    for (const Json *call = get_list(row, "calls"); call != NULL; call = call->next, taps.call++) {
        const Tensor *tokens = find_tensor(inputs, text(arena, "call%zu/tokens", taps.call));
        if (tokens == NULL || tokens->rank != 2) {
            fail("%s: call%zu/tokens must be int32 [b, t]", path, taps.call);
        }
        size_t b = tokens->shape[0], t = tokens->shape[1];
        const char *name = text(arena, "call%zu/lengths", taps.call);
        const int32_t *lengths = integers_of(arena, get_tensor(inputs, path, name, SHAPE(b)));
        if (strcmp(get_string(call, "kind"), "prefill") == 0) {
            memory = new_memory(arena, &model->config, b);
        }
        if (strcmp(get_string(call, "kind"), "truncate") == 0) {
            name = text(arena, "call%zu/steps", taps.call);
            const int32_t *steps = integers_of(arena, get_tensor(inputs, path, name, SHAPE(memory.b)));
            for (size_t i = 0; i < memory.b; i++) {
                memory.steps[i] = steps[i];
            }
        }
        if (memory.b != b) {
            fail("%s: call%zu has %zu rows, the cache %zu", path, taps.call, b, memory.b);
        }
        forward(arena, model, &memory, integers_of(arena, tokens), t, &taps);
        for (size_t i = 0; i < b; i++) {
            memory.steps[i] += lengths[i];
        }
    }
    return taps.shown;
}

/* Returns the digests of some taps as the members of a JSON object. */
static const char *digests(Arena *arena, const Tensor *taps) {
    const char *members = "";
    for (const Tensor *tap = taps; tap != NULL; tap = tap->next) {
        const char *digest = sha256(arena, tap->bytes, tap->num_elements * element_bytes(tap->dtype));
        members = text(arena, "%s%s\"%s\": \"%s\"", members, tap == taps ? "" : ", ", tap->name, digest);
    }
    return members;
}

/* Runs a case tapped, once more for the digests, and if asked with few taps. */
static void answer(const Model *model, const Json *row, const char *job_dir, const char *out_dir) {
    Arena arena = {0};
    const char *path = text(&arena, "%s/%s", job_dir, get_string(row, "inputs"));
    const char *folder = text(&arena, "%s/%s", out_dir, get_string(row, "folder"));
    const Tensor *inputs = read_tensors(&arena, path);
    const Json *wanted = get_list(row, "taps"), *untapped = get_list(row, "untapped");
    clock_t began = clock();
    const Tensor *shown = run_calls(&arena, model, row, wanted, inputs, path);
    double seconds = (double)(clock() - began) / CLOCKS_PER_SEC;
    write_tensors(text(&arena, "%s/taps.safetensors", folder), shown);
    const char *repeat = digests(&arena, run_calls(&arena, model, row, wanted, inputs, path));
    if (untapped != NULL) {
        const Tensor *few = run_calls(&arena, model, row, untapped, inputs, path);
        write_tensors(text(&arena, "%s/untapped.safetensors", folder), few);
    }
    const char *result =
        text(&arena, "{\"status\": \"answered\", \"seconds\": %.6f, \"repeat\": {%s}}\n", seconds, repeat);
    write_text(text(&arena, "%s/result.json", folder), result);
    release(&arena);
}

int main(int num_arguments, char **arguments) {
    if (num_arguments != 3) {
        fail("usage: c_port JOB_DIR OUT_DIR");
    }
    const char *job_dir = arguments[1], *out_dir = arguments[2];
    Arena arena = {0};
    const char *path = text(&arena, "%s/job.json", job_dir);
    const Json *job = parse_json(&arena, path, read_file(&arena, path));
    if (get_count(job, "format") != FORMAT) {
        refuse("job format %zu; it reads %d", get_count(job, "format"), FORMAT);
    }
    write_text(text(&arena, "%s/info.json", out_dir), INFO);
    const Model *model = load_model(&arena, job_dir);
    write_tensors(text(&arena, "%s/weights.safetensors", out_dir), model->loaded);
    for (const Json *row = get_list(job, "cases"); row != NULL; row = row->next) {
        answer(model, row, job_dir, out_dir);
    }
    release(&arena);
    return 0;
}
