"""One drill: a cluster of real processes, a verifying load beside it, and what was measured."""
import json, os, signal, subprocess, time
from cluster import MIB, Cluster, connect, eventually
from wires import Wires

WARM_SECONDS = 2.0
REJOIN_SECONDS_MAX = 90
HOLDER_KEY = "drill"
GROWTH_OFFSET_MIB, GROWTH_MIB = 128, 256


class Skipped(Exception):
    """This machine cannot run the drill; the text says why."""


class Failed(Exception):
    """The drill found something that must not be."""


class Load:
    def __init__(self, uri, seed):
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "load.py")
        self.process = subprocess.Popen(["/usr/bin/python3", script, uri, str(seed)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)

    def say(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise Failed("the load ended by itself")
        return json.loads(line)

    def close(self):
        self.process.kill()
        self.process.wait()


class Probe:
    """A program that does nothing but write a little: what it waits for is the machine's, not ours."""

    def __init__(self, path):
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "probe.py")
        self.process = subprocess.Popen(["/usr/bin/python3", script, path], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)

    def longest_milliseconds(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline() or 0)

    def close(self):
        self.process.kill()
        self.process.wait()


class Scene:
    """`with Scene(...) as scene:` gives a cluster whose volume `v` is served and under load."""

    def __init__(self, seed, wires=False, store_folders=None, copysets=1, store_mib=2048, mds_count=1):
        self.seed, self.needs_wires, self.notes = seed, wires, []
        self.options = {"store_folders": store_folders, "copysets": copysets, "store_mib": store_mib,
                        "mds_count": mds_count}
        self.wires = self.cluster = self.load = self.probe = None
        self.before = None

    def __enter__(self):
        try:
            if self.needs_wires:
                self.wires = Wires()
            self.cluster = Cluster(wires=self.wires, **self.options)
            self.cluster.curve("volume", "create", "v", "--size", "1G")
            self.gateway, _ = self.cluster.serve_volume("v", "--holder-key", HOLDER_KEY)
            self.gateway.ready()
            self.point_clients_at("nbd")
            self.uri = f"nbd+unix:///v?socket={self.cluster.folder}/current.sock"
            eventually(REJOIN_SECONDS_MAX, self.is_whole, "the cluster was never whole")
            self.load = Load(self.uri, self.seed)
            self.probe = Probe(self.cluster.folder + "/probe")
            time.sleep(WARM_SECONDS)
            self.probe.longest_milliseconds()
            self.before, self.began = self.load.say("mark"), time.monotonic()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for part in (self.load, self.probe, self.cluster, self.wires):
            if part:
                part.close()

    def point_clients_at(self, socket_name):
        """Where clients find the volume when they connect anew."""
        link = self.cluster.folder + "/current.sock"
        os.symlink(f"{self.cluster.folder}/{socket_name}.sock", link + ".new")
        os.replace(link + ".new", link)

    def is_whole(self):
        return all(copyset.get("leader") and copyset["membersInStep"] == len(copyset["members"])
                   for copyset in self.cluster.status()["copysets"])

    def leader(self):
        """Index of the chunkserver that leads most copysets."""
        leaders = [copyset["leader"] for copyset in self.cluster.status()["copysets"] if copyset.get("leader")]
        return max(set(leaders), key=leaders.count) - 1

    def follower(self):
        return (self.leader() + 1) % len(self.cluster.chunkservers)

    def chunkserver(self, index):
        return self.cluster.chunkservers[index]

    def everyone(self):
        return [self.cluster.mds, *self.cluster.chunkservers, self.gateway]

    def stop(self, daemons):
        for daemon in daemons:
            daemon.process.send_signal(signal.SIGSTOP)

    def go_on(self, daemons):
        for daemon in daemons:
            daemon.process.send_signal(signal.SIGCONT)

    def kill(self, daemons):
        for daemon in daemons:
            daemon.process.kill()
        for daemon in daemons:
            daemon.process.wait()

    def start(self, daemons):
        for daemon in daemons:
            daemon.start()
        for daemon in daemons:
            daemon.ready()

    def grow(self, seconds):
        """Writes where nothing was, beyond the load's blocks, in turns of 1 MiB. Returns how many MiB."""
        handle, written, end = connect(self.uri), 0, time.monotonic() + seconds
        while time.monotonic() < end:
            handle.pwrite(b"g" * MIB, (GROWTH_OFFSET_MIB + written % GROWTH_MIB) * MIB)
            written += 1
            time.sleep(seconds / GROWTH_MIB)
        handle.shutdown()
        return written

    def note(self, text):
        self.notes.append(text)

    def finish(self):
        """Waits until everybody is back, stops the load, and judges.
        - Returns: what `tools/drill --json` prints, but for the name."""
        eventually(REJOIN_SECONDS_MAX, self.is_whole, "not every replica is back in step")
        time.sleep(1)
        paused = self.probe.longest_milliseconds()
        result = self.load.say("stop")
        if result["acknowledged"] <= self.before["acknowledged"]:
            raise Failed("the load got nothing done")
        if result["lost"]:
            self.note("LOST: " + result["lost"])
        if result["ioErrors"]:
            self.note(f"errors {result['errors']}")
        return {"ok": not result["lost"] and not result["ioErrors"],
                "stallMilliseconds": round(1000 * result["gapSeconds"]), "ioErrors": result["ioErrors"],
                "lostBytes": 4096 if result["lost"] else 0, "machineMilliseconds": paused,
                "stallSeconds": result["gapEnded"] - self.began,
                "starvedMilliseconds": round(1000 * result["gapStarved"]),
                "note": "; ".join(self.notes)}
