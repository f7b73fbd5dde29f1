"""Measures the iSCSI server: tools/bench iscsi [options]

By itself, over a volume that keeps nothing, beside tgt's null unit, with one load program for both (iscsi-load: READ(10) and
WRITE(10) over loopback TCP). What counts is the CPU time of the server for one command, as a ratio to tgt's, whether four
connections do as much as one, and whether two targets on two threads ("t2") do more than one. Depth is what each connection
has in flight, as with four initiators; in "shared" rows all four together have no more than the one.

Rounds are interleaved and medians printed, because machines and minutes differ: only ratios taken in one run mean anything.
"pinned" rows have load and server on one CPU: else the scheduler's choice, the same CPU or one that sleeps and must be woken,
decides what a command costs, by a factor of four. "crc" rows have digests on headers and data.
"""
import argparse, json, os, random, shutil, socket, statistics, subprocess, sys, tempfile, time

from frontend import ratio
from measuring import (PINNED_CPU, ROOT, OthersMeter, Row, cpu_seconds, end_with_signal, medians, pin)

SIZE = 1 << 30
READY_SECONDS_MAX = 10
MEASURES = ("iops", "p50Microseconds", "p99Microseconds", "serverCPUMicrosecondsPerIO")
CPU = "serverCPUMicrosecondsPerIO"
OURS, PEER = "curve", "tgt"
# What CPU may be, to tgt's; requests a second of four connections to those of one, each with the same depth; and a read of
# 1 MiB, in microseconds.
CPU_RATIO_MAX, FOUR_TO_ONE_MIN, LARGE_READ_MICROSECONDS_MAX = 1.0, 1.0, 360
# Requests a second of four connections to two targets on two threads, to those of four to one target.
TWO_TO_ONE_MIN = 1.0
LARGE_READ = "1m-read-qd8-pinned"
TGT_TARGET = "iqn.2026-11.io.curve.test:tgt"


class ISCSIRow(Row):
    """`depth` is what all connections have in flight together, here too."""

    def __init__(self, *arguments, digests=False, targets=1, **named):
        super().__init__(*arguments, **named)
        self.digests, self.targets = digests, targets


def all_rows():
    rows = {}
    for rw in ("randread", "randwrite"):
        rows[f"4k-{rw}-qd1-pinned"] = ISCSIRow(rw, 4096, 1, pinned=True)
        rows[f"4k-{rw}-qd1-free"] = ISCSIRow(rw, 4096, 1)
    for rw, what, block, depth in (("randread", "4k", 4096, 32), ("randwrite", "4k", 4096, 32),
                                   ("read", "1m", 1 << 20, 8), ("write", "1m", 1 << 20, 8)):
        for place in ("pinned", "free"):
            for connections, suffix in ((1, ""), (4, "-c4")):
                rows[f"{what}-{rw}-qd{depth}-{place}{suffix}"] = ISCSIRow(
                    rw, block, depth * connections, connections, place == "pinned")
        rows[f"{what}-{rw}-qd{depth}-free-c4-shared"] = ISCSIRow(rw, block, depth, 4)
        rows[f"{what}-{rw}-qd{depth}-free-c4-t2"] = ISCSIRow(rw, block, 4 * depth, 4, targets=2)
        rows[f"{what}-{rw}-qd{depth}-pinned-crc"] = ISCSIRow(rw, block, depth, pinned=True, digests=True)
    return rows


ROWS = all_rows()


