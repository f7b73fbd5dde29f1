#!/usr/bin/env python3
"""Rude clients against a running NBD server: nbd-abuse.py SOCKET SERVER-PID

Each case is followed by a victim that does real I/O on a connection of its own, and a look at the server's
memory. Malformed input that has killed servers before; bounds that keep one client from starving another.
"""
import os, random, socket, struct, sys, time

PATH, PID = sys.argv[1], int(sys.argv[2])
OPTION = b"IHAVEOPT"
RSS_MAX = 512 << 20
READ, WRITE, DISC, FLUSH, TRIM, ZEROES, STATUS = 0, 1, 2, 3, 4, 6, 7


def connect():
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(20)
    s.connect(PATH)
    return s


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


def victim():
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
    victim()
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
        (TRIM, (1 << 64) - 512, 512, 22), (ZEROES, 1 << 62, 512, 28), (READ, 1, 1, 22),
        (READ, 0, 0, 0), (TRIM, 0, 0, 0), (ZEROES, 0, 0, 0), (FLUSH, 0, 512, 22), (STATUS, 0, 512, 22),
        (99, 0, 512, 22), (5, 0, 512, 22)):
        s.sendall(request(command, offset, length))
        assert reply(s) == error, (command, offset, length)
    for offset, length, error in (((1 << 64) - 512, 1024, 28), (1 << 62, 512, 28), (1, 512, 22), (0, 0, 0)):
        s.sendall(request(WRITE, offset, length) + b"w" * length)
        assert reply(s) == error, (offset, length)
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
    assert rss() < RSS_MAX, rss()
    victim()
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
                s.sendall(request(dice.randrange(9), dice.randrange(1 << 20) * 512, dice.randrange(64) * 512,
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


for case in CASES:
    case()
    victim()
    assert rss() < RSS_MAX, f"{case.__name__}: {rss() >> 20} MiB"
    print("ok", case.__name__, f"{rss() >> 20} MiB")
