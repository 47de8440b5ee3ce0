#include "sha256.h"

#include <stdint.h>
#include <string.h>

enum { BLOCK_BYTES = 64, LENGTH_BYTES = 8, NUM_ROUNDS = 64, NUM_WORDS = 8, WORD_BYTES = 4 };

/* The fractional parts of the cube roots of the first 64 primes. */
static const uint32_t ROUND_CONSTANTS[NUM_ROUNDS] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotate(uint32_t word, int bits) {
    return word >> bits | word << (32 - bits);
}

static void digest_block(uint32_t *state, const unsigned char *block) {
    uint32_t w[NUM_ROUNDS];
    for (int i = 0; i < NUM_ROUNDS; i++) {
        if (i < BLOCK_BYTES / WORD_BYTES) {
            const unsigned char *b = block + i * WORD_BYTES;
            w[i] = (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
        } else {
            uint32_t s0 = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3;
            uint32_t s1 = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10;
            w[i] = w[i - 16] + s0 + w[i - 7] + s1;
        }
    }
    uint32_t v[NUM_WORDS];
    memcpy(v, state, sizeof v);
    for (int i = 0; i < NUM_ROUNDS; i++) {
        uint32_t s1 = rotate(v[4], 6) ^ rotate(v[4], 11) ^ rotate(v[4], 25);
        uint32_t choice = (v[4] & v[5]) ^ (~v[4] & v[6]);
        uint32_t added = v[7] + s1 + choice + ROUND_CONSTANTS[i] + w[i];
        uint32_t s0 = rotate(v[0], 2) ^ rotate(v[0], 13) ^ rotate(v[0], 22);
        uint32_t majority = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]);
        memmove(v + 1, v, sizeof v - sizeof *v);
        v[4] += added;
        v[0] = added + s0 + majority;
    }
    for (int i = 0; i < NUM_WORDS; i++) {
        state[i] += v[i];
    }
}

const char *sha256(Arena *arena, const unsigned char *bytes, size_t num_bytes) {
    uint32_t state[NUM_WORDS] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    size_t num_whole = num_bytes / BLOCK_BYTES;
    for (size_t i = 0; i < num_whole; i++) {
        digest_block(state, bytes + i * BLOCK_BYTES);
    }
    unsigned char last[2 * BLOCK_BYTES] = {0};
    size_t rest = num_bytes % BLOCK_BYTES;
    if (rest > 0) {
        memcpy(last, bytes + num_whole * BLOCK_BYTES, rest);
    }
    last[rest] = 0x80;
    size_t padded = rest + 1 + LENGTH_BYTES <= BLOCK_BYTES ? BLOCK_BYTES : 2 * BLOCK_BYTES;
    for (size_t i = 0; i < LENGTH_BYTES; i++) {
        last[padded - 1 - i] = (unsigned char)((uint64_t)num_bytes * 8 >> 8 * i & 0xff);
    }
    for (size_t at = 0; at < padded; at += BLOCK_BYTES) {
        digest_block(state, last + at);
    }
    return text(arena, "%08x%08x%08x%08x%08x%08x%08x%08x", state[0], state[1], state[2], state[3], state[4], state[5],
                state[6], state[7]);
}
