"""A well-behaved client that reads and writes with verify, in a process of its own, while others are rude."""
import mmap, os, struct, time

# What victim and judge share: requests done, longest wait since it was last looked at, errors.
LAYOUT = struct.Struct("QdQ")


class Victim:
    """`connect` gives a socket that is past its handshake; `request` makes a request's bytes."""

    def __init__(self, connect, request, reply, take, first, sectors):
        self.shared = mmap.mmap(-1, LAYOUT.size)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._run(connect(), request, reply, take, first, sectors)
            except BaseException as error:  # Whatever it is, the judge must hear of it.
                print(f"victim: {type(error).__name__}: {error}", flush=True)
                done, worst, errors = self._look()
                self.shared[:] = LAYOUT.pack(done, worst, errors + 1)
            os._exit(0)

    def _run(self, s, request, reply, take, first, sectors):
        parent, turn = os.getppid(), 0
        while os.getppid() == parent:
            turn += 1
            place = (first + turn * 7 % sectors) * 512
            data = struct.pack("QQ", turn, place) * 32
            start = time.monotonic()
            s.sendall(request(1, place, 512) + data)
            assert reply(s) == 0, "a write failed"
            s.sendall(request(0, place, 512))
            assert reply(s) == 0 and take(s, 512) == data, "other bytes than were written"
            took = time.monotonic() - start
            done, worst, errors = self._look()
            self.shared[:] = LAYOUT.pack(done + 1, max(worst, took), errors)
            time.sleep(0.001)

    def _look(self):
        return LAYOUT.unpack(self.shared[:])

    def judge(self):
        """Waits for one more round, then tells (rounds, longest wait in seconds) since the last call."""
        done = self._look()[0]
        deadline = time.monotonic() + 10
        while self._look()[0] < done + 2 and not self._look()[2] and time.monotonic() < deadline:
            time.sleep(0.005)
        rounds, worst, errors = self._look()
        assert errors == 0, "the victim met an error"
        assert rounds >= done + 2, "the victim was not served for 10 s"
        self.shared[:] = LAYOUT.pack(rounds, 0.0, 0)
        return rounds, worst

    def end(self):
        os.kill(self.pid, 15)
        os.waitpid(self.pid, 0)
