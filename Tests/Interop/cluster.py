"""A cluster of real processes in a temporary folder, for checks and drills. Needs the release build."""
import json, os, shutil, subprocess, tempfile, threading, time
import nbd

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# Another build is chosen to show that checks find its planted bugs.
BUILD = os.environ.get("CURVE_BUILD", ROOT + "/.build/release")
CURVE, NBD = BUILD + "/curve", BUILD + "/curve-nbd"
MIB = 1 << 20
READY_SECONDS_MAX = 30


class Daemon:
    """A process that says `ready ADDRESS...` once it serves."""

    def __init__(self, log, *command):
        self.command = command
        self.log = open(log, "ab")
        self.start()

    def start(self):
        """Starts it, or starts it again after its death."""
        self.process = subprocess.Popen([*self.command, "--exit-with-parent"], stdout=subprocess.PIPE,
                                        stderr=self.log, stdin=subprocess.DEVNULL)

    def ready(self):
        found = []

        def read():
            for line in self.process.stdout:
                if line.startswith(b"ready "):
                    found.extend(line.decode().split()[1:])
                    return
        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        reader.join(READY_SECONDS_MAX)
        assert found, f"{self.command[:3]} was not ready: {open(self.log.name).read()[-2000:]}"
        return found

    def kill(self):
        self.process.kill()
        self.process.wait()

    def alive(self):
        return self.process.poll() is None


class Cluster:
    """One MDS or more, of which one leads, and some chunkservers on loopback, or on the wires of a `Wires`.

    `store_folders` may place the stores apart, `store_mib` may be a list of their sizes.

    `present` may show the formatted stores under other paths, which are then served."""

    def __init__(self, store_mib=1024, servers=3, copysets=6, wires=None, store_folders=None, present=None,
                 mds_count=1):
        self.folder, self.wires, self.daemons = tempfile.mkdtemp(prefix="curve-test-"), wires, []
        listen = wires.hub_address + ":6700" if wires else "127.0.0.1:0"
        self.metadata_servers, addresses = [], []
        for number in range(1, mds_count + 1):
            name = "mds" if number == 1 else f"mds-{number}"
            daemon = self.start(name, CURVE, "mds", "--data", self.folder + "/mds", "--listen", listen)
            addresses += daemon.ready()
            daemon.command = [*daemon.command[:-1], addresses[-1]]  # Started again, it must be found where it was.
            self.metadata_servers.append(daemon)
        self.mds, self.address = self.metadata_servers[0], ",".join(addresses)
        folders = store_folders or [self.folder] * servers
        self.stores = [f"{folder}/store-{number}" for number, folder in enumerate(folders, 1)]
        sizes = store_mib if isinstance(store_mib, list) else [store_mib] * servers
        for store, mib in zip(self.stores, sizes):
            self.curve("chunkserver", "format", "--store", store, "--size", f"{mib}M", "--lazy")
        if present:
            self.stores = present(self.stores)
        self.chunkservers = [self.serve_store(store) for store in self.stores]
        self.ports = [server.ready()[0] for server in self.chunkservers]
        if copysets:
            self.curve("pool", "create", "default", "--copysets", str(copysets), "--failure-domain", "device")

    def start(self, name, *command, server=None):
        inside = self.wires.inside(server) if self.wires else []
        daemon = Daemon(f"{self.folder}/{name}.log", *inside, *command)
        self.daemons.append(daemon)
        return daemon

    def serve_store(self, store, *options):
        command = [CURVE, "chunkserver", "serve", "--store", store, "--mds", self.address]
        server = self.stores.index(store) if self.wires else None
        listen = ["--listen", self.wires.address(server) + ":0"] if self.wires else []
        return self.start(os.path.basename(store), *command, *listen, *options, server=server)

    def serve_volume(self, name, *options, socket_name="nbd"):
        path = f"{self.folder}/{socket_name}.sock"
        daemon = self.start(socket_name, NBD, "serve", name, "--mds", self.address, "--listen", "unix:" + path, *options)
        return daemon, f"nbd+unix:///{name}?socket={path}"

    def curve(self, *words, status=0, says=""):
        inside = self.wires.inside(None) if self.wires else []
        return run([*inside, CURVE, *words, "--mds", self.address], status, says)

    def status(self):
        return json.loads(self.curve("status", "--format", "json"))

    def close(self):
        # One after the other: a gateway gives its volume back, which takes an MDS that is there.
        for daemon in reversed(self.daemons):
            if daemon.alive():
                daemon.process.terminate()
            try:
                daemon.process.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def run(command, status=0, says=""):
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    text = done.stdout + done.stderr
    assert done.returncode == status, f"status {done.returncode}, not {status}: {command}\n{text}"
    assert says in text, f"'{says}' not said by {command}:\n{text}"
    return done.stdout


def connect(uri):
    handle = nbd.NBD()
    handle.connect_uri(uri)
    return handle


def write_fails(handle, offset, count=65536):
    try:
        handle.pwrite(os.urandom(count), offset)
        return None
    except nbd.Error as error:
        return error.errno


def eventually(seconds, check, why):
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, why
        time.sleep(0.1)
