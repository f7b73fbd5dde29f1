"""Measures the NBD server: tools/bench nbd [options]

First by itself: over a volume that keeps nothing, beside nbdkit's null plugin and qemu-nbd's null-co driver,
with fio's nbd engine as the client of each. What counts is the CPU time of the server for one request, as a ratio
to the better of the two. Then over a real volume on three replicas: what NBD adds to the latency that the
client library itself has, one request at a time.

Rounds are interleaved and medians printed, because machines and minutes differ: only ratios taken in one run mean
anything. "pinned" rows have client and server on one CPU: else the scheduler's choice, the same CPU or one
that sleeps and must be woken, decides what a request costs, by a factor of four.
"""
import argparse, json, os, shutil, statistics, subprocess, sys, tempfile, time

from latency import over_a_volume
from measuring import (ROOT, OthersMeter, Row, cpu_seconds, end_with_signal, fio, inside_playground, medians,
                       need_fio, pin)

SIZE = 512 << 20
READY_SECONDS_MAX = 10
MEASURES = ("iops", "p50Microseconds", "p99Microseconds", "serverCPUMicrosecondsPerIO")
CPU = "serverCPUMicrosecondsPerIO"
OURS, PEERS = "curve", ("nbdkit", "qemu")
# What a ratio may be. CPU of ours to the better peer's; requests a second of four connections to those of one.
CPU_RATIO_MAX, FOUR_TO_ONE_MIN = 1.0, 1.0


def all_rows():
    rows = {}
    for rw in ("randread", "randwrite"):
        rows[f"4k-{rw}-qd1-pinned"] = Row(rw, 4096, 1, pinned=True)
    for rw, what, block, depth in (("randread", "4k", 4096, 32), ("randwrite", "4k", 4096, 32),
                                   ("read", "1m", 1 << 20, 8), ("write", "1m", 1 << 20, 8)):
        for place in ("pinned", "free"):
            for connections, suffix in ((1, ""), (4, "-c4")):
                name = f"{what}-{rw}-qd{depth}-{place}{suffix}"
                rows[name] = Row(rw, block, depth, connections, place == "pinned")
    return rows


ROWS = all_rows()


