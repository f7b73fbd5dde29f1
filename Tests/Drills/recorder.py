#!/usr/bin/python3
"""A file system that records: recorder.py MOUNTPOINT RECORD FILE...

Shows each FILE under its own name in MOUNTPOINT and keeps, in one order for all of them, every write with its bytes, every
discard and every flush, each with the time it came and the time it was answered. Ends when it is unmounted. Needs root.

It speaks the kernel's FUSE protocol itself (linux/fuse.h, 7.31): only so does it see a flush and the writes beside it as
the device below a file would, whatever the program above does to get them there. Some answers are held back, so that
flushes and writes overlap.
"""
import ctypes, errno, heapq, os, random, select, stat, struct, sys, time

WRITE, DISCARD, FLUSH, DONE = b"WDFd"
# kind, file, number of the request, time in ns, offset, length; a write's bytes follow.
ENTRY = struct.Struct("<BBIQQQ")

LOOKUP, FORGET, GETATTR, SETATTR, OPEN, READ, WRITE_CALL, STATFS, RELEASE, FSYNC = 1, 2, 3, 4, 14, 15, 16, 17, 18, 20
CLOSE, INIT, INTERRUPT, DESTROY, BATCH_FORGET, FALLOCATE = 25, 26, 36, 38, 42, 43
ASYNC_READ, BIG_WRITES, ASYNC_DIO, MAX_PAGES = 1 << 0, 1 << 5, 1 << 15, 1 << 22
OPENS_DIRECTLY, WRITES_IN_PARALLEL = 1 << 0, 1 << 6
PUNCHES, KEEPS_SIZE = 2, 1
REQUEST, REPLY = struct.Struct("<IIQQIIIHH"), struct.Struct("<IiQ")
WRITE_BYTES_MAX = 1 << 20
FOREVER = 1 << 30
ROOT = 1


