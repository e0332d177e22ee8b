/* Preloaded into the program by tests/it/syscalls.rs. Logs every call that changes something below
 * SHIM_ROOT or SHIM_ALSO to SHIM_LOG, one per line. Call number SHIM_AT (from 0) fails like on a
 * full or broken disk (SHIM_FAULT=error), or kills the process before it (SHIM_FAULT=kill). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_int calls;
static int log_fd = -1, at = -1, kills;
static const char *root, *also;

static ssize_t (*real_write)(int, const void *, size_t);

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void begin(void) {
    root = getenv("SHIM_ROOT");
    also = getenv("SHIM_ALSO");
    real_write = (ssize_t(*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    const char *log = getenv("SHIM_LOG"), *number = getenv("SHIM_AT");
    const char *fault = getenv("SHIM_FAULT");
    if (log)
        log_fd = open(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (number)
        at = atoi(number);
    kills = fault && !strcmp(fault, "kill");
}

/* Logs a call. Returns whether it must fail. */
static int fails(const char *name, const char *path, const char *to, int error) {
    int is_below = root && !strncmp(path, root, strlen(root));
    if (!is_below && (!also || strncmp(path, also, strlen(also))))
        return 0;
    char line[2 * PATH_MAX + 32];
    const char *space = to ? " " : "", *target = to ? to : "";
    int length = snprintf(line, sizeof line, "%s %s%s%s\n", name, path, space, target);
    if (log_fd >= 0 && real_write(log_fd, line, (size_t)length) != length)
        abort();
    if (atomic_fetch_add(&calls, 1) != at)
        return 0;
    if (kills) {
        kill(getpid(), SIGKILL);
        for (;;)
            pause();
    }
    errno = error;
    return 1;
}

static int fails_fd(const char *name, int fd, int error) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0)
        return 0;
    path[length] = 0;
    return fails(name, path, NULL, error);
}

int open64(const char *path, int flags, ...) {
    REAL(open64);
    va_list list;
    va_start(list, flags);
    mode_t mode = va_arg(list, mode_t);
    va_end(list);
    if ((flags & O_CREAT) && fails("create", path, NULL, ENOSPC))
        return -1;
    return real(path, flags, mode);
}

ssize_t write(int fd, const void *bytes, size_t length) {
    if (fd != log_fd && fails_fd("write", fd, ENOSPC))
        return -1;
    return real_write(fd, bytes, length);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev);
    return fails_fd("write", fd, ENOSPC) ? -1 : real(fd, parts, count);
}

int fsync(int fd) {
    REAL(fsync);
    return fails_fd("fsync", fd, EIO) ? -1 : real(fd);
}

int rename(const char *from, const char *to) {
    REAL(rename);
    return fails("rename", from, to, ENOSPC) ? -1 : real(from, to);
}

int unlink(const char *path) {
    REAL(unlink);
    return fails("unlink", path, NULL, EIO) ? -1 : real(path);
}

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    return fails("mkdir", path, NULL, ENOSPC) ? -1 : real(path, mode);
}
