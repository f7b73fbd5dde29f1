"""Power cuts of the whole cluster, thought through afterwards.

Three chunkservers write through a recording file system while a load writes and keeps a ledger. Then, for each of many
moments, the three stores are made as the cut could have left them: what a completed flush covers is there; of
anything later, each 512-byte sector is or is not. A cluster is started on them, and the whole volume is read: every
write that was acknowledged before the moment must be there, and one that was under way may be, sector by sector.
"""
import bisect, collections, concurrent.futures, contextlib, os, queue, random, shutil, signal, struct, subprocess
import tempfile, time
import nbd
import recorder
from cluster import CURVE, MIB, NBD, Cluster, Daemon, connect
from scene import HOLDER_KEY, Failed, Skipped

SECTOR = 512
STORE_MIB, VOLUME_MIB = 64, 24
LOAD_SECONDS, DEPTH = 8, 24
LANES = 3
READ_SECONDS_MAX = 20
FAILURES_MAX = 3


class Request:
    """A write (or a trim, which writes zeroes) of the load, in sectors."""
    __slots__ = ("first", "count", "number", "submitted", "acknowledged")

    def __init__(self, first, count, number):
        self.first, self.count, self.number, self.acknowledged = first, count, number, None
        self.submitted = time.monotonic_ns()

    def sector(self, sector):
        return struct.pack("<QQ", sector, self.number) * (SECTOR // 16) if self.number else bytes(SECTOR)

    def content(self):
        return b"".join(self.sector(sector) for sector in range(self.first, self.first + self.count))


class Load:
    """Writes that never overlap while under way, and when each was sent and answered."""

    def __init__(self, uri, seed):
        self.handle, self.random, self.requests = connect(uri), random.Random(seed), []
        self.busy, self.in_flight, self.failure = bytearray(VOLUME_MIB * MIB // SECTOR), 0, None

    def submit(self):
        # Blocks, edges of blocks, and runs over many blocks; half of all in one place, to be written often.
        aligned = self.random.random() < 0.7
        count = self.random.choice((8, 8, 8, 16, 128)) if aligned else self.random.randrange(1, 20)
        span = len(self.busy) // 2 if self.random.random() < 0.5 else len(self.busy)
        first = self.random.randrange(span - count)
        first -= first % 8 if aligned else 0
        if any(self.busy[first:first + count]):
            return
        is_trim = self.random.random() < 0.05
        request = Request(first, count, 0 if is_trim else len(self.requests) + 1)
        self.requests.append(request)
        self.busy[first:first + count] = b"\1" * count
        self.in_flight += 1

        def done(error):
            request.acknowledged = time.monotonic_ns()
            self.busy[first:first + count] = bytes(count)
            self.in_flight -= 1
            code = getattr(error, "value", error)  # Bindings differ: a number, or a cell that holds it.
            if code:
                self.failure = f"request {request.number} failed with errno {code}"
            return 1

        if is_trim:
            self.handle.aio_zero(count * SECTOR, first * SECTOR, done)
        else:
            buffer = nbd.Buffer.from_bytearray(bytearray(request.content()))
            self.handle.aio_pwrite(buffer, first * SECTOR, done)

    def run(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.failure:
            for _ in range(DEPTH):
                if self.in_flight < DEPTH:
                    self.submit()
            self.handle.poll(20)
        if self.failure:
            raise Failed(self.failure)

    def state_at(self, moment, volume):
        """Brings `volume`, a bytearray, to what was acknowledged until then.
        - Returns: the requests under way at that moment."""
        for request in self.acknowledged_since_last(moment):
            volume[request.first * SECTOR:(request.first + request.count) * SECTOR] = request.content()
        return [request for request in self.requests if request.submitted <= moment < (request.acknowledged or 1 << 62)]

    def acknowledged_since_last(self, moment):
        if not hasattr(self, "answers"):
            self.answers = collections.deque(
                sorted((r for r in self.requests if r.acknowledged), key=lambda r: r.acknowledged))
        while self.answers and self.answers[0].acknowledged <= moment:
            yield self.answers.popleft()


class Media:
    """One store as its device holds it: what is certain, and what a cut may or may not leave."""

    def __init__(self, path):
        self.path, self.file = path, os.open(path, os.O_RDWR)
        self.pending, self.flushes = {}, {}

    def take(self, kind, number, offset, length, data):
        if kind == recorder.FLUSH:
            self.flushes[number] = [key for key, write in self.pending.items() if write[2]]
        elif kind in (recorder.WRITE, recorder.DISCARD):
            self.pending[number] = [offset, data or bytes(length), False]
        elif number in self.flushes:
            for key in self.flushes.pop(number):
                if write := self.pending.pop(key, None):
                    os.pwrite(self.file, write[1], write[0])
        elif number in self.pending:
            self.pending[number][2] = True

    def left_by_cut(self, path, chance, rng):
        """Makes a store with any of the sectors that are pending; `chance` says how likely each is."""
        copy_sparse(self.file, path)
        file = os.open(path, os.O_RDWR)
        for offset, data, _ in self.pending.values():
            whole = rng.random()
            if whole < 0.6:  # Mostly all or nothing.
                if rng.random() < chance:
                    os.pwrite(file, data, offset)
                continue
            for place in range(0, len(data), SECTOR):
                if rng.random() < chance:
                    os.pwrite(file, data[place:place + SECTOR], offset + place)
        os.close(file)


def copy_sparse(source, path):
    size = os.fstat(source).st_size
    target = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    os.ftruncate(target, size)
    position = 0
    while position < size:
        try:
            position = os.lseek(source, position, os.SEEK_DATA)
        except OSError:
            break
        end = os.lseek(source, position, os.SEEK_HOLE)
        os.lseek(target, position, os.SEEK_SET)
        while position < end:
            position += os.sendfile(target, source, position, end - position)
    os.close(target)


@contextlib.contextmanager
def memory_folder():
    """A file system in memory: stores that are made and thrown away by the hundred."""
    folder = tempfile.mkdtemp(prefix="curve-drill-")
    done = subprocess.run(["mount", "-t", "tmpfs", "curve-drill", folder], capture_output=True, text=True)
    if done.returncode != 0:
        os.rmdir(folder)
        raise Skipped("no file system in memory: " + done.stderr.strip())
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=False)
        os.rmdir(folder)


class Recording:
    """What a session leaves: the record, the stores and the MDS's database of its beginning, and the load's ledger."""

    def __init__(self, folder, seed):
        self.folder, self.record, self.mounted = folder, folder + "/record", folder + "/mounted"
        os.mkdir(self.mounted)
        self.process = None
        try:
            self.cluster = Cluster(store_mib=STORE_MIB, copysets=3, store_folders=[folder] * 3, present=self.present)
            try:
                self.session(seed)
            finally:
                self.cluster.close()
        finally:
            subprocess.run(["umount", "-l", self.mounted], check=False, capture_output=True)
            if self.process:
                self.process.wait()

    def present(self, stores):
        self.media = []
        for store in stores:
            file = os.open(store, os.O_RDONLY)
            copy_sparse(file, store + "-media")
            os.close(file)
            self.media.append(Media(store + "-media"))
        self.process = subprocess.Popen(
            ["/usr/bin/python3", recorder.__file__, self.mounted, self.record, *stores], stdout=subprocess.PIPE)
        if not self.process.stdout.readline().startswith(b"ready"):
            raise Skipped("the recording file system cannot be mounted")
        return [self.mounted + "/" + os.path.basename(store) for store in stores]

    def session(self, seed):
        cluster = self.cluster
        cluster.curve("volume", "create", "v", "--size", f"{VOLUME_MIB}M")
        gateway, uri = cluster.serve_volume("v", "--holder-key", HOLDER_KEY)
        gateway.ready()
        cluster.mds.process.send_signal(signal.SIGSTOP)  # Files of one moment.
        shutil.copytree(cluster.folder + "/mds", self.folder + "/mds")
        cluster.mds.process.send_signal(signal.SIGCONT)
        self.load = Load(uri, seed)
        self.load.run(LOAD_SECONDS / 2)
        # Cuts may also fall into the recovery from an earlier death.
        for server in cluster.chunkservers:
            server.process.kill()
        for server in cluster.chunkservers:
            server.process.wait()
            server.start()
        self.load.run(LOAD_SECONDS / 2)
        for daemon in cluster.daemons:  # All at once: a gateway that may say good-bye waits for its last requests.
            daemon.kill()

    def moments(self, count, rng):
        """Half right after an answer, the others anywhere in the record."""
        answers = [request.acknowledged for request in self.load.requests if request.acknowledged]
        times = [entry[3] for entry in recorder.entries(self.record)]
        times = times[bisect.bisect(times, answers[0]):bisect.bisect(times, answers[-1])]
        return sorted(rng.sample(answers, count // 2) + rng.sample(times, count - count // 2))


class Lane:
    """A folder in which one cluster after the other is started on what a cut has left."""

    def __init__(self, folder):
        self.folder = folder
        self.stores = [f"{folder}/store-{number}" for number in (1, 2, 3)]
        os.mkdir(folder)

    def check(self, expected, under_way):
        """- Returns: why the volume is not what it must be, or None."""
        daemons = []

        def start(name, *command):
            daemons.append(Daemon(f"{self.folder}/{name}.log", *command))
            return daemons[-1]
        try:
            mds = start("mds", CURVE, "mds", "--data", self.folder + "/mds", "--listen", "127.0.0.1:0").ready()[0]
            for number, store in enumerate(self.stores, 1):
                start(f"store-{number}", CURVE, "chunkserver", "serve", "--store", store, "--mds", mds)
            socket = self.folder + "/nbd.sock"
            start("nbd", NBD, "serve", "v", "--mds", mds, "--listen", "unix:" + socket, "--holder-key", HOLDER_KEY,
                  "--error-after", str(READ_SECONDS_MAX)).ready()
            for daemon in daemons[1:4]:
                daemon.ready()
            return differs(connect(f"nbd+unix:///v?socket={socket}"), expected, under_way)
        except (AssertionError, nbd.Error) as error:
            return f"{type(error).__name__}: {str(error)[:300]}"
        finally:
            for daemon in reversed(daemons):
                daemon.kill()
                daemon.log.close()
                daemon.process.stdout.close()


def differs(handle, expected, under_way):
    for start in range(0, len(expected), MIB):
        found = handle.pread(MIB, start)
        if found == expected[start:start + MIB]:
            continue
        for place in range(0, MIB, SECTOR):
            piece, sector = found[place:place + SECTOR], (start + place) // SECTOR
            if piece == expected[start + place:start + place + SECTOR]:
                continue
            if not any(request.first <= sector < request.first + request.count and piece == request.sector(sector)
                       for request in under_way):
                wanted = struct.unpack_from("<QQ", expected, start + place)
                return f"sector {sector} holds {struct.unpack_from('<QQ', piece)}, not {wanted}"
    return None


class Trial:
    def __init__(self, folder, recording, rng):
        self.recording, self.rng, self.failures, self.done, self.pending = recording, rng, [], 0, 0
        self.free, self.late = queue.Queue(), Lane(folder + "/late")
        for number in range(LANES):
            self.free.put(Lane(f"{folder}/lane-{number}"))

    def run(self, moments):
        """Cuts at each of the moments, in their order."""
        expected = bytearray(VOLUME_MIB * MIB)
        entries = recorder.entries(self.recording.record)
        entry = next(entries, None)
        with concurrent.futures.ThreadPoolExecutor(LANES) as pool:
            for index, moment in enumerate(moments):
                while entry and entry[3] <= moment:
                    kind, file, number, _, offset, length, data = entry
                    self.recording.media[file].take(kind, number, offset, length, data)
                    entry = next(entries, None)
                under_way = self.recording.load.state_at(moment, expected)
                if len(self.failures) >= FAILURES_MAX:
                    return
                if index == 0:
                    self.prepare(self.late, 1.0)
                self.cut(pool, f"cut {index}", bytes(expected), under_way)
        # Proof that the judge sees: the stores of the first moment lack what was acknowledged until the last.
        if self.late.check(bytes(expected), under_way) is None:
            self.failures.append("stores that lost acknowledged writes were taken for good")

    def prepare(self, lane, chance):
        shutil.rmtree(lane.folder + "/mds", ignore_errors=True)
        shutil.copytree(self.recording.folder + "/mds", lane.folder + "/mds")
        for media, store in zip(self.recording.media, lane.stores):
            media.left_by_cut(store, chance, self.rng)
            self.pending += len(media.pending)

    def cut(self, pool, name, expected, under_way):
        lane = self.free.get()
        self.prepare(lane, self.rng.choice((0.0, 0.5, 0.5, 1.0)))

        def work():
            try:
                why = lane.check(expected, under_way)
            except Exception as error:  # The drill's own fault; the lane is given back all the same.
                why = repr(error)
            if why:
                kept = tempfile.mkdtemp(prefix="curve-power-cut-") if not self.failures else None
                if kept:
                    shutil.copytree(lane.folder, kept, dirs_exist_ok=True,
                                    ignore=lambda folder, names: [n for n in names if n.endswith(".sock")])
                self.failures.append(f"{name}: {why}" + (f"; kept in {kept}" if kept else ""))
            self.done += 1
            self.free.put(lane)
        pool.submit(work)


def power_cut(seed, cuts=200):
    """the power of all three stores is cut at 200 moments of a recorded session; every acknowledged write must be there"""
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        raise Skipped("the recording file system needs root and /dev/fuse")
    rng = random.Random(seed)
    with memory_folder() as folder:
        recording = Recording(folder, seed)
        trial = Trial(folder, recording, rng)
        moments = recording.moments(cuts, rng)
        trial.run(moments)
        if trial.done != cuts and not trial.failures:
            raise Failed(f"only {trial.done} of {cuts} cuts were judged")
        note = (f"{trial.done} cuts in {len(recording.load.requests)} writes, "
                f"{trial.pending // (3 * trial.done + 3)} unflushed writes a store")
        return {"ok": not trial.failures, "lostBytes": SECTOR * len(trial.failures),
                "note": "; ".join([note, *trial.failures])}


def power_cut_short(seed):
    """as power-cut, at 20 moments"""
    return power_cut(seed, cuts=20)
