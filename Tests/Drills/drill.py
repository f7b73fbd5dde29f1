#!/usr/bin/python3
"""Runs drills: bad days on real processes under a verifying load.

Each drill has a cluster of its own in a temporary folder. A drill is ok when no request failed, no acknowledged byte was
lost or changed, and every replica came back by itself. The stall is the longest time without a completed request.
"""
import argparse, json, os, sys, time, traceback
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "Interop"))
import disks, networks, powercut, processes
from scene import Skipped

# Longest stall that we want, in milliseconds; it is shown, not judged, since machines are noisy.
FOLLOWER, LEADER_DEAD, LEADER_SILENT = 50, 1000, 2000
ALL_BACK = 1000 * networks.CUT_ALL_SECONDS + 3000
DRILLS = [
    ("follower-kill", processes.follower_kill, FOLLOWER), ("follower-stop", processes.follower_stop, FOLLOWER),
    ("follower-hang", processes.follower_hang, FOLLOWER), ("leader-kill", processes.leader_kill, LEADER_DEAD),
    ("leader-stop", processes.leader_stop, LEADER_SILENT), ("leader-hang", processes.leader_hang, LEADER_SILENT),
    ("mds-kill", processes.mds_kill, FOLLOWER), ("mds-stop", processes.mds_stop, FOLLOWER),
    ("mds-hang", processes.mds_hang, FOLLOWER), ("mds-takeover", processes.mds_takeover, FOLLOWER), ("gateway-kill", processes.gateway_kill, None),
    ("gateway-stop", processes.gateway_stop, None), ("gateway-hang", processes.gateway_hang, None),
    ("all-kill", processes.all_kill, None), ("all-stop", processes.all_stop, None),
    ("all-hang", processes.all_hang, None), ("cut-follower", networks.cut_follower, FOLLOWER),
    ("cut-leader", networks.cut_leader, LEADER_SILENT), ("cut-all", networks.cut_all, ALL_BACK), ("mute-leader", networks.mute_leader, LEADER_SILENT),
    ("deaf-leader", networks.deaf_leader, LEADER_SILENT), ("loss", networks.loss, None),
    ("delay", networks.delay, None), ("slow-disk", disks.slow_disk, FOLLOWER), ("full-disk", disks.full_disk, None),
    ("full-disk-follower", disks.full_disk_follower, None),
    ("bit-flip", disks.bit_flip, FOLLOWER), ("mds-restore", disks.mds_restore, FOLLOWER),
    ("power-cut", powercut.power_cut, None), ("power-cut-short", powercut.power_cut_short, None),
]
SHORT = ["leader-kill", "leader-stop", "gateway-kill", "all-kill", "cut-leader", "bit-flip", "power-cut-short"]


def perform(name, drill, goal, seed):
    started = time.monotonic()
    result = {"name": name, "ok": False, "stallMilliseconds": None, "ioErrors": 0, "lostBytes": 0, "note": ""}
    try:
        result.update(drill(seed))
        machine, moment, starved = (result.pop(key, 0) for key in (
            "machineMilliseconds", "stallSeconds", "starvedMilliseconds"))
        if goal and result["stallMilliseconds"] > goal:
            missed = (f"goal {goal} ms; stalled {moment:.1f} s after the start, {starved} ms of it for want of a CPU for the "
                      f"load; a lone program's 4 KiB write took up to {machine} ms")
            result["note"] = "; ".join(filter(None, [missed, result["note"]]))
    except Skipped as why:
        result.update(ok=True, note=f"skipped: {why}")
    except Exception as error:
        result["note"] = f"{type(error).__name__}: {error}"
        traceback.print_exc()
    return result, time.monotonic() - started


def main():
    parser = argparse.ArgumentParser(prog="tools/drill", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="list|all|short|NAME")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the load's requests")
    options = parser.parse_args()
    known = {name: (drill, goal) for name, drill, goal in DRILLS}
    if options.names == ["list"]:
        for name, drill, _ in DRILLS:
            print(f"{name:18} {drill.__doc__}")
        return
    names = {"all": [name for name in known if name != "power-cut-short"], "short": SHORT}.get(options.names[0], options.names)
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"tools/drill: no drill is called {unknown[0]}; tools/drill list shows them all", file=sys.stderr)
        sys.exit(2)
    bad = 0
    for name in names:
        result, seconds = perform(name, *known[name], options.seed)
        bad += not result["ok"]
        if options.json:
            print(json.dumps(result), flush=True)
        else:
            stall = "-" if result["stallMilliseconds"] is None else f"{result['stallMilliseconds']} ms"
            verdict = "ok" if result["ok"] else "NOT OK"
            print(f"{verdict:6} {name:18} stall {stall:>8}, {result['ioErrors']} I/O errors, "
                  f"{result['lostBytes']} lost bytes, {seconds:.0f} s  {result['note']}", flush=True)
    if not options.json:
        print(f"{len(names) - bad} of {len(names)} ok, seed {options.seed}")
    sys.exit(1 if bad else 0)


main()
