/* The digest by which two runs are told to be bit for bit equal (FIPS 180-4). */

#ifndef SHA256_H
#define SHA256_H

#include "storage.h"

/* Returns the sha256 of some bytes, in hexadecimal. */
const char *sha256(Arena *arena, const unsigned char *bytes, size_t num_bytes);

#endif