class Server:
    """One of those that are compared, on a Unix socket, until it is stopped."""

    def __init__(self, name, folder, programs):
        self.name, self.socket = name, f"{folder}/{name}.sock"
        commands = {
            "curve": [f"{programs}/nbd-memory-server", "serve", "--null", "--size", str(SIZE), "--listen",
                      "unix:" + self.socket],
            "nbdkit": ["nbdkit", "-f", "-U", self.socket, "null", f"size={SIZE}"],
            # With read-zeroes=on it would answer reads by "a hole", without a byte.
            "qemu": ["qemu-nbd", "-t", "-e", "8", "-k", self.socket, "-x", "", "--image-opts",
                     f"driver=null-co,size={SIZE},read-zeroes=off"],
        }
        self.log = open(f"{folder}/{name}.log", "w+")
        self.process = subprocess.Popen(commands[name], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + READY_SECONDS_MAX
        while not os.path.exists(self.socket):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.log.seek(0)
                sys.exit(f"bench: {name} does not serve:\n{self.log.read()}")
            time.sleep(0.02)

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def measure(self, name, seconds, folder):
        row, pid = ROWS[name], self.process.pid
        pin(pid, row.pinned)
        cpu = cpu_seconds(pid)
        result = fio(name, row, seconds, SIZE // row.connections,
                     ["--ioengine=nbd", f"--uri=nbd+unix:///?socket={self.socket}"], folder)
        result[CPU] = (cpu_seconds(pid) - cpu) * 1e6 / result["ios"]
        return result


def beside_others(options):
    """Every row against every server, in turns that begin with another one each round."""
    servers, collected = [], {}
    with tempfile.TemporaryDirectory(prefix="curve-bench-") as folder:
        try:
            for name in (OURS, *PEERS):
                servers.append(Server(name, folder, options.programs))
            others = OthersMeter([server.process.pid for server in servers])
            for number in range(options.rounds):
                for row in options.rows:
                    for turn in range(len(servers)):
                        server = servers[(turn + number) % len(servers)]
                        collected.setdefault((row, server.name), []).append(
                            server.measure(row, options.seconds, folder))
            busy = others.percent_of_one_cpu()
        finally:
            for server in servers:
                server.stop()
    return collected, busy


def ratio(collected, above, below, measure):
    """The median of what each round says, since what disturbed one side of a round disturbed the other as well."""
    return statistics.median(a[measure] / b[measure] for a, b in zip(collected[above], collected[below]))


def judge(collected, rows):
    """For each row: the ratio of CPU to the better peer's, and of four connections' requests to one's."""
    verdicts = []
    for row in rows:
        peer = min(PEERS, key=lambda name: statistics.median(r[CPU] for r in collected[(row, name)]))
        verdict = {"row": row, "betterPeer": peer,
                   "cpuRatio": round(ratio(collected, (row, OURS), (row, peer), CPU), 3), "fourToOne": None}
        one = row.removesuffix("-c4")
        if one != row and (one, OURS) in collected:
            verdict["fourToOne"] = round(ratio(collected, (row, OURS), (one, OURS), "iops"), 3)
        # On one CPU four clients cost more than one by themselves, whoever serves them.
        judged = None if ROWS[row].pinned else verdict["fourToOne"]
        verdict["isMet"] = verdict["cpuRatio"] <= CPU_RATIO_MAX and (judged is None or judged >= FOUR_TO_ONE_MIN)
        verdicts.append(verdict)
    return verdicts


def report(options, collected, busy):
    lines, verdicts = medians(collected, MEASURES), judge(collected, options.rows)
    met = sum(verdict["isMet"] for verdict in verdicts)
    if options.json:
        for line in lines + verdicts:
            print(json.dumps(line))
        print(json.dumps({"goal": "CPU of the server per request", "rows": len(verdicts), "met": met,
                          "othersPercentOfOneCPU": round(busy)}))
        return
    by_key = {(line["row"], line["subject"]): line for line in lines}
    names = (OURS, *PEERS)
    titles = "".join(f" {name:>8}" for name in names)
    print(f"{'':27}|{'requests a second':^27}|{'p99 us':^27}|{'server CPU us a request':^27}|  to the   | 4 conn.")
    print(f"{'row':27}|{titles}|{titles}|{titles}|better peer| to one")
    for verdict in verdicts:
        row = verdict["row"]
        cells = ["".join(f" {by_key[(row, name)][measure]:8.{digits}f}" for name in names)
                 for measure, digits in (("iops", 0), ("p99Microseconds", 0), (CPU, 2))]
        four = "" if verdict["fourToOne"] is None else f"{verdict['fourToOne']:7.2f}"
        print(f"{row:27}|{'|'.join(cells)}|{verdict['cpuRatio']:7.2f} {'  ' if verdict['isMet'] else ' !'} |{four}")
    missed = [verdict["row"] for verdict in verdicts if not verdict["isMet"]]
    print(f"goals (CPU <= {CPU_RATIO_MAX} of the better peer; 4 free connections >= {FOUR_TO_ONE_MIN} of one): "
          f"{met} of {len(verdicts)} rows" + (", missed by " + " ".join(missed) if missed else ""))
    print(f"medians of {options.rounds} interleaved rounds of {options.seconds} s; other programs used "
          f"{busy:.0f} % of one CPU, of {os.cpu_count()}", flush=True)


def build():
    run = subprocess.run([ROOT + "/tools/build", "nbd-memory-server", "volume-latency"], capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"bench: the programs do not build:\n{run.stdout[-4000:]}{run.stderr[-4000:]}")


def parse(words):
    parser = argparse.ArgumentParser(
        prog="tools/bench nbd", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["null", "volume", "all"], default="all",
                        help="the server by itself, over a real volume, or both")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="ROW",
                        help="of the first part: " + " ".join(ROWS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--programs", help="folder of nbd-memory-server and volume-latency (default: builds them)")
    parser.add_argument("--data", help="folder for the real volume's stores (default: TMPDIR or /tmp)")
    parser.add_argument("--json", action="store_true", help="one object a line")
    return parser.parse_args(words)


def main():
    options = parse(sys.argv[1:])
    end_with_signal()
    options.programs = os.path.abspath(options.programs or ROOT + "/.build/release")
    if "CURVE_PLAYGROUND" in os.environ:
        return over_a_volume(options)
    need_fio()
    for program, package in (("nbdkit", "nbdkit"), ("qemu-nbd", "qemu-utils")):
        if shutil.which(program) is None:
            sys.exit(f"bench: {program} is missing (apt-get install {package})")
    if "--programs" not in sys.argv[1:]:
        build()
    if options.part != "volume":
        report(options, *beside_others(options))
    if options.part != "null":
        inside_playground(__file__, "512M", sys.argv[1:], options.data)


if __name__ == "__main__":
    main()
