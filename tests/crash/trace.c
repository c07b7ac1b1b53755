/*
 * Loaded before the server's libraries (LD_PRELOAD): writes down, in order, everything that the process does to the
 * files below a directory, so that what a power cut at any moment would leave can be put together afterwards
 * (disk_model.rs).
 *
 * DECKLOG_TRACE_OF=directory, DECKLOG_TRACE_TO=file: records are appended, so that several lives of a server stand in one file.
 * DECKLOG_TRACE_KILL_AT=n: the process is killed behind its n-th record, as by kill -9.
 *
 * A change and its record are one step under a lock: a record stands in the file exactly when its change was made,
 * in the order of the changes. A sync is written down when it begins and when it has ended: it makes durable what
 * stands before its beginning.
 *
 * A record, in the machine's byte order:
 *   length u32 (of all of it) | op u8 | unused u8 | length of path u16 | length of other path u16 | unused u16 |
 *   file u64 | number u64 | zeros u64 | path | other path | data
 * file: inode and time of birth in one number (an inode's number alone is used again). zeros: so many zero bytes
 * stand for the data.
 *
 * What it does not know ends the process: hard links, and writes by other calls would go unseen (the test compares
 * the last state with the real directory, so that this shows).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum op { CREATE = 1, MKDIR, WRITE, TRUNCATE, RENAME, REMOVE, SYNC_BEGIN, SYNC_END };

struct __attribute__((packed)) record {
    uint32_t length;
    uint8_t op, unused;
    uint16_t path_length, other_length, unused_too;
    uint64_t file, number, zeros;
};

static const char *root;
static int trace = -1;
static long kill_at, records, syncs;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(name) ((__typeof__(&name))real_function(#name))

static void *real_function(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) abort();
    return found;
}

static void fail(const char *what) {
    dprintf(2, "trace.c: %s: %s\n", what, strerror(errno));
    abort();
}

__attribute__((constructor)) static void begin(void) {
    const char *to = getenv("DECKLOG_TRACE_TO"), *at = getenv("DECKLOG_TRACE_KILL_AT");
    const char *of = getenv("DECKLOG_TRACE_OF");
    if (!of || !to) return;
    kill_at = at ? atol(at) : 0;
    trace = syscall(SYS_openat, AT_FDCWD, to, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (trace < 0) fail(to);
    root = of;
}

static int is_below(const char *path) {
    size_t length = root ? strlen(root) : 0;
    return root && strncmp(path, root, length) == 0 && (path[length] == '/' || path[length] == 0);
}

/* Makes a path whole; 0 when it is none of ours. */
static int resolve(int directory, const char *path, char *out) {
    char base[PATH_MAX], name[64];
    if (!root) return 0;
    if (path[0] == '/') {
        snprintf(out, PATH_MAX, "%s", path);
        return is_below(out);
    }
    snprintf(name, sizeof name, directory == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", directory);
    ssize_t length = readlink(name, base, sizeof base - 1);
    if (length < 0) return 0;
    base[length] = 0;
    if ((size_t)snprintf(out, PATH_MAX, "%s/%s", base, path) >= PATH_MAX) return 0;
    return is_below(out);
}

/* The path of an open file; 0 when it is none of ours. */
static int path_of(int fd, char *out) {
    char name[64];
    if (!root || fd == trace) return 0;
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(name, out, PATH_MAX - 1);
    if (length < 0) return 0;
    out[length] = 0;
    return is_below(out);
}

/* disk_model.rs makes the same number from a file's metadata. */
static uint64_t identity(int directory, const char *path, int flags) {
    struct statx found;
    if (statx(directory, path, flags, STATX_INO | STATX_BTIME, &found) != 0) fail("statx");
    uint64_t born = (uint64_t)found.stx_btime.tv_sec * 1000000000u + found.stx_btime.tv_nsec;
    return found.stx_ino * 0x9E3779B97F4A7C15u ^ born;
}

static uint64_t of_path(const char *path) { return identity(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW); }

static uint64_t of_fd(int fd) { return identity(fd, "", AT_EMPTY_PATH); }

static void note(enum op op, const char *path, const char *other, uint64_t file, uint64_t number, const void *data,
                 size_t length) {
    int is_zero = length > 0 && *(const char *)data == 0 && memcmp(data, (const char *)data + 1, length - 1) == 0;
    struct record head = {
        .op = op, .path_length = strlen(path), .other_length = strlen(other), .file = file, .number = number,
        .zeros = is_zero ? length : 0,
    };
    if (is_zero) length = 0;
    head.length = sizeof head + head.path_length + head.other_length + length;
    struct iovec parts[] = {
        {&head, sizeof head}, {(void *)path, head.path_length}, {(void *)other, head.other_length}, {(void *)data, length},
    };
    if (syscall(SYS_writev, trace, parts, 4) != (ssize_t)head.length) fail("a record");
    if (++records == kill_at) kill(getpid(), SIGKILL);
}

/* A write to a synchronous file (chattr +S) is synced when it returns. */
static void note_write(int fd, const char *path, uint64_t offset, const void *data, ssize_t length) {
    int flags = 0;
    uint64_t file = of_fd(fd);
    if (length <= 0) return;
    note(WRITE, "", "", file, offset, data, length);
    if (ioctl(fd, FS_IOC_GETFLAGS, &flags) != 0 || !(flags & FS_SYNC_FL)) return;
    note(SYNC_BEGIN, path, "", file, ++syncs, "", 0);
    note(SYNC_END, path, "", file, syncs, "", 0);
}

/* A name. In a synchronous directory (chattr +S) it is synced when the call returns. */
static void note_name(enum op op, const char *path, const char *other, uint64_t file) {
    char above[PATH_MAX];
    int flags = 0;
    note(op, path, other, file, 0, "", 0);
    snprintf(above, sizeof above, "%s", op == RENAME ? other : path);
    *strrchr(above, '/') = 0;
    int fd = syscall(SYS_openat, AT_FDCWD, above, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) fail(above);
    if (is_below(above) && ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0 && flags & FS_SYNC_FL) {
        note(SYNC_BEGIN, above, "", of_fd(fd), ++syncs, "", 0);
        note(SYNC_END, above, "", of_fd(fd), syncs, "", 0);
    }
    syscall(SYS_close, fd);
}

/* Opening. */

static int open_any(int directory, const char *path, int flags, mode_t mode) {
    char whole[PATH_MAX];
    int (*real)(int, const char *, int, ...) = REAL(openat);
    if (!(flags & (O_CREAT | O_TRUNC)) || !resolve(directory, path, whole)) return real(directory, path, flags, mode);
    pthread_mutex_lock(&lock);
    struct stat before;
    int was_there = stat(whole, &before) == 0;
    int fd = real(directory, path, flags, mode);
    if (fd >= 0 && !was_there) note_name(CREATE, whole, "", of_fd(fd));
    if (fd >= 0 && was_there && flags & O_TRUNC && before.st_size > 0) note(TRUNCATE, whole, "", of_fd(fd), 0, "", 0);
    pthread_mutex_unlock(&lock);
    return fd;
}

#define MODE(flags, last) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | __O_TMPFILE)) { \
        va_list more; \
        va_start(more, last); \
        mode = va_arg(more, mode_t); \
        va_end(more); \
    }

