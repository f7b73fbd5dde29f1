#!/usr/bin/env python3
"""Rude clients against a running NBD server: rude.py SOCKET SERVER-PID [LOG]

Malformed input that has killed servers before; bounds that keep one client from starving another. While each case
runs a victim reads and writes with verify in a process of its own: it must meet no error and no wait of more
than a second. After each a newcomer is served, and the server's memory has not grown beyond its bound.
"""
import os, random, socket, struct, sys, time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from victim import Victim

PATH, PID = sys.argv[1], int(sys.argv[2])
OPTION = b"IHAVEOPT"
RSS_GROWTH_MAX = 128 << 20
WAIT_MAX = 1.0
READ, WRITE, DISC, FLUSH, TRIM, ZEROES, STATUS = 0, 1, 2, 3, 4, 6, 7


def connect():
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(20)
    for _ in range(5000):
        try:
            s.connect(PATH)
            return s
        except BlockingIOError:  # More wait already than the system lets wait.
            time.sleep(0.001)
    raise AssertionError("nobody accepts")


def take(s, count):
    data = b""
    while len(data) < count:
        piece = s.recv(count - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def option(number, data=b"", length=None):
    return OPTION + struct.pack(">II", number, len(data) if length is None else length) + data


def go(name=b""):
    return option(7, struct.pack(">I", len(name)) + name + b"\0\0")


def greeted():
    s = connect()
    take(s, 18)
    s.sendall(struct.pack(">I", 3))
    return s


def option_reply(s):
    _, _, kind, length = struct.unpack(">QIII", take(s, 20))
    return kind, take(s, length)


def served():
    s = greeted()
    s.sendall(go())
    while option_reply(s)[0] != 1:
        pass
    return s


def request(command, offset=0, length=0, flags=0, cookie=1):
    return struct.pack(">IHHQQI", 0x25609513, flags, command, cookie, offset, length)


def reply(s):
    magic, error, cookie = struct.unpack(">IIQ", take(s, 16))
    assert magic == 0x67446698, hex(magic)
    return error


def newcomer():
    s = served()
    data = os.urandom(8192)
    s.sendall(request(WRITE, 4096, 8192) + data)
    assert reply(s) == 0
    s.sendall(request(READ, 4096, 8192))
    assert reply(s) == 0 and take(s, 8192) == data
    s.sendall(request(DISC))
    s.close()


def rss():
    with open(f"/proc/{PID}/statm") as f:
        return int(f.read().split()[1]) * 4096


def ends(s):
    """The server closes the connection."""
    try:
        while s.recv(65536):
            pass
    except ConnectionError:
        pass


def reset(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


CASES = []


def case(f):
    CASES.append(f)
    return f


@case
def long_names():
    for number in (6, 7):
        for length in (256, 257, 4096, 4097, 8000):
            s = greeted()
            s.sendall(option(number, struct.pack(">I", length) + b"a" * length + b"\0\0"))
            assert option_reply(s)[0] >= 1 << 31
            s.close()
    for length in (257, 4096, 4097, 1 << 20):
        s = greeted()
        s.sendall(option(1, b"a" * length))
        ends(s)


@case
def lying_lengths():
    for number in (3, 6, 7, 8, 9, 10, 77):
        for data in (b"\xff" * 4, b"\xff\xff\xff\xff\0\0", struct.pack(">I", 5) + b"ab", b"", b"\0" * 3):
            s = greeted()
            s.sendall(option(number, data) + option(2))
            ends(s)
    for length in (0xFFFFFFFF, 0x7FFFFFFF, 1 << 24):
        s = greeted()
        s.sendall(option(7, length=length) + b"x" * 1000)
        ends(s)


@case
def meta_contexts():
    s = greeted()
    s.sendall(option(10, struct.pack(">I", 0) + struct.pack(">I", 1)))
    assert option_reply(s)[0] >= 1 << 31
    s.sendall(option(8))
    assert option_reply(s)[0] == 1
    for data in (struct.pack(">II", 0, 0xFFFFFFFF), struct.pack(">III", 0, 1, 0xFFFFFFFF)):
        s.sendall(option(10, data))
        assert option_reply(s)[0] >= 1 << 31
    s.sendall(option(9, struct.pack(">II", 0, 0)))
    assert [option_reply(s)[0] for _ in range(3)] == [4, 4, 1]


@case
def leaving_anywhere():
    whole = struct.pack(">I", 3) + go() + request(WRITE, 0, 4096) + b"z" * 4096
    for length in list(range(0, 60)) + [62, 100, 2000, len(whole) - 1]:
        for leave in (socket.socket.close, reset):
            s = connect()
            s.sendall(whole[:length])
            leave(s)


@case
def strange_orders():
    s = greeted()
    s.sendall(go(b"nope") + option(6, struct.pack(">I", 0) + b"\0\0") + option(3) + option(5) + option(8) + go() + go())
    ends_at = time.monotonic() + 5
    s.settimeout(1)
    try:
        while time.monotonic() < ends_at and s.recv(4096):
            pass
    except (TimeoutError, ConnectionError):
        pass


@case
def wrong_magics():
    for data in (b"\0" * 64, struct.pack(">I", 0xFFFFFFFF), struct.pack(">I", 3) + b"GET / HTTP/1.1\r\n\r\n"):
        s = connect()
        s.sendall(data)
        ends(s)
    s = served()
    s.sendall(b"\0" * 28)
    ends(s)


@case
def idle_crowd():
    crowd = [connect() for _ in range(300)]
    newcomer()
    for s in crowd:
        s.close()


@case
def drop_by_drop():
    s = connect()
    for byte in struct.pack(">I", 3) + go():
        s.sendall(bytes([byte]))
    s.close()


@case
def reset_with_reads_in_flight():
    for _ in range(20):
        s = served()
        s.sendall(b"".join(request(READ, 0, 4 << 20, cookie=n) for n in range(100)))
        reset(s)


@case
def reset_in_payload():
    for _ in range(20):
        s = served()
        s.sendall(request(WRITE, 0, 1 << 20) + b"y" * random.randrange(1, 1 << 19))
        reset(s)


@case
def bad_ranges():
    s = served()
    for command, offset, length, error in (
        (READ, (1 << 64) - 512, 1024, 22), (READ, 0, 0xFFFFFFFF, 22), (READ, 1 << 62, 512, 22),
        (TRIM, (1 << 64) - 512, 512, 22), (ZEROES, 1 << 62, 512, 28),
        (READ, 0, 0, 0), (TRIM, 0, 0, 0), (ZEROES, 0, 0, 0), (FLUSH, 0, 512, 22), (STATUS, 0, 512, 22),
        (99, 0, 512, 22), (5, 0, 512, 0), (5, 1 << 62, 512, 22)):
        s.sendall(request(command, offset, length))
        assert reply(s) == error, (command, offset, length)
    for offset, length, error in (((1 << 64) - 512, 1024, 28), (1 << 62, 512, 28), (1, 512, 0), (0, 0, 0)):
        s.sendall(request(WRITE, offset, length) + b"w" * length)
        assert reply(s) == error, (offset, length)
    s.sendall(request(READ, 512, 1))  # The last byte of what has just been written.
    assert reply(s) == 0 and take(s, 1) == b"w"
    for bit in range(16):
        s.sendall(request(READ, 0, 512, flags=1 << bit))
        error = reply(s)
        assert error == (0 if bit == 0 else 22), bit
        if error == 0:
            take(s, 512)


@case
def oversized_write():
    s = served()
    s.sendall(request(WRITE, 0, (64 << 20) + 1))
    piece = b"o" * (1 << 20)
    for _ in range(64):
        s.sendall(piece)
    s.sendall(b"o" + request(FLUSH))
    assert reply(s) in (22, 28) and reply(s) == 0
    s.sendall(request(WRITE, 0, 0xFFFFFFFF))
    ends(s)


@case
def nobody_collects():
    s = served()
    s.settimeout(1)
    try:
        s.sendall(b"".join(request(READ, 0, 4 << 20, cookie=n) for n in range(1000)))
    except TimeoutError:
        pass
    time.sleep(1)
    newcomer()
    s.close()


@case
def same_cookie_and_after_goodbye():
    s = served()
    s.sendall(request(FLUSH) * 64)
    for _ in range(64):
        assert reply(s) == 0
    s.sendall(request(DISC) + request(READ, 0, 512) * 50)
    ends(s)


@case
def half_a_request_then_end():
    s = served()
    s.sendall(request(READ, 0, 512) + request(READ, 0, 512)[:13])
    s.shutdown(socket.SHUT_WR)
    ends(s)


@case
def random_requests():
    dice = random.Random(7)
    for _ in range(100):
        s = served()
        s.settimeout(5)
        try:
            for _ in range(30):
                s.sendall(request(dice.randrange(9), dice.randrange(100_000) * 512, dice.randrange(64) * 512,
                                  dice.randrange(4), dice.randrange(1 << 63)))
            s.sendall(os.urandom(64))
        except (ConnectionError, TimeoutError):
            pass
        s.close()


@case
def random_options():
    dice = random.Random(8)
    for _ in range(300):
        s = greeted()
        try:
            s.sendall(option(dice.randrange(13), dice.randbytes(dice.randrange(64))) * 5 + dice.randbytes(16))
        except ConnectionError:
            pass
        s.close()


@case
def slow_options():
    crowd = []
    for _ in range(50):  # A long option that comes byte by byte, and one that is promised and never comes.
        s = greeted()
        s.sendall(option(7, length=8000) + b"x" * 100)
        crowd.append(s)
        s = greeted()
        s.sendall(option(99, length=1 << 20))
        crowd.append(s)
    for _ in range(20):
        for s in crowd:
            s.sendall(b"x")
    newcomer()
    for s in crowd:
        s.close()


@case
def connect_and_leave():
    before = os.path.getsize(sys.argv[3]) if len(sys.argv) > 3 else 0
    for _ in range(2000):
        connect().close()
    if len(sys.argv) > 3:
        assert os.path.getsize(sys.argv[3]) - before < 4096, "coming and going fills the log"


@case
def half_closed():
    crowd = []
    for make in (connect, greeted, served):
        for _ in range(10):
            s = make()
            s.shutdown(socket.SHUT_WR)
            crowd.append(s)
    time.sleep(0.2)
    for s in crowd:
        ends(s)


@case
def extended_headers():
    s = greeted()
    s.sendall(option(11) + option(10, struct.pack(">II", 0, 1) + struct.pack(">I", 15) + b"base:allocation"))
    assert option_reply(s)[0] == 1 and option_reply(s)[0] == 4 and option_reply(s)[0] == 1
    s.sendall(go())
    while option_reply(s)[0] != 1:
        pass

    def ask(command, offset, length, flags=0, payload=b""):
        s.sendall(struct.pack(">IHHQQQ", 0x21E41C71, flags, command, 5, offset, length) + payload)
        magic, _, kind, cookie, back, count = struct.unpack(">IHHQQQ", take(s, 32))
        assert (magic, cookie, back) == (0x6E8A278C, 5, offset)
        data = take(s, count)
        return struct.unpack(">I", data[:4])[0] if kind >= 1 << 15 else 0

    for command, offset, length, error in (
        (READ, 0, (1 << 64) - 1, 22), (READ, 0, 1 << 40, 22), (TRIM, 512, (1 << 64) - 512, 22),
        (ZEROES, 0, 1 << 63, 28), (STATUS, 0, 1 << 62, 22), (STATUS, 0, 0, 22), (STATUS, 0, 1 << 20, 0)):
        assert ask(command, offset, length) == error, (command, offset, length)
    for payload in (b"", b"\xff" * 12, b"\0" * 8, b"\xff" * 4096):
        assert ask(STATUS, 0, len(payload), 1 << 5, payload) == 22
    s.sendall(struct.pack(">IHHQQQ", 0x21E41C71, 1 << 5, WRITE, 5, 0, 1 << 60))
    ends(s)


@case
def status_flood():
    for _ in range(4):
        s = greeted()
        s.sendall(option(8) + option(10, struct.pack(">II", 0, 1) + struct.pack(">I", 15) + b"base:allocation") + go())
        s.sendall(b"".join(request(STATUS, 0, 64 << 20, cookie=n) for n in range(2000)))
        reset(s)


# A full volume, so that what clients write is no growth.
filler = served()
for start in range(0, 64 << 20, 1 << 20):
    filler.sendall(request(WRITE, start, 1 << 20) + b"f" * (1 << 20))
    assert reply(filler) == 0
filler.close()
# Not before: its sectors are filled, too.
victim = Victim(served, request, reply, take, first=(60 << 20) // 512, sectors=2000)
victim.judge()
start_rss, failed = rss(), 0
for case in CASES:
    try:
        case()
        newcomer()
        rounds, worst = victim.judge()
        grown = rss() - start_rss
        assert worst < WAIT_MAX, f"the victim waited {worst:.2f} s"
        assert grown < RSS_GROWTH_MAX, f"memory grew by {grown >> 20} MiB"
        print(f"ok {case.__name__}: longest wait {worst * 1000:.0f} ms, memory +{grown >> 20} MiB", flush=True)
    except (AssertionError, EOFError, OSError) as error:
        print(f"not ok {case.__name__}: {type(error).__name__} {error}", flush=True)
        failed = 1
victim.end()
sys.exit(failed)