class Recorder:
    def __init__(self, mountpoint, record, files):
        self.files = [os.open(path, os.O_RDWR) for path in files]
        self.names = [os.path.basename(path).encode() for path in files]
        self.record = open(record, "wb", buffering=1 << 20)
        self.random, self.held, self.number = random.Random(11), [], 0
        self.device = os.open("/dev/fuse", os.O_RDWR | os.O_NONBLOCK)
        libc = ctypes.CDLL(None, use_errno=True)
        options = f"fd={self.device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}".encode()
        if libc.mount(b"recorder", mountpoint.encode(), b"fuse", 0, options) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), mountpoint)

    def run(self):
        poll = select.poll()
        poll.register(self.device, select.POLLIN)
        while True:
            while self.held and self.held[0][0] <= time.monotonic_ns():
                self.answer_held()
            wait = max(0, self.held[0][0] - time.monotonic_ns()) / 1e6 if self.held else 1000
            if not poll.poll(wait):
                self.record.flush()
                continue
            try:
                message = os.read(self.device, WRITE_BYTES_MAX + 8192)
            except BlockingIOError:
                continue
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINTR):
                    continue
                break  # Unmounted.
            if not self.handle(message):
                break
        self.record.close()

    def handle(self, message):
        _, call, unique, node, *_ = REQUEST.unpack_from(message)
        body = memoryview(message)[REQUEST.size:]
        if call == DESTROY:
            return False
        if call in (FORGET, BATCH_FORGET, INTERRUPT):
            return True
        handler = self.handlers.get(call)
        if handler:
            handler(self, unique, node, body)
        else:
            self.answer(unique, error=errno.ENOSYS)
        return True

    def answer(self, unique, data=b"", error=0):
        try:
            os.write(self.device, REPLY.pack(REPLY.size + len(data), -error, unique) + data)
        except OSError as why:
            if why.errno != errno.ENOENT:  # The one who asked is dead.
                raise

    def answer_held(self):
        _, number, file, unique, data = heapq.heappop(self.held)
        # Stamped before anybody can act on it.
        self.record.write(ENTRY.pack(DONE, file, number, time.monotonic_ns(), 0, 0))
        self.answer(unique, data)

    def enter(self, kind, node, offset, length, delay_ns, unique, answer, data=b""):
        self.number += 1
        now = time.monotonic_ns()
        self.record.write(ENTRY.pack(kind, node - 2, self.number, now, offset, length))
        self.record.write(data)
        heapq.heappush(self.held, (now + delay_ns, self.number, node - 2, unique, answer))

    def init(self, unique, node, body):
        major, minor, readahead, flags = struct.unpack_from("<IIII", body)
        flags &= ASYNC_READ | BIG_WRITES | ASYNC_DIO | MAX_PAGES
        self.answer(unique, struct.pack("<IIIIHHIIHHIII24x", 7, 31, readahead, flags, 128, 96, WRITE_BYTES_MAX, 1,
                                        WRITE_BYTES_MAX // 4096, 0, 0, 0, 0)[:64])

    def attributes(self, node):
        size = 0 if node == ROOT else os.fstat(self.files[node - 2]).st_size
        mode = stat.S_IFDIR | 0o700 if node == ROOT else stat.S_IFREG | 0o600
        return struct.pack("<6Q10I", node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, os.getuid(), os.getgid(), 0, 4096, 0)

    def lookup(self, unique, node, body):
        name = bytes(body).rstrip(b"\0")
        if node != ROOT or name not in self.names:
            return self.answer(unique, error=errno.ENOENT)
        found = self.names.index(name) + 2
        self.answer(unique, struct.pack("<QQQQII", found, 0, FOREVER, FOREVER, 0, 0) + self.attributes(found))

    def getattr(self, unique, node, body):
        self.answer(unique, struct.pack("<QII", FOREVER, 0, 0) + self.attributes(node))

    def open(self, unique, node, body):
        self.answer(unique, struct.pack("<QIi", node, OPENS_DIRECTLY | WRITES_IN_PARALLEL, 0))

    def done(self, unique, node, body):
        self.answer(unique)

    def statfs(self, unique, node, body):
        self.answer(unique, struct.pack("<5Q4I24x", 1 << 20, 1 << 19, 1 << 19, 1 << 20, 1 << 19, 4096, 255, 4096, 0))

    def read(self, unique, node, body):
        _, offset, count = struct.unpack_from("<QQI", body)
        self.answer(unique, os.pread(self.files[node - 2], count, offset))

    def write(self, unique, node, body):
        _, offset, count = struct.unpack_from("<QQI", body)
        data = body[40:40 + count]
        os.pwrite(self.files[node - 2], data, offset)
        delay = self.random.randrange(2_000_000) if self.random.random() < 0.2 else 0
        self.enter(WRITE, node, offset, count, delay, unique, struct.pack("<II", count, 0), data)

    def fsync(self, unique, node, body):
        self.enter(FLUSH, node, 0, 0, self.random.randrange(200_000, 3_000_000), unique, b"")

    def fallocate(self, unique, node, body):
        _, offset, length, mode = struct.unpack_from("<QQQI", body)
        if mode != PUNCHES | KEEPS_SIZE:
            return self.answer(unique, error=errno.EOPNOTSUPP)
        zeroes = bytes(1 << 20)
        for start in range(offset, offset + length, len(zeroes)):
            os.pwrite(self.files[node - 2], zeroes[:offset + length - start], start)
        self.enter(DISCARD, node, offset, length, 0, unique, b"")

    handlers = {
        INIT: init, LOOKUP: lookup, GETATTR: getattr, SETATTR: getattr, OPEN: open, READ: read, WRITE_CALL: write,
        STATFS: statfs, RELEASE: done, CLOSE: done, FSYNC: fsync, FALLOCATE: fallocate,
    }


def entries(path):
    """Reads a record: (kind, file, number, time in ns, offset, length, bytes)."""
    with open(path, "rb") as file:
        while head := file.read(ENTRY.size):
            if len(head) < ENTRY.size:
                return
            kind, index, number, when, offset, length = ENTRY.unpack(head)
            data = file.read(length) if kind == WRITE else b""
            if kind == WRITE and len(data) < length:
                return
            yield kind, index, number, when, offset, length, data


if __name__ == "__main__":
    recorder = Recorder(sys.argv[1], sys.argv[2], sys.argv[3:])
    print("ready", sys.argv[1], flush=True)
    recorder.run()
