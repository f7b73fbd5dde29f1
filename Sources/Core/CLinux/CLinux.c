#define _GNU_SOURCE  // For O_DIRECT, statx, ucred, pthread_setname_np.
#include "CLinux.h"

#include <sys/prctl.h>
#include <linux/fs.h>
#include <linux/falloc.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

void curve_sqe_select_buffer(struct io_uring_sqe *sqe, uint16_t group) {
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = group;
}

void curve_sqe_skip_success(struct io_uring_sqe *sqe) { sqe->flags |= IOSQE_CQE_SKIP_SUCCESS; }
void curve_sqe_poll_first(struct io_uring_sqe *sqe) { sqe->ioprio |= IORING_RECVSEND_POLL_FIRST; }

static int64_t nanoseconds(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int64_t curve_boot_nanoseconds(void) { return nanoseconds(CLOCK_BOOTTIME); }
int64_t curve_wall_nanoseconds(void) { return nanoseconds(CLOCK_REALTIME); }

void curve_name_thread(const char *name) {
    char shortened[16] = {0};  // The kernel keeps 15 bytes.
    strncpy(shortened, name, sizeof shortened - 1);
    pthread_setname_np(pthread_self(), shortened);
}

const char *curve_program_name(void) { return program_invocation_short_name; }

int curve_signal_at_parent_end(int signal, int expected) {
    pid_t parent = expected ? expected : getppid();
    if (prctl(PR_SET_PDEATHSIG, signal) != 0) return -errno;
    // The parent may have ended before the request took hold.
    return getppid() == parent && (expected || parent != 1) ? 0 : -ESRCH;
}

int curve_block_signals(const int *signals, int count) {
    sigset_t set;
    sigemptyset(&set);
    for (int i = 0; i < count; i++) sigaddset(&set, signals[i]);
    return -pthread_sigmask(SIG_BLOCK, &set, NULL);
}

int curve_set_option(int fd, int level, int name, int value) {
    return setsockopt(fd, level, name, &value, sizeof value) == 0 ? 0 : -errno;
}

int curve_peer_process(int fd, int *pid, unsigned *uid) {
    struct ucred who;
    socklen_t size = sizeof who;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) != 0) return -errno;
    *pid = who.pid;
    *uid = who.uid;
    return 0;
}

int curve_open(const char *path, int flags, unsigned mode) {
    int fd;
    do { fd = open(path, flags | O_CLOEXEC, mode); } while (fd < 0 && errno == EINTR);
    return fd >= 0 ? fd : -errno;
}

int curve_o_direct(void) { return O_DIRECT; }

int curve_block_size_bytes(int fd, uint64_t *bytes) {
    return ioctl(fd, BLKGETSIZE64, bytes) == 0 ? 0 : -errno;
}

int curve_block_sector_bytes(int fd, int *bytes) { return ioctl(fd, BLKSSZGET, bytes) == 0 ? 0 : -errno; }

int curve_block_discard(int fd, uint64_t start, uint64_t length) {
    uint64_t range[2] = {start, length};
    return ioctl(fd, BLKDISCARD, range) == 0 ? 0 : -errno;
}

int curve_direct_alignment(int fd, uint32_t *memory, uint32_t *offset) {
    *memory = *offset = 0;
#ifdef STATX_DIOALIGN
    struct statx about;
    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &about) != 0) return -errno;
    if (about.stx_mask & STATX_DIOALIGN) {
        *memory = about.stx_dio_mem_align;
        *offset = about.stx_dio_offset_align;
    }
#else
    (void)fd;
#endif
    return 0;
}

int curve_punch_hole_mode(void) { return FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE; }

int curve_allocate(int fd, uint64_t length) {
    int result;
    do { result = fallocate(fd, 0, 0, (off_t)length); } while (result != 0 && errno == EINTR);
    return result == 0 ? 0 : -errno;
}

unsigned curve_device_major(uint64_t device) { return major(device); }
unsigned curve_device_minor(uint64_t device) { return minor(device); }
