"""Random operations on one file, each compared with what a buffer in memory holds.

exerciser.py FILE SECONDS SEED [direct]

Made for the file that nbdfuse shows of a volume, after the manner of fsx, which no package brings: reads and
writes of any place and length, by calls and by mmap, holes, zeroed ranges, syncs, and the file closed and opened
again; with "direct" every call reaches the file system, and mmap is left out. The file must exist and hold zeroes; its size does not change. A difference ends it with exit status 1, and
tells the seed, the operation, and the last operations on that place.
"""

import ctypes
import mmap
import os
import random
import sys
import time

KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class Exerciser:
    def __init__(self, path, seed, direct):
        self.path, self.seed = path, seed
        self.dice = random.Random(seed)
        self.flags = os.O_RDWR | (os.O_DIRECT if direct else 0)
        self.file = os.open(path, self.flags)
        mapped = [] if direct else [self.map_read] * 10 + [self.map_write] * 10
        self.choices = (mapped + [self.read] * 30 + [self.write] * 30 + [self.hole] * 6 + [self.zero] * 6 +
                        [self.sync] * 3 + [self.reopen])
        self.size = os.fstat(self.file).st_size
        self.shadow = bytearray(self.size)
        self.history = []
        self.counts = {}

    def place(self):
        """Any run of bytes; half of them begin or end where blocks, stripes and chunks do."""
        length = min(self.size, int(2 ** self.dice.uniform(0, 18)))
        start = self.dice.randrange(self.size - length + 1)
        if self.dice.random() < 0.5:
            edge = self.dice.choice((512, 4096, 65536))
            start = min(start // edge * edge, self.size - length)
        if self.dice.random() < 0.3:
            length = max(1, min(self.size - start, length // 4096 * 4096))
        return start, length

    def fail(self, what, start, got):
        wanted = self.shadow[start:start + len(got)]
        at = next((i for i in range(len(got)) if got[i] != wanted[i]), len(got))
        print(f"seed {self.seed}, operation {len(self.history)}: {what} at {start}, {len(got)} bytes, "
              f"differs from byte {start + at}: {got[at:at + 16].hex()} and not {wanted[at:at + 16].hex()}")
        touching = [h for h in self.history if h[1] <= start + at < h[1] + h[2]]
        for line in touching[-8:]:
            print("  ", *line)
        sys.exit(1)

    def compare(self, what, start, length, got):
        if len(got) != length:
            print(f"seed {self.seed}: {what} at {start} gave {len(got)} bytes of {length}")
            sys.exit(1)
        if got != self.shadow[start:start + length]:
            self.fail(what, start, got)

    def read(self, start, length):
        self.compare("read", start, length, os.pread(self.file, length, start))

    def map_read(self, start, length):
        with mmap.mmap(self.file, self.size, prot=mmap.PROT_READ) as view:
            self.compare("mapped read", start, length, view[start:start + length])

    def write(self, start, length):
        data = self.dice.randbytes(length)
        done = 0
        while done < length:
            done += os.pwrite(self.file, data[done:], start + done)
        self.shadow[start:start + length] = data

    def map_write(self, start, length):
        data = self.dice.randbytes(length)
        with mmap.mmap(self.file, self.size) as view:
            view[start:start + length] = data
            view.flush()
        self.shadow[start:start + length] = data

    def hole(self, start, length, mode=KEEP_SIZE | PUNCH_HOLE):
        if libc.fallocate(self.file, mode, start, length) != 0:
            raise OSError(ctypes.get_errno(), f"fallocate {mode} at {start}, {length} bytes")
        self.shadow[start:start + length] = bytes(length)

    def zero(self, start, length):
        self.hole(start, length, KEEP_SIZE | ZERO_RANGE)

    def sync(self, start, length):
        os.fsync(self.file)

    def reopen(self, start, length):
        os.close(self.file)
        self.file = os.open(self.path, self.flags)

    def run(self, seconds):
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            operation = self.dice.choice(self.choices)
            start, length = self.place()
            self.history.append((operation.__name__, start, length))
            operation(start, length)
            self.counts[operation.__name__] = self.counts.get(operation.__name__, 0) + 1
        self.reopen(0, 0)
        self.read(0, self.size)
        os.close(self.file)
        print(sum(self.counts.values()), "operations:", dict(sorted(self.counts.items())))


Exerciser(sys.argv[1], int(sys.argv[3]), "direct" in sys.argv[4:]).run(float(sys.argv[2]))
