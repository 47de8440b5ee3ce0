/* Preloaded into a process: its file calls fail from the one on that FAIL_AT names, with errno FAIL_WITH.

   Counted are calls that write to a regular file or change a folder; outputs, to terminals and pipes too, are let through. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static atomic_long calls;

static int refused(void) {
  const char *at = getenv("FAIL_AT"), *with = getenv("FAIL_WITH");
  if (!at || atomic_fetch_add(&calls, 1) < atol(at)) return 0;
  errno = with ? atoi(with) : ENOSPC;
  return 1;
}

static int is_file(int number) {
  struct stat found;
  return number > 2 && fstat(number, &found) == 0 && S_ISREG(found.st_mode);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int number, const void *bytes, size_t size) {
  return is_file(number) && refused() ? -1 : NEXT(write)(number, bytes, size);
}

int fsync(int number) { return refused() ? -1 : NEXT(fsync)(number); }

int mkdir(const char *path, mode_t mode) { return refused() ? -1 : NEXT(mkdir)(path, mode); }

int rename(const char *from, const char *to) { return refused() ? -1 : NEXT(rename)(from, to); }

int renameat(int a, const char *from, int b, const char *to) { return refused() ? -1 : NEXT(renameat)(a, from, b, to); }

static int opened(int (*next)(const char *, int, ...), const char *path, int flags, mode_t mode) {
  if ((flags & O_CREAT) && refused()) return -1;
  return next(path, flags, mode);
}

int open(const char *path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  return opened((int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open"), path, flags, mode);
}

int open64(const char *path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  return opened((int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open64"), path, flags, mode);
}
