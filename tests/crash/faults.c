/*
 * Loaded before the server's libraries (LD_PRELOAD): syncs that fail or stall, or writes that find no room.
 *
 * DECKLOG_FAULT_FLAG=file, DECKLOG_FAULT_IN=directory: while the file exists, every sync in the directory fails
 * with EIO. DECKLOG_STALL_FLAG=file: while that exists, they wait. DECKLOG_FAULT_KIND=full: instead, every write
 * fails with ENOSPC, half of it written. DECKLOG_FAULT_KIND=outgrown: only those to files that were opened before the
 * flag was there, as if such a file had outgrown the room that was made for it, while there is some left.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *flag, *stall_flag, *fault_in;
static int full, outgrown;
/* Of each open file, whether the flag was there when it was opened. */
static unsigned char opened_since[65536];

__attribute__((constructor)) static void begin(void) {
    flag = getenv("DECKLOG_FAULT_FLAG");
    stall_flag = getenv("DECKLOG_STALL_FLAG");
    fault_in = getenv("DECKLOG_FAULT_IN");
    const char *kind = getenv("DECKLOG_FAULT_KIND");
    outgrown = kind && strcmp(kind, "outgrown") == 0;
    full = outgrown || (kind && strcmp(kind, "full") == 0);
}

/* Whether an open file lies in a directory, or is it. */
static int lies_in(int fd, const char *directory) {
    char link_path[64], path[PATH_MAX];
    snprintf(link_path, sizeof link_path, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link_path, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    size_t root = strlen(directory);
    return strncmp(path, directory, root) == 0 && (path[root] == '/' || path[root] == 0);
}

static int fails(int fd) {
    return flag && fault_in && access(flag, F_OK) == 0 && lies_in(fd, fault_in);
}

static void stall(int fd) {
    while (stall_flag && fault_in && access(stall_flag, F_OK) == 0 && lies_in(fd, fault_in)) usleep(5000);
}

static int sync_with(const char *name, int fd) {
    stall(fd);
    if (!full && fails(fd)) {
        errno = EIO;
        return -1;
    }
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    return real(fd);
}

int fsync(int fd) { return sync_with("fsync", fd); }

int fdatasync(int fd) { return sync_with("fdatasync", fd); }

int sync_file_range(int fd, off64_t offset, off64_t length, unsigned int flags) {
    stall(fd);
    if (!full && fails(fd)) {
        errno = EIO;
        return -1;
    }
    int (*real)(int, off64_t, off64_t, unsigned int) = dlsym(RTLD_NEXT, "sync_file_range");
    return real(fd, offset, length, flags);
}

static ssize_t write_with(int fd, const void *data, size_t length, off64_t offset) {
    ssize_t (*real)(int, const void *, size_t, off64_t) = dlsym(RTLD_NEXT, "pwrite64");
    int spared = outgrown && fd >= 0 && (size_t)fd < sizeof opened_since && opened_since[fd];
    if (!full || spared || !fails(fd)) return real(fd, data, length, offset);
    if (length > 1 && real(fd, data, length / 2, offset) < 0) return -1;
    errno = ENOSPC;
    return -1;
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) { return write_with(fd, data, length, offset); }

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    return write_with(fd, data, length, offset);
}

static int opened(int fd) {
    if (fd >= 0 && (size_t)fd < sizeof opened_since) opened_since[fd] = flag && access(flag, F_OK) == 0;
    return fd;
}

static int open_any(const char *path, int flags, mode_t mode) {
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open64");
    return opened(real(path, flags, mode));
}

static int open_any_at(int directory, const char *path, int flags, mode_t mode) {
    int (*real)(int, const char *, int, ...) = dlsym(RTLD_NEXT, "openat64");
    return opened(real(directory, path, flags, mode));
}

static mode_t mode_of(int flags, va_list more) { return flags & (O_CREAT | __O_TMPFILE) ? va_arg(more, mode_t) : 0; }

#define WITH_MODE(call) \
    va_list more; \
    va_start(more, flags); \
    mode_t mode = mode_of(flags, more); \
    va_end(more); \
    return call;

int open(const char *path, int flags, ...) { WITH_MODE(open_any(path, flags, mode)) }
int open64(const char *path, int flags, ...) { WITH_MODE(open_any(path, flags, mode)) }
int openat(int directory, const char *path, int flags, ...) { WITH_MODE(open_any_at(directory, path, flags, mode)) }
int openat64(int directory, const char *path, int flags, ...) { WITH_MODE(open_any_at(directory, path, flags, mode)) }
