/*
 * Loaded before a candidate's libraries (LD_PRELOAD): a power cut. Simpler than what the server's crash tests
 * do, and the same for every candidate.
 *
 * ENGINES_SHADOW_FROM=directory, ENGINES_SHADOW_TO=directory: TO/tree always holds what a power cut would leave of
 * FROM: a file's bytes as of its last fsync or fdatasync, a directory's names as of its last fsync. What was
 * there when the process began counts as synced. ENGINES_SHADOW_CUT=n cuts the power in the n-th sync: about half of the
 * 4 KiB pages that it would have made durable are (ENGINES_SHADOW_SEED), then the process is killed.
 *
 * Where this is not a disk:
 * - What was written and not synced is never there; a disk may keep any part of it. Only the sync that is cut shows
 *   such a part.
 * - A name is durable only when its directory was synced, also for files that were synced themselves. Usual
 *   file systems keep more.
 * - When a directory's own name becomes durable after the directory was synced, it gets the names of that moment.
 * - sync_file_range promises nothing (its manual page says so), nor does a file that is written synchronously (chattr +S).
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { WHOLE = 256 << 10, PAGE = 4 << 10, PATH = 2 * PATH_MAX };

static const char *from, *to;
static long cut_at, syncs;
static unsigned int seed;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void fail(const char *what) {
    dprintf(2, "power_cut.c: %s: %s\n", what, strerror(errno));
    abort();
}

static int inode_path(const char *path, char *out, const char *suffix) {
    struct statx found;
    if (statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_INO | STATX_BTIME, &found) != 0) return -1;
    /* An inode's number is used again; its time of birth tells the files apart. */
    snprintf(out, PATH, "%s/inodes/%llu-%lld-%u%s", to, (unsigned long long)found.stx_ino,
             (long long)found.stx_btime.tv_sec, found.stx_btime.tv_nsec, suffix);
    return 0;
}

/* Brings the durable bytes of a file up to its bytes of now; torn: some of its pages only. */
static void sync_bytes(const char *path, int torn) {
    static char new_bytes[WHOLE], old_bytes[WHOLE];
    char inode[PATH];
    if (inode_path(path, inode, "") != 0) return;
    int source = open(path, O_RDONLY | O_CLOEXEC), target = open(inode, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (source < 0) { close(target); return; } /* removed meanwhile */
    if (target < 0) fail(inode);
    size_t step = torn ? PAGE : WHOLE;
    off_t offset = 0;
    for (ssize_t length; (length = pread(source, new_bytes, step, offset)) > 0; offset += length) {
        ssize_t known = pread(target, old_bytes, length, offset);
        if (known == length && memcmp(new_bytes, old_bytes, length) == 0) continue;
        if (torn && rand_r(&seed) % 2) continue;
        if (pwrite(target, new_bytes, length, offset) != length) fail(inode);
    }
    if (!torn && ftruncate(target, offset) != 0) fail(inode);
    close(source);
    close(target);
}

static void remove_tree(const char *path) {
    char inner[PATH];
    if (unlink(path) == 0 || errno == ENOENT) return;
    DIR *directory = opendir(path);
    if (!directory) fail(path);
    for (struct dirent *entry; (entry = readdir(directory));) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        snprintf(inner, sizeof inner, "%s/%s", path, entry->d_name);
        remove_tree(inner);
    }
    closedir(directory);
    if (rmdir(path) != 0) fail(path);
}

/* Brings the durable names of a directory up to those of now. everything: with the bytes and directories in it. */
static void sync_names(const char *real, const char *shadow, int everything) {
    char inner[PATH], mirrored[PATH], inode[PATH];
    if (inode_path(real, inode, ".names") != 0) return;
    close(open(inode, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    if (access(shadow, F_OK) != 0) return; /* its own name is not durable yet */
    DIR *directory = opendir(shadow);
    if (!directory) fail(shadow);
    for (struct dirent *entry; (entry = readdir(directory));) {
        snprintf(inner, sizeof inner, "%s/%s", real, entry->d_name);
        snprintf(mirrored, sizeof mirrored, "%s/%s", shadow, entry->d_name);
        if (access(inner, F_OK) != 0) remove_tree(mirrored);
    }
    closedir(directory);
    if (!(directory = opendir(real))) fail(real);
    for (struct dirent *entry; (entry = readdir(directory));) {
        struct stat now, known;
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        snprintf(inner, sizeof inner, "%s/%s", real, entry->d_name);
        snprintf(mirrored, sizeof mirrored, "%s/%s", shadow, entry->d_name);
        if (lstat(inner, &now) != 0) continue;
        if (S_ISDIR(now.st_mode)) {
            int is_new = mkdir(mirrored, 0700) == 0;
            if (inode_path(inner, inode, ".names") != 0) continue;
            if (everything || (is_new && access(inode, F_OK) == 0)) sync_names(inner, mirrored, everything);
            continue;
        }
        if (everything) sync_bytes(inner, 0);
        if (inode_path(inner, inode, "") != 0) continue;
        /* Never synced: a name without bytes. */
        close(open(inode, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
        struct stat bytes;
        if (stat(inode, &bytes) != 0) fail(inode);
        if (stat(mirrored, &known) == 0 && known.st_ino == bytes.st_ino) continue;
        remove_tree(mirrored);
        if (link(inode, mirrored) != 0) fail(mirrored);
    }
    closedir(directory);
}

__attribute__((constructor)) static void begin(void) {
    char path[PATH];
    from = getenv("ENGINES_SHADOW_FROM");
    to = getenv("ENGINES_SHADOW_TO");
    const char *cut = getenv("ENGINES_SHADOW_CUT"), *seed_text = getenv("ENGINES_SHADOW_SEED");
    cut_at = cut ? atol(cut) : 0;
    seed = seed_text ? (unsigned int)strtoul(seed_text, NULL, 10) : 0;
    if (!from || !to) { from = NULL; return; }
    snprintf(path, sizeof path, "%s/inodes", to);
    mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/tree", to);
    mkdir(path, 0700);
    if (access(from, F_OK) == 0) sync_names(from, path, 1);
}

/* Whether an open file lies in a directory, or is it; its path goes to `path`. */
static int lies_in(int fd, const char *directory, char *path) {
    char link_path[64];
    snprintf(link_path, sizeof link_path, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link_path, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    size_t root = strlen(directory);
    return strncmp(path, directory, root) == 0 && (path[root] == '/' || path[root] == 0);
}

static void shadow_sync(int fd) {
    char path[PATH_MAX], mirrored[PATH];
    struct stat found;
    if (!lies_in(fd, from, path) || fstat(fd, &found) != 0 || found.st_nlink == 0) return;
    pthread_mutex_lock(&lock);
    int torn = ++syncs == cut_at;
    if (S_ISDIR(found.st_mode)) {
        snprintf(mirrored, sizeof mirrored, "%s/tree%s", to, path + strlen(from));
        if (!torn || rand_r(&seed) % 2) sync_names(path, mirrored, 0);
    } else {
        sync_bytes(path, torn);
    }
    if (torn) kill(getpid(), SIGKILL);
    pthread_mutex_unlock(&lock);
}

static int sync_with(const char *name, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    int result = real(fd);
    if (from && result == 0) shadow_sync(fd);
    return result;
}

int fsync(int fd) { return sync_with("fsync", fd); }

int fdatasync(int fd) { return sync_with("fdatasync", fd); }
