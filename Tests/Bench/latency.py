"""What NBD adds to the client library's own latency over a real volume: the second part of `tools/bench nbd`."""
import json, os, statistics, subprocess, sys

from measuring import OthersMeter, Row, fio, playground_members, run_fio

NBD_ADDS_MICROSECONDS_MAX = 60
ROWS = {"4k-randread-qd1": Row("randread", 4096, 1), "4k-randwrite-qd1": Row("randwrite", 4096, 1)}
SIZE = "512M"
# The library's own volume; the server holds the other one, and a volume has one holder.
VOLUME = "library"


def library(options, what):
    """One run of the program that links the client library."""
    run = subprocess.run([options.programs + "/volume-latency", VOLUME, what, str(options.seconds)],
                         capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"bench: volume-latency {what} failed:\n{run.stdout}{run.stderr}")
    return json.loads(run.stdout) if run.stdout else None


def over_a_volume(options):
    """Runs with a playground around it (CURVE_NBD_URI, CURVE_MDS, CURVE_PLAYGROUND)."""
    folder = os.environ["CURVE_PLAYGROUND"]
    target = ["--ioengine=nbd", "--uri=" + os.environ["CURVE_NBD_URI"]]
    subprocess.run(["curve", "volume", "create", VOLUME, "--size", SIZE], check=True, stdout=subprocess.DEVNULL)
    library(options, "fill")
    run_fio("while writing everything once",
            ["--name=fill", "--rw=write", "--bs=1M", "--iodepth=8", f"--size={SIZE}", *target], folder)
    rounds = {row: [] for row in ROWS}
    others = OthersMeter([member["pid"] for member in playground_members()])
    for _ in range(options.rounds):
        for name, row in ROWS.items():
            ours = library(options, "write" if row.writes else "read")["p50Microseconds"]
            with_nbd = fio(name, row, options.seconds, SIZE, target, folder)["p50Microseconds"]
            rounds[name].append((with_nbd, ours))
    report(options, rounds, others.percent_of_one_cpu())


def report(options, rounds, busy):
    lines = []
    for name, pairs in rounds.items():
        adds = statistics.median(with_nbd - ours for with_nbd, ours in pairs)
        lines.append({"row": name, "p50MicrosecondsOverNBD": round(statistics.median(p[0] for p in pairs), 1),
                      "p50MicrosecondsOfTheLibrary": round(statistics.median(p[1] for p in pairs), 1),
                      "nbdAddsMicroseconds": round(adds, 1), "isMet": adds <= NBD_ADDS_MICROSECONDS_MAX})
    if options.json:
        for line in lines:
            print(json.dumps(line))
        return
    print(f"\n{'over a real volume, p50 us':27} {'over NBD':>9} {'library':>9} {'NBD adds':>9}")
    for line in lines:
        print(f"{line['row']:27} {line['p50MicrosecondsOverNBD']:9.1f} {line['p50MicrosecondsOfTheLibrary']:9.1f} "
              f"{line['nbdAddsMicroseconds']:9.1f}{'' if line['isMet'] else ' !'}")
    met = sum(line["isMet"] for line in lines)
    print(f"goal (NBD adds <= {NBD_ADDS_MICROSECONDS_MAX} us): {met} of {len(lines)} rows; other programs used "
          f"{busy:.0f} % of one CPU, of {os.cpu_count()}")
