/* Simulates a bad sector in a process that preloads this library. If the path of a file contains
 * `bad_sector`, a page in the middle of each of its maps cannot be read: reading it raises SIGBUS, as
 * on a damaged device. The file itself does not change: the page of the map is replaced by a page of
 * an empty file. */

#define _GNU_SOURCE
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static int has_bad_sector(int fd) {
    char link[64], path[PATH_MAX + 1];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, PATH_MAX);
    if (len < 0) {
        return 0;
    }
    path[len] = 0;
    return strstr(path, "bad_sector") != NULL;
}

void *mmap64(void *place, size_t len, int prot, int flags, int fd, off64_t offset) {
    char *map = (char *)syscall(SYS_mmap, place, len, prot, flags, fd, offset);
    if (map != MAP_FAILED && fd >= 0 && has_bad_sector(fd)) {
        size_t page = (size_t)sysconf(_SC_PAGESIZE);
        char *middle = map + len / 2 / page * page;
        int empty = memfd_create("no pages", 0);
        syscall(SYS_mmap, middle, page, PROT_READ, MAP_SHARED | MAP_FIXED, empty, 0);
        close(empty);
    }
    return map;
}

void *mmap(void *, size_t, int, int, int, off_t) __attribute__((alias("mmap64")));
