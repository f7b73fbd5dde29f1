"""An iSCSI initiator as small as can be, for tests that look at single answers."""
import socket


class Initiator:
    """One session without CHAP; commands one at a time."""

    def __init__(self, target, address, word="admin"):
        self.name = "iqn.2026-11.example.com:" + word
        self.socket = socket.create_connection(address, timeout=30)
        text = f"InitiatorName={self.name}\0TargetName={target}\0SessionType=Normal\0AuthMethod=None\0".encode()
        self.send(0x43, 0x81, {8: b"\x80\0\0\1\0\0"}, text)
        header, _ = self.receive()
        if header[0] != 0x23 or header[36]:
            raise EOFError(f"the login is refused: {header.hex()}")
        self.send(0x43, 0x87, {8: b"\x80\0\0\1\0\0"}, b"InitialR2T=No\0ImmediateData=Yes\0")
        header, _ = self.receive()
        if header[0] != 0x23 or header[36]:
            raise EOFError(f"the login is refused: {header.hex()}")
        self.number = 0
        self.run(b"\0")  # Takes the attention of its power-on.

    def send(self, opcode, flags, fields, data=b""):
        header = bytearray(48)
        header[0], header[1] = opcode, flags
        header[5:8] = len(data).to_bytes(3, "big")
        for at, value in fields.items():
            header[at : at + len(value)] = value
        self.socket.sendall(bytes(header) + data + bytes(-len(data) % 4))

    def receive(self):
        header = self.exactly(48)
        length = int.from_bytes(header[5:8], "big")
        return header, self.exactly(length + -length % 4)[:length]

    def exactly(self, count):
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise ConnectionError("closed")
            data += more
        return data

    def run(self, cdb, out=b"", length=0, lun=0):
        flags = 0x81 | (0x20 if out else 0) | (0x40 if length else 0)
        number, self.number = self.number, self.number + 1
        word = number.to_bytes(4, "big")
        self.send(0x01, flags, {8: bytes((0, lun)), 16: word, 20: (len(out) or length).to_bytes(4, "big"), 24: word,
                                32: cdb.ljust(16, b"\0")}, out)
        data = b""
        while True:
            header, more = self.receive()
            if header[0] == 0x25:
                data += more
                if header[1] & 1:
                    return header[3], data
            elif header[0] == 0x21:
                return header[3], more or data

    def port_groups(self):
        cdb = b"\xa3\x0a\0\0\0\0\0\0\2\0"
        status, data = self.run(cdb, length=512)
        while status == 2:
            status, data = self.run(cdb, length=512)
        groups, at = [], 4
        while at + 8 <= 4 + int.from_bytes(data[:4], "big"):
            groups.append(int.from_bytes(data[at + 2 : at + 4], "big"))
            at += 8 + 4 * data[at + 7]
        return groups

    def gone(self):
        """The target has ended the session."""
        self.socket.settimeout(20)
        try:
            while self.socket.recv(4096):
                pass
        except ConnectionError:
            pass