int open(const char *path, int flags, ...) { MODE(flags, flags) return open_any(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags, flags) return open_any(AT_FDCWD, path, flags, mode); }
int openat(int directory, const char *path, int flags, ...) {
    MODE(flags, flags) return open_any(directory, path, flags, mode);
}
int openat64(int directory, const char *path, int flags, ...) {
    MODE(flags, flags) return open_any(directory, path, flags, mode);
}

/* Bytes. */

static ssize_t write_any(int fd, const void *data, size_t length, off64_t offset, int is_at) {
    char path[PATH_MAX];
    if (!path_of(fd, path)) return is_at ? REAL(pwrite64)(fd, data, length, offset) : REAL(write)(fd, data, length);
    pthread_mutex_lock(&lock);
    if (!is_at) {
        int appends = fcntl(fd, F_GETFL) & O_APPEND;
        offset = lseek64(fd, 0, appends ? SEEK_END : SEEK_CUR);
    }
    ssize_t written = is_at ? REAL(pwrite64)(fd, data, length, offset) : REAL(write)(fd, data, length);
    note_write(fd, path, offset, data, written);
    pthread_mutex_unlock(&lock);
    return written;
}

ssize_t write(int fd, const void *data, size_t length) { return write_any(fd, data, length, 0, 0); }
ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) { return write_any(fd, data, length, offset, 1); }
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    return write_any(fd, data, length, offset, 1);
}