def wait_until(what, is_true, process):
    deadline = time.monotonic() + READY_SECONDS_MAX
    while not is_true():
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"bench: {what} does not serve")
        time.sleep(0.05)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Curve:
    name, lun = OURS, 0
    # The second one has a thread of its own.
    targets = ["iqn.2026-11.io.curve.test:null", "iqn.2026-11.io.curve.test:null-1"]

    def __init__(self, folder, programs):
        self.port = free_port()
        self.log = open(f"{folder}/curve.log", "w")
        self.process = subprocess.Popen(
            [f"{programs}/iscsi-memory-server", "--listen", f"127.0.0.1:{self.port}", "--null", "--size", str(SIZE),
             "--threads", str(len(self.targets))],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        wait_until(self.name, lambda: listens(self.port), self.process)

    def set_digests(self, _):
        """It takes what an initiator likes best."""

    def stop(self):
        self.process.terminate()


class Tgt:
    """tgtd keeps its control socket where TGT_IPC_SOCKET says, and its portal is its own. Targets share its loop: one will do."""
    name, targets, lun = PEER, [TGT_TARGET], 1

    def __init__(self, folder, _):
        self.port, self.control = free_port(), str(random.randrange(1000, 30000))
        self.environment = dict(os.environ, TGT_IPC_SOCKET=f"{folder}/tgtd.sock")
        self.log = open(f"{folder}/tgt.log", "w")
        self.process = subprocess.Popen(
            ["tgtd", "-f", "-C", self.control, "--iscsi", f"portal=127.0.0.1:{self.port}"], stdin=subprocess.DEVNULL,
            stdout=self.log, stderr=self.log, env=self.environment)
        wait_until(self.name, lambda: listens(self.port) and self.admin("--mode target --op show"), self.process)
        for words in (f"--mode target --op new --tid 1 --targetname {TGT_TARGET}",
                      "--mode logicalunit --op new --tid 1 --lun 1 --backing-store none --bstype null",
                      "--mode target --op bind --tid 1 -I 127.0.0.1"):
            if not self.admin(words):
                sys.exit(f"bench: tgtadm {words} failed")

    def admin(self, words):
        return subprocess.run(["tgtadm", "-C", self.control, "--lld", "iscsi", *words.split()], env=self.environment,
                              capture_output=True).returncode == 0

    def set_digests(self, wanted):
        for key in ("HeaderDigest", "DataDigest"):
            if not self.admin(f"--mode target --op update --tid 1 -n {key} -v {'CRC32C' if wanted else 'None'}"):
                sys.exit(f"bench: tgtadm does not set {key}")

    def stop(self):
        # It ignores signals while it has a target.
        self.admin("--mode target --op delete --force --tid 1")
        self.admin("--mode system --op delete")
        self.process.terminate()


def load_programs(row, cpus):
    """One for each connection where there are CPUs for them beside the server's; else as few as will do, because programs
    that take CPUs from each other measure the scheduler."""
    return row.connections if cpus > row.connections + row.targets else row.targets


def measure(server, name, seconds, programs):
    row, pid = ROWS[name], server.process.pid
    pin(pid, row.pinned)
    server.set_digests(row.digests)
    cpu = cpu_seconds(pid)
    targets = server.targets[:row.targets]
    count = load_programs(row, os.cpu_count())
    loads = [subprocess.Popen(
        [*(["taskset", "-c", str(PINNED_CPU)] if row.pinned else []), f"{programs}/iscsi-load", f"127.0.0.1:{server.port}",
         targets[number % len(targets)], str(server.lun), row.rw, str(row.block), str(row.depth // count),
         str(row.connections // count), str(seconds), *(["digests"] if row.digests else [])],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for number in range(count)]
    results = []
    try:
        for load in loads:
            said, complaint = load.communicate(timeout=60 + 10 * seconds)
            if load.returncode != 0:
                sys.exit(f"bench: the load failed in row {name} against {server.name}:\n{said}{complaint}")
            results.append(json.loads(said))
    finally:
        for load in loads:
            if load.poll() is None:
                load.kill()
                load.wait()
    result = {"ios": sum(one["ios"] for one in results),
              "iops": sum(one["ios"] / one["seconds"] for one in results),
              "p50Microseconds": statistics.median(one["p50Microseconds"] for one in results),
              "p99Microseconds": max(one["p99Microseconds"] for one in results)}
    result[CPU] = (cpu_seconds(pid) - cpu) * 1e6 / result["ios"]
    return result


def beside_tgt(options):
    servers, collected = [], {}
    with tempfile.TemporaryDirectory(prefix="curve-bench-") as folder:
        try:
            for kind in (Curve, Tgt):
                servers.append(kind(folder, options.programs))
            others = OthersMeter([server.process.pid for server in servers])
            for number in range(options.rounds):
                for row in options.rows:
                    for turn in range(len(servers)):
                        server = servers[(turn + number) % len(servers)]
                        collected.setdefault((row, server.name), []).append(
                            measure(server, row, options.seconds, options.programs))
            busy = others.percent_of_one_cpu()
        finally:
            for server in servers:
                server.stop()
                try:
                    server.process.wait(5)
                except subprocess.TimeoutExpired:
                    server.process.kill()
                    server.process.wait()
    return collected, busy


def judge(collected, rows):
    verdicts, by_key = [], {(line["row"], line["subject"]): line for line in medians(collected, MEASURES)}
    for row in rows:
        verdict = {"row": row, "cpuRatio": round(ratio(collected, (row, OURS), (row, PEER), CPU), 3),
                   "iopsRatio": round(ratio(collected, (row, OURS), (row, PEER), "iops"), 3), "fourToOne": None,
                   "twoTargetsToOne": None}
        one = row.removesuffix("-shared").removesuffix("-c4")
        if one != row and (one, OURS) in collected:
            verdict["fourToOne"] = round(ratio(collected, (row, OURS), (one, OURS), "iops"), 3)
        same = row.removesuffix("-t2")
        if same != row and (same, OURS) in collected:
            verdict["twoTargetsToOne"] = round(ratio(collected, (row, OURS), (same, OURS), "iops"), 3)
        spread = verdict["twoTargetsToOne"]
        # On one CPU four sessions of the load cost more than one by themselves, whoever serves them. Shared depth means a
        # quarter of the commands at a time from each, for which every server does more.
        judged = None if ROWS[row].pinned or row.endswith("-shared") else verdict["fourToOne"]
        is_large = row == LARGE_READ and by_key[(row, OURS)][CPU] > LARGE_READ_MICROSECONDS_MAX
        verdict["isMet"] = (verdict["cpuRatio"] <= CPU_RATIO_MAX and not is_large
                            and (judged is None or judged >= FOUR_TO_ONE_MIN)
                            and (spread is None or spread >= TWO_TO_ONE_MIN))
        verdicts.append(verdict)
    return verdicts, by_key


def report(options, collected, busy):
    verdicts, by_key = judge(collected, options.rows)
    met = sum(verdict["isMet"] for verdict in verdicts)
    if options.json:
        for line in [*by_key.values(), *verdicts]:
            print(json.dumps(line))
        print(json.dumps({"goal": "CPU of the server per command", "rows": len(verdicts), "met": met,
                          "othersPercentOfOneCPU": round(busy)}))
        return
    titles = f" {OURS:>8} {PEER:>8}"
    print(f"{'':33}|{'requests a second':^18}|{'p99 us':^18}|{'server CPU us':^18}|  to tgt's   | 4 conn. 2 targets")
    print(f"{'row':33}|{titles}|{titles}|{titles}| CPU   req/s | to one  to one")
    for verdict in verdicts:
        row = verdict["row"]
        cells = ["".join(f" {by_key[(row, name)][key]:8.{digits}f}" for name in (OURS, PEER))
                 for key, digits in (("iops", 0), ("p99Microseconds", 0), (CPU, 2))]
        four, two = ("       " if verdict[key] is None else f"{verdict[key]:7.2f}" for key in ("fourToOne", "twoTargetsToOne"))
        print(f"{row:33}|{'|'.join(cells)}|{verdict['cpuRatio']:5.2f} {verdict['iopsRatio']:5.2f}"
              f"{'  ' if verdict['isMet'] else ' !'}|{four}{two}".rstrip())
    print(f"goals (CPU <= {CPU_RATIO_MAX} of tgt's; 4 free connections >= {FOUR_TO_ONE_MIN} of one; two targets >= "
          f"{TWO_TO_ONE_MIN} of one; {LARGE_READ} <= {LARGE_READ_MICROSECONDS_MAX} us): {met} of {len(verdicts)} rows")
    print(f"medians of {options.rounds} interleaved rounds of {options.seconds} s; other programs used "
          f"{busy:.0f} % of one CPU, of {os.cpu_count()}", flush=True)


def parse(words):
    parser = argparse.ArgumentParser(
        prog="tools/bench iscsi", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="ROW",
                        help=" ".join(ROWS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--programs", help="folder of iscsi-memory-server and iscsi-load (default: builds them)")
    parser.add_argument("--json", action="store_true", help="one object a line")
    options = parser.parse_args(words)
    if min(options.rounds, options.seconds) < 1:
        parser.error("--rounds and --seconds are at least 1")
    return options


def main():
    options = parse(sys.argv[1:])
    end_with_signal()
    if shutil.which("tgtd") is None:
        sys.exit("bench: tgtd is missing (apt-get install tgt)")
    if options.programs is None:
        run = subprocess.run([ROOT + "/tools/build", "iscsi-memory-server", "iscsi-load"], capture_output=True,
                             text=True)
        if run.returncode != 0:
            sys.exit(f"bench: the programs do not build:\n{run.stdout[-4000:]}{run.stderr[-4000:]}")
    options.programs = os.path.abspath(options.programs or ROOT + "/.build/release")
    report(options, *beside_tgt(options))


if __name__ == "__main__":
    main()
