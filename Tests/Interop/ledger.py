"""A verifying load over NBD that keeps a ledger of what was acknowledged.

Every 4 KiB block that it writes names itself and the write it came from. The ledger knows, for each block,
which writes its content may legally come from: the last acknowledged one, and those whose answer never came.
A read that returns anything else is a lost or changed byte.
"""
import collections, errno, random, struct, time
import nbd

BLOCK = 4096
RUN_BLOCKS_MAX = 16
RECONNECT_SECONDS_MAX = 60


class Lost(Exception):
    """The volume returned something that no acknowledged or open write explains."""


SAMPLE_SECONDS = 0.005


def waited_for_cpu():
    """Seconds that this thread was ready to run and did not."""
    try:
        with open("/proc/thread-self/schedstat") as file:
            return int(file.read().split()[1]) / 1e9
    except OSError:
        return 0.0


class Ledger:
    def __init__(self, uri, blocks, seed, depth=16):
        self.uri, self.depth, self.random = uri, depth, random.Random(seed)
        self.legal = [{0} for _ in range(blocks)]  # Write numbers that each block may hold; 0 is never written.
        self.busy = [False] * blocks
        self.next_write, self.in_flight = 1, 0
        self.acknowledged = self.reads = self.reconnects = self.io_errors = 0
        # A stall ends with an answer; a gap may also span a lost connection and its replacement.
        self.longest_stall, self.longest_gap, self.last_completion, self.last_answer = 0.0, 0.0, None, None
        self.longest_gap_ended = self.longest_gap_starved = 0.0
        self.waited, self.sampled = waited_for_cpu(), 0.0
        self.failure, self.handle, self.errors = None, None, collections.Counter()

    def connect(self):
        deadline = time.monotonic() + RECONNECT_SECONDS_MAX
        while True:
            handle = nbd.NBD()
            try:
                handle.connect_uri(self.uri)
                self.handle = handle
                return
            except nbd.Error:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def content(self, block, write):
        return struct.pack("<QQ", block, write) * (BLOCK // 16)

    def check(self, first, data):
        for index in range(len(data) // BLOCK):
            block, piece = first + index, bytes(data[index * BLOCK:(index + 1) * BLOCK])
            number = struct.unpack_from("<Q", piece, 8)[0]
            expected = self.content(block, number) if number else bytes(BLOCK)
            if number not in self.legal[block] or piece != expected:
                raise Lost(f"block {block}: write {number} read, one of {sorted(self.legal[block])} expected")
            self.legal[block] = {number}  # Once seen, it cannot go back.

    def completed(self, generation, kind, first, count, buffer, number, error):
        if generation != self.reconnects:
            return 1  # Of a connection that was given up: counted as open already.
        now = time.monotonic()
        if self.last_completion is not None:
            self.longest_stall = max(self.longest_stall, now - self.last_completion)
            if now - self.last_answer > self.longest_gap:
                self.longest_gap, self.longest_gap_ended = now - self.last_answer, now
                self.longest_gap_starved = waited_for_cpu() - self.waited
        if self.last_answer is None or now - self.sampled > SAMPLE_SECONDS:
            self.waited, self.sampled = waited_for_cpu(), now
        self.last_completion = self.last_answer = now
        self.in_flight -= 1
        for block in range(first, first + count):
            self.busy[block] = False
        try:
            if error:
                # Either content stays legal. A connection that died is not the server's answer.
                if error != errno.ENOTCONN:
                    self.io_errors += 1
                    self.errors[errno.errorcode.get(error, error)] += 1
            elif kind == "write":
                self.acknowledged += 1
                for block in range(first, first + count):
                    self.legal[block] = {number}
            elif kind == "trim":
                self.acknowledged += 1
                for block in range(first, first + count):
                    self.legal[block] = {0}
            else:
                self.reads += 1
                self.check(first, buffer.to_bytearray())
        except Lost as lost:
            self.failure = self.failure or lost
        return 1

    def submit_one(self):
        count = self.random.choice((1, 1, 1, 2, RUN_BLOCKS_MAX))
        first = self.random.randrange(len(self.legal) - count + 1)
        span = range(first, first + count)
        if any(self.busy[block] for block in span):
            return
        kind = self.random.choices(("write", "read", "trim"), (10, 9, 1))[0]
        number, offset = self.next_write, first * BLOCK
        for block in span:
            self.busy[block] = True
        self.in_flight += 1
        if kind == "read":
            buffer = nbd.Buffer(count * BLOCK)
        else:
            buffer = nbd.Buffer.from_bytearray(
                bytearray(b"".join(self.content(block, number) for block in span)))

        generation = self.reconnects

        def done(error):
            code = getattr(error, "value", error)  # Bindings differ: a number, or a cell that holds it.
            return self.completed(generation, kind, first, count, buffer, number, code)

        if kind == "read":
            self.handle.aio_pread(buffer, offset, done)
            return
        self.next_write += 1
        for block in span:
            self.legal[block] = self.legal[block] | {number if kind == "write" else 0}
        if kind == "write":
            self.handle.aio_pwrite(buffer, offset, done)
        else:
            self.handle.aio_trim(count * BLOCK, offset, done)

    def dropped(self):
        """The connection is gone: what was under way may or may not have happened."""
        self.reconnects += 1
        self.busy = [False] * len(self.busy)
        self.in_flight = 0
        self.handle = None
        self.connect()
        self.last_completion = time.monotonic()

    def run(self, until):
        """Loads until `until()` says so. Only a lost connection is tolerated; an I/O error counts."""
        if self.handle is None:
            self.connect()
        self.last_completion = self.last_answer = time.monotonic()
        while not until() and not self.failure:
            self.turn(fill=True)
        while self.in_flight and not self.failure:
            self.turn(fill=False)
        if self.failure:
            raise self.failure

    def turn(self, fill):
        try:
            attempts = 0
            while fill and self.in_flight < self.depth and attempts < 4 * self.depth:
                self.submit_one()
                attempts += 1
            self.handle.poll(100)
        except nbd.Error:
            self.dropped()
        if self.handle.aio_is_dead() or self.handle.aio_is_closed():
            self.dropped()

    def verify_all(self):
        for first in range(0, len(self.legal), RUN_BLOCKS_MAX):
            count = min(RUN_BLOCKS_MAX, len(self.legal) - first)
            self.check(first, self.handle.pread(count * BLOCK, first * BLOCK))
