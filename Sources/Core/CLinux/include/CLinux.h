#ifndef CURVE_CLINUX_H
#define CURVE_CLINUX_H

// First, so that every C module sees the same feature macros; liburing.h would define its own.
#include <features.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <malloc.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

// Each function below exists because Swift cannot import what it stands on: macros with casts or over an
// enum, variadic functions, and names behind _GNU_SOURCE. Results are 0 or -errno unless said otherwise.

// io_uring entries.
void curve_sqe_select_buffer(struct io_uring_sqe *sqe, uint16_t group);
void curve_sqe_poll_first(struct io_uring_sqe *sqe);
void curve_sqe_skip_success(struct io_uring_sqe *sqe);

// Clocks, in nanoseconds.
int64_t curve_boot_nanoseconds(void);
int64_t curve_wall_nanoseconds(void);

// Threads and the process.
void curve_name_thread(const char *name);
const char *curve_program_name(void);
// Asks for `signal` when the parent ends; 0, or -ESRCH when it has ended already. `expected`: the parent's number,
// or 0 when it is not known.
int curve_signal_at_parent_end(int signal, int expected);
int curve_block_signals(const int *signals, int count);

// Sockets.
int curve_set_option(int fd, int level, int name, int value);
int curve_peer_process(int fd, int *pid, unsigned *uid);

// Files and block devices. `curve_open` opens close-on-exec and returns the descriptor or -errno.
int curve_open(const char *path, int flags, unsigned mode);
int curve_o_direct(void);
int curve_block_size_bytes(int fd, uint64_t *bytes);
int curve_block_sector_bytes(int fd, int *bytes);
int curve_block_discard(int fd, uint64_t start, uint64_t length);
// The alignment that O_DIRECT needs on this file; zeroes when the kernel or the file system does not say.
int curve_direct_alignment(int fd, uint32_t *memory, uint32_t *offset);
int curve_punch_hole_mode(void);
// Reserves space for the first `length` bytes.
int curve_allocate(int fd, uint64_t length);
unsigned curve_device_major(uint64_t device);
unsigned curve_device_minor(uint64_t device);

#endif
