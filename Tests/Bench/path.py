"""Measures Curve beside the raw disk, in one run: tools/bench path [options]

A playground with prewritten stores and a prewritten volume; fio's nbd engine against it, fio's io_uring
engine against a prewritten file on the same disk. Rounds are interleaved and medians printed, because
machines and minutes differ: only ratios taken in one run mean anything.

Durability is the same on both sides: what Curve acknowledges is flushed on two of three replicas. The raw
disk flushes after each write at queue depth 1 (then its latency includes the flush), and once per queue of
writes at larger depths (then it does not). No authentication, no client cache, all replicas on one disk.
"""
import argparse, json, os, sys, time

from measuring import (Row, OthersMeter, cpu_seconds, end_with_signal, fio, inside_playground, medians, need_fio,
                       playground_members, run_fio)

ROWS = {
    "4k-randwrite-qd1": Row("randwrite", 4096, 1),
    "4k-randwrite-qd32": Row("randwrite", 4096, 32),
    "4k-randread-qd1": Row("randread", 4096, 1),
    "4k-randread-qd32": Row("randread", 4096, 32),
    "1m-write-qd8": Row("write", 1 << 20, 8),
    "1m-read-qd8": Row("read", 1 << 20, 8),
}
# What a line has; null where it means nothing: a raw disk has no daemons, a read writes nothing.
MEASURES = ("iops", "megabytesPerSecond", "p50Microseconds", "p99Microseconds", "serverCPUMicrosecondsPerIO",
            "deviceBytesPerUserByteAndReplica")
REPLICAS = 3
SETTLE_SECONDS = 3  # Checkpoints and the file system write a little after the last answer.


def written_bytes(pid):
    try:
        with open(f"/proc/{pid}/io") as file:
            return int(dict(line.split(": ") for line in file.read().splitlines())["write_bytes"])
    except OSError:
        sys.exit(f"bench: process {pid} of the cluster has ended; a measurement across that means nothing")


def measure(row, seconds, size, target, daemons, storing):
    """One row against one subject; `daemons` count for CPU, `storing` for bytes on the device."""
    result = dict.fromkeys(MEASURES)
    cpu = sum(map(cpu_seconds, daemons))
    disk = sum(map(written_bytes, storing))
    result.update(fio(row, ROWS[row], seconds, size, target, os.environ["CURVE_PLAYGROUND"]))
    if daemons:
        result["serverCPUMicrosecondsPerIO"] = (sum(map(cpu_seconds, daemons)) - cpu) * 1e6 / result["ios"]
    if storing and ROWS[row].writes:
        time.sleep(SETTLE_SECONDS)
        result["deviceBytesPerUserByteAndReplica"] = (
            (sum(map(written_bytes, storing)) - disk) / REPLICAS / result["bytes"])
    return result


def inside(options):
    """Runs with a playground around it (CURVE_NBD_URI, CURVE_PLAYGROUND)."""
    end_with_signal()
    members = playground_members()
    daemons = [m["pid"] for m in members if m["name"] != "MDS"]
    storing = [m["pid"] for m in members if m["name"].startswith("chunkserver")]
    curve = ["--ioengine=nbd", "--uri=" + os.environ["CURVE_NBD_URI"]]
    folder = os.environ["CURVE_PLAYGROUND"]
    file = folder + "/raw-disk"
    raw = ["--ioengine=io_uring", "--direct=1", "--filename=" + file]
    for target in (curve, raw):
        run_fio("while writing everything once", [
            "--name=fill", "--rw=write", "--bs=1M", "--iodepth=8", f"--size={options.size}", *target], folder)
    time.sleep(SETTLE_SECONDS)
    collected = {}
    others = OthersMeter(daemons)
    for _ in range(options.rounds):
        for row in options.rows:
            collected.setdefault((row, "curve"), []).append(
                measure(row, options.seconds, options.size, curve, daemons, storing))
            depth = ROWS[row].depth
            durable = [] if not ROWS[row].writes else ["--sync=dsync" if depth == 1 else f"--fdatasync={depth}"]
            collected.setdefault((row, "raw"), []).append(
                measure(row, options.seconds, options.size, raw + durable, [], []))
    report(options, collected, others.percent_of_one_cpu())


def report(options, collected, others):
    lines = medians(collected, MEASURES)
    if options.json:
        for line in lines:
            print(json.dumps(line))
        return
    print(f"{'row':20} {'subject':8} {'IOPS':>9} {'MB/s':>8} {'p50 us':>9} {'p99 us':>9} {'CPU us/IO':>10} "
          f"{'B/B/replica':>12}")
    by_key = {(line["row"], line["subject"]): line for line in lines}
    for line in lines:
        cpu, amplification = line["serverCPUMicrosecondsPerIO"], line["deviceBytesPerUserByteAndReplica"]
        print(f"{line['row']:20} {line['subject']:8} {line['iops']:9.0f} {line['megabytesPerSecond']:8.1f} "
              f"{line['p50Microseconds']:9.0f} {line['p99Microseconds']:9.0f} "
              f"{'-' if cpu is None else format(cpu, '.1f'):>10} "
              f"{'-' if amplification is None else format(amplification, '.3f'):>12}")
    print("\ncurve / raw (raw writes are flushed, once per queue of them):")
    for row in options.rows:
        print(f"  {row:20} {by_key[(row, 'curve')]['iops'] / by_key[(row, 'raw')]['iops']:.3f} of raw IOPS")
    print(f"medians of {options.rounds} interleaved rounds of {options.seconds} s; other programs used "
          f"{others:.0f} % of one CPU, of {os.cpu_count()}")


def main():
    parser = argparse.ArgumentParser(
        prog="tools/bench path", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="ROW")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--size", default="1g", help="size of the volume and of the raw file")
    parser.add_argument("--data", help="folder on the disk to measure (default: TMPDIR or /tmp)")
    parser.add_argument("--json", action="store_true", help="one object a line")
    options = parser.parse_args()
    if "CURVE_PLAYGROUND" in os.environ:
        return inside(options)
    need_fio()
    inside_playground(__file__, options.size, sys.argv[1:], options.data)


if __name__ == "__main__":
    main()