/* As far as the first part: callers go on by themselves. */
ssize_t writev(int fd, const struct iovec *parts, int count) {
    char path[PATH_MAX];
    if (!path_of(fd, path)) return REAL(writev)(fd, parts, count);
    for (int part = 0; part < count; part++)
        if (parts[part].iov_len > 0) return write(fd, parts[part].iov_base, parts[part].iov_len);
    return 0;
}

static int truncate_any(int fd, off64_t length) {
    char path[PATH_MAX];
    if (!path_of(fd, path)) return REAL(ftruncate64)(fd, length);
    pthread_mutex_lock(&lock);
    int result = REAL(ftruncate64)(fd, length);
    if (result == 0) note(TRUNCATE, path, "", of_fd(fd), length, "", 0);
    pthread_mutex_unlock(&lock);
    return result;
}

int ftruncate(int fd, off_t length) { return truncate_any(fd, length); }
int ftruncate64(int fd, off64_t length) { return truncate_any(fd, length); }

/* Names. */

int mkdir(const char *path, mode_t mode) {
    char whole[PATH_MAX];
    if (!resolve(AT_FDCWD, path, whole)) return REAL(mkdir)(path, mode);
    pthread_mutex_lock(&lock);
    int result = REAL(mkdir)(path, mode);
    if (result == 0) note_name(MKDIR, whole, "", of_path(whole));
    pthread_mutex_unlock(&lock);
    return result;
}

int rename(const char *from, const char *to) {
    char whole[PATH_MAX], other[PATH_MAX];
    int from_here = resolve(AT_FDCWD, from, whole), to_here = resolve(AT_FDCWD, to, other);
    if (!from_here && !to_here) return REAL(rename)(from, to);
    pthread_mutex_lock(&lock);
    int result = REAL(rename)(from, to);
    if (result == 0) note_name(RENAME, whole, other, of_path(other));
    pthread_mutex_unlock(&lock);
    return result;
}

static int remove_any(int directory, const char *path, int flags) {
    char whole[PATH_MAX];
    if (!resolve(directory, path, whole)) return REAL(unlinkat)(directory, path, flags);
    pthread_mutex_lock(&lock);
    int result = REAL(unlinkat)(directory, path, flags);
    if (result == 0) note_name(REMOVE, whole, "", 0);
    pthread_mutex_unlock(&lock);
    return result;
}

int unlink(const char *path) { return remove_any(AT_FDCWD, path, 0); }
int unlinkat(int directory, const char *path, int flags) { return remove_any(directory, path, flags); }
int rmdir(const char *path) { return remove_any(AT_FDCWD, path, AT_REMOVEDIR); }

int link(const char *from, const char *to) {
    char whole[PATH_MAX];
    if (resolve(AT_FDCWD, to, whole)) fail("a hard link");
    return REAL(link)(from, to);
}

/* Syncs. */

static int sync_any(int (*real)(int), int fd) {
    char path[PATH_MAX];
    if (!path_of(fd, path)) return real(fd);
    uint64_t file = of_fd(fd);
    pthread_mutex_lock(&lock);
    uint64_t number = ++syncs;
    note(SYNC_BEGIN, path, "", file, number, "", 0);
    pthread_mutex_unlock(&lock);
    int result = real(fd);
    pthread_mutex_lock(&lock);
    if (result == 0) note(SYNC_END, path, "", file, number, "", 0);
    pthread_mutex_unlock(&lock);
    return result;
}

int fsync(int fd) { return sync_any(REAL(fsync), fd); }
int fdatasync(int fd) { return sync_any(REAL(fdatasync), fd); }
/* sync_file_range promises nothing (its manual page says so): not written down. */
