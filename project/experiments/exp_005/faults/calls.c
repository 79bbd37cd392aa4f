/* Loaded before libc: of the calls that touch files below a folder, one goes wrong.
 *
 *     cc -shared -fPIC -O2 -o calls.so calls.c -ldl
 *
 * A call is counted before it is made. The state lies in memory that the caller shares with its
 * parent, so that a parent knows what its killed child has come to.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { NONE, KILLED, TORN, REFUSED_ONCE, REFUSED_FROM_THEN_ON };
enum { READING = 1, WRITING = 2, REMOVING = 4 };

struct state {
    long at;        /* which call goes wrong, from 1 on */
    long kind;      /* how */
    long error;     /* errno of what is refused */
    long which;     /* READING, WRITING, REMOVING, or several of them are counted */
    long seen;      /* calls so far */
    long has_fired; /* whether one has gone wrong */
};

static struct state *state;
static char folder[PATH_MAX];

void fault_arm(const char *path, struct state *shared) {
    strncpy(folder, path, sizeof folder - 1);
    state = shared;
}

void fault_disarm(void) { state = NULL; }

static int is_inside(const char *path) { return strncmp(path, folder, strlen(folder)) == 0; }

static int is_inside_file(int file) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return is_inside(path);
}

/* What happens to this call. */
static int fault(int which, int is_meant) {
    if (!state || !is_meant || !(state->which & which)) return NONE;
    long now = ++state->seen;
    int is_it = now == state->at || (state->kind == REFUSED_FROM_THEN_ON && now > state->at);
    if (!is_it) return NONE;
    state->has_fired = 1;
    if (state->kind == KILLED) kill(getpid(), SIGKILL);
    errno = (int)state->error;
    return (int)state->kind;
}

static void die(void) { kill(getpid(), SIGKILL); }

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

/* A call without bytes: it is refused, or the last thing that happens. */
#define PLAIN(which, is_meant, call) \
    int how = fault(which, is_meant); \
    if (how >= REFUSED_ONCE) return -1; \
    __typeof__(call) done = call; \
    if (how == TORN) die(); \
    return done

/* A call that writes bytes: half of them arrive. */
#define BYTES(is_meant, call_of) \
    int how = fault(WRITING, is_meant); \
    if (how >= REFUSED_ONCE) return -1; \
    if (how == TORN) { call_of(n / 2); die(); } \
    return call_of(n)

ssize_t write(int file, const void *bytes, size_t n) {
    REAL(write);
#define CALL(n) real(file, bytes, n)
    BYTES(is_inside_file(file), CALL);
#undef CALL
}
ssize_t pwrite(int file, const void *bytes, size_t n, off_t at) {
    REAL(pwrite);
#define CALL(n) real(file, bytes, n, at)
    BYTES(is_inside_file(file), CALL);
}
ssize_t pwrite64(int file, const void *bytes, size_t n, off64_t at) {
    REAL(pwrite64);
    BYTES(is_inside_file(file), CALL);
#undef CALL
}
ssize_t read(int file, void *bytes, size_t n) {
    REAL(read);
    PLAIN(READING, is_inside_file(file), real(file, bytes, n));
}
ssize_t pread(int file, void *bytes, size_t n, off_t at) {
    REAL(pread);
    PLAIN(READING, is_inside_file(file), real(file, bytes, n, at));
}
ssize_t pread64(int file, void *bytes, size_t n, off64_t at) {
    REAL(pread64);
    PLAIN(READING, is_inside_file(file), real(file, bytes, n, at));
}
int fsync(int file) {
    REAL(fsync);
    PLAIN(WRITING, is_inside_file(file), real(file));
}
int fdatasync(int file) {
    REAL(fdatasync);
    PLAIN(WRITING, is_inside_file(file), real(file));
}
int ftruncate(int file, off_t n) {
    REAL(ftruncate);
    PLAIN(WRITING, is_inside_file(file), real(file, n));
}
int ftruncate64(int file, off64_t n) {
    REAL(ftruncate64);
    PLAIN(WRITING, is_inside_file(file), real(file, n));
}
int rename(const char *from, const char *to) {
    REAL(rename);
    PLAIN(WRITING, is_inside(to), real(from, to));
}
int unlink(const char *path) {
    REAL(unlink);
    PLAIN(REMOVING, is_inside(path), real(path));
}
int unlinkat(int at, const char *path, int flags) {
    REAL(unlinkat);
    PLAIN(REMOVING, path[0] == '/' ? is_inside(path) : is_inside_file(at), real(at, path, flags));
}
int rmdir(const char *path) {
    REAL(rmdir);
    PLAIN(REMOVING, is_inside(path), real(path));
}
int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    PLAIN(WRITING, is_inside(path), real(path, mode));
}

static int writes(int flags) { return flags & (O_CREAT | O_TRUNC) ? WRITING : READING; }

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name); \
        va_list more; \
        va_start(more, flags); \
        mode_t mode = va_arg(more, mode_t); \
        va_end(more); \
        PLAIN(writes(flags), is_inside(path), real(path, flags, mode)); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int at, const char *path, int flags, ...) { \
        REAL(name); \
        va_list more; \
        va_start(more, flags); \
        mode_t mode = va_arg(more, mode_t); \
        va_end(more); \
        PLAIN(writes(flags), path[0] == '/' && is_inside(path), real(at, path, flags, mode)); \
    }
OPENAT(openat)
OPENAT(openat64)
