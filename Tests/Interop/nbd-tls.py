"""What no polite client does at a gateway that demands TLS: nbd-tls.py abuse|versions|stays PORT FOLDER [PID]"""
import os, signal, socket, ssl, struct, sys, time

what, port, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
MAGIC, OPTION = 0x3E889045565A9, b"IHAVEOPT"


def option(number, data=b""):
    return OPTION + struct.pack(">II", number, len(data)) + data


def exactly(s, count):
    data = b""
    while len(data) < count:
        some = s.recv(count - len(data))
        assert some, "the server ended"
        data += some
    return data


def answer(s):
    magic, _, kind, length = struct.unpack(">QIII", exactly(s, 20))
    assert magic == MAGIC, hex(magic)
    return kind, exactly(s, length)


def greeted():
    s = socket.create_connection(("127.0.0.1", port), timeout=20)
    assert exactly(s, 18)[:8] == b"NBDMAGIC"
    s.sendall(struct.pack(">I", 3))
    return s


def context(name="alice", least=None, most=None):
    c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    c.load_verify_locations(folder + "/alice/ca-cert.pem")
    c.load_cert_chain(f"{folder}/{name}/client-cert.pem", f"{folder}/{name}/client-key.pem")
    if least:
        c.minimum_version = least
    if most:
        c.maximum_version = most
    return c


def secured(**named):
    s = greeted()
    s.sendall(option(5))
    assert answer(s)[0] == 1
    return context(**named).wrap_socket(s, server_hostname="localhost")


def go(s):
    s.sendall(option(7, struct.pack(">I", 3) + b"one" + b"\0\0"))
    kind = 3
    while kind == 3:
        kind, _ = answer(s)
    return kind


def read(s, cookie=1):
    s.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, cookie, 0, 4096))
    magic, error, back = struct.unpack(">IIQ", exactly(s, 16))
    assert (magic, error, back) == (0x67446698, 0, cookie)
    exactly(s, 4096)


def is_served():
    s = secured()
    assert go(s) == 1
    read(s)
    s.close()


def ends(s):
    try:
        while s.recv(65536):
            pass
    except (ConnectionError, ssl.SSLError):
        pass


def abuse():
    for behind in (option(3), option(7, struct.pack(">I", 3) + b"one\0\0"), b"\x16\x03", os.urandom(300)):
        s = greeted()
        s.sendall(option(5) + behind)
        ends(s)
        is_served()
    for noise in (b"GET / HTTP/1.0\r\n\r\n", os.urandom(5000), b"\x16\x03\x01\xff\xff" + b"\0" * 70000):
        s = greeted()
        s.sendall(option(5))
        assert answer(s)[0] == 1
        try:
            s.sendall(noise)
        except ConnectionError:
            pass
        ends(s)
        is_served()
    crowd = []
    for _ in range(20):  # In the middle of the handshake, silent.
        s = greeted()
        s.sendall(option(5))
        answer(s)
        s.sendall(b"\x16\x03\x01")
        crowd.append(s)
    for _ in range(20):  # Half-closed, in TLS and below it.
        s = secured()
        assert go(s) == 1
        if len(crowd) % 2:
            socket.socket.shutdown(s, socket.SHUT_WR)
        else:
            s.setblocking(False)
            try:
                s.unwrap()
            except (ssl.SSLError, OSError):
                pass
        crowd.append(s)
    start = time.monotonic()
    is_served()
    assert time.monotonic() - start < 1, "others had to wait"
    busy = cpu()
    time.sleep(1)
    assert cpu() - busy < 0.5, "the gateway spins"
    for s in crowd:
        s.close()
    deaf = secured()  # Asks for 4 GB and collects nothing.
    assert go(deaf) == 1
    before = memory()
    deaf.settimeout(1)
    try:
        for n in range(1000):
            deaf.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, n, 0, 4 << 20))
    except (TimeoutError, ssl.SSLError):
        pass
    time.sleep(1)
    is_served()
    assert memory() - before < 160 << 20, f"memory grew by {(memory() - before) >> 20} MiB"
    deaf.close()
    for number in (3, 6, 7, 8, 9, 10, 11, 99):  # Everything is refused in the clear.
        s = greeted()
        s.sendall(option(number, b"\0\0\0\3one\0\0" if number in (6, 7) else b""))
        assert answer(s)[0] == (1 << 31) + 5, number


def memory():
    with open(f"/proc/{os.environ['gateway']}/statm") as f:
        return int(f.read().split()[1]) * 4096


def cpu():
    """CPU seconds of the gateway."""
    pid = int(os.environ["gateway"])
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def versions():
    for version, name in ((ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")):
        s = secured(least=version, most=version)
        assert s.version() == name and go(s) == 1
        read(s)
    try:
        c = context(least=ssl.TLSVersion.TLSv1, most=ssl.TLSVersion.TLSv1_1)
        c.set_ciphers("ALL:@SECLEVEL=0")
        s = greeted()
        s.sendall(option(5))
        answer(s)
        c.wrap_socket(s, server_hostname="localhost")
    except (ssl.SSLError, ConnectionError):
        return
    raise AssertionError("TLS 1.1 was accepted")


def stays():
    s = secured()
    assert go(s) == 1
    before = s.getpeercert(True)
    os.system(
        f"cd {folder} && openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=newer"
        " -keyout server/server-key.pem -out request 2>/dev/null && openssl x509 -req -in request -CA ca.pem"
        " -CAkey ca.key -CAcreateserial -days 30 -extfile ext -out server/server-cert.pem 2>/dev/null")
    pid = int(sys.argv[4])
    os.kill(pid, signal.SIGHUP)
    for _ in range(50):
        read(s)
        other = secured()
        if other.getpeercert(True) != before:
            break
        time.sleep(0.1)
    else:
        raise AssertionError("still the old certificate")
    with open(folder + "/server/server-key.pem", "w") as f:
        f.write("nonsense")
    os.kill(pid, signal.SIGHUP)
    time.sleep(0.5)
    read(s)
    assert go(secured()) == 1


with open(folder + "/ext", "w") as f:
    f.write("subjectAltName=DNS:localhost,IP:127.0.0.1")
{"abuse": abuse, "versions": versions, "stays": stays}[what]()
