/* Tries every way to make a setuid or setgid file that is known, one line for each: its name and "made" or errno. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void tell(const char *way, long result)
{
    printf("%s: %s\n", way, result < 0 ? strerrorname_np(errno) : "made");
}

static int plain(const char *name)
{
    int file = open(name, O_CREAT | O_RDWR, 0755);
    if (file < 0) printf("%s cannot be made: %s\n", name, strerror(errno));
    return file;
}

#if defined(__x86_64__)
static char *low; /* Where a 32-bit call can find a path. */

static long call32(long number, long a, long b, long c, long d)
{
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d)
                     : "memory", "r8", "r9", "r10", "r11");
    if ((int)result < 0) {
        errno = -(int)result;
        return -1;
    }
    return result;
}

static long path(const char *name)
{
    return (long)(uintptr_t)strcpy(low, name);
}

static void in_32_bits(void)
{
    low = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    if (low == MAP_FAILED || call32(20, 0, 0, 0, 0) != getpid()) {
        puts("SKIP: no 32-bit calls");
        return;
    }
    int file = plain("32");
    tell("32-bit chmod", call32(15, path("32"), 04755, 0, 0));
    tell("32-bit fchmod", call32(94, file, 02755, 0, 0));
    tell("32-bit fchmodat", call32(306, AT_FDCWD, path("32"), 06755, 0));
    tell("32-bit fchmodat2", call32(452, AT_FDCWD, path("32"), 04755, 0));
    tell("32-bit creat", call32(8, path("32a"), 04755, 0, 0));
    tell("32-bit open", call32(5, path("32b"), O_CREAT | O_WRONLY, 04755, 0));
    tell("32-bit openat", call32(295, AT_FDCWD, path("32c"), O_CREAT | O_WRONLY, 02755));
    tell("32-bit mknod", call32(14, path("32d"), S_IFREG | 04755, 0, 0));
    tell("32-bit mknodat", call32(297, AT_FDCWD, path("32e"), S_IFREG | 04755, 0));
    tell("x32 chmod", syscall(0x40000000 + SYS_chmod, "32", 04755));
}

static void by_old_calls(void)
{
    tell("open", syscall(SYS_open, "b", O_CREAT | O_WRONLY, 04755));
    tell("creat", syscall(SYS_creat, "c", 02755));
    tell("mknod", syscall(SYS_mknod, "d", S_IFREG | 04755, 0));
    tell("chmod", syscall(SYS_chmod, "a", 04755));
}
#else
static void in_32_bits(void) { puts("SKIP: no 32-bit calls"); }
static void by_old_calls(void) {}
#endif

int main(void)
{
    umask(0);
    int file = plain("a");
    by_old_calls();
    tell("fchmod", syscall(SYS_fchmod, file, 02755));
    tell("fchmodat", syscall(SYS_fchmodat, AT_FDCWD, "a", 06755));
    tell("fchmodat2", syscall(452, AT_FDCWD, "a", 04755, 0));
    tell("openat", syscall(SYS_openat, AT_FDCWD, "e", O_CREAT | O_WRONLY, 04755));
    tell("O_TMPFILE", syscall(SYS_openat, AT_FDCWD, ".", O_TMPFILE | O_WRONLY, 04755));
    tell("mknodat", syscall(SYS_mknodat, AT_FDCWD, "f", S_IFREG | 04755, 0));
    struct open_how how = {.flags = O_CREAT | O_WRONLY, .mode = 04755};
    tell("openat2", syscall(SYS_openat2, AT_FDCWD, "g", &how, sizeof how));
    char parameters[120] = {0};
    tell("io_uring", syscall(SYS_io_uring_setup, 1, parameters));
    tell("TIOCSTI", ioctl(0, TIOCSTI, "x"));
    tell("TIOCLINUX", ioctl(0, 0x541c, "\x03"));
    in_32_bits();
    /* Garbage where a mode would stand is none of our business. */
    tell("open of what is there", syscall(SYS_openat, AT_FDCWD, "a", O_RDONLY, 07777));
    tell("mkdir", mkdir("dir", 02755));
    tell("sticky", chmod("dir", 01777));
    return 0;
}
