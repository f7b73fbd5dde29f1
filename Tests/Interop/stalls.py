#!/usr/bin/env python3
"""How long each kill stopped a program's I/O: stalls.py KILLS-FILE FIO-LATENCY-LOG...

KILLS-FILE has a time in milliseconds since 1970 a line; the logs are fio's, of single requests, with such times.
Prints one line; exits 1 when P99_MILLISECONDS_MAX is given in the environment and was not kept."""
import os, sys

kills = [int(line) for line in open(sys.argv[1])]
worst = [0.0] * len(kills)
for name in sys.argv[2:]:
    for line in open(name):
        ended, nanoseconds = (int(word) for word in line.split(",")[:2])
        milliseconds = nanoseconds / 1e6
        for place, killed in enumerate(kills):
            until = kills[place + 1] if place + 1 < len(kills) else ended + 1
            if ended >= killed and ended - milliseconds < until:
                worst[place] = max(worst[place], milliseconds)
longest = sorted(range(len(kills)), key=lambda place: -worst[place])[:5]
print("longest:", *(f"{worst[place]:.0f} ms after the kill at {kills[place]}," for place in longest))
worst.sort()
# The smallest value that 99 of 100 stalls do not exceed.
p99 = worst[-(-len(worst) * 99 // 100) - 1]
print(f"note: {len(worst)} kills, stall p50 {worst[len(worst) // 2]:.0f} ms, p99 {p99:.0f} ms, longest {worst[-1]:.0f} ms")
bound = os.environ.get("P99_MILLISECONDS_MAX")
sys.exit(1 if bound and p99 >= float(bound) else 0)
