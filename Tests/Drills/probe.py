#!/usr/bin/python3
"""The machine's own pauses beside a drill: probe.py FILE writes 4 KiB durably every 20 ms.

Answers each line of standard input with the longest time, in milliseconds, that one write came late, and measures anew.
"""
import mmap, os, select, sys, time

PERIOD = 0.02


def main():
    block = mmap.mmap(-1, 4096)  # Aligned, as direct writes want it.
    flags = os.O_RDWR | os.O_CREAT | os.O_DSYNC
    try:
        file = os.open(sys.argv[1], flags | os.O_DIRECT, 0o600)
    except OSError:  # A file system without direct writes.
        file = os.open(sys.argv[1], flags, 0o600)
    longest, due = 0.0, time.monotonic()
    while True:
        due += PERIOD
        if select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
            if not sys.stdin.readline():
                return
            print(round(1000 * longest), flush=True)
            longest, due = 0.0, time.monotonic()
            continue
        os.pwrite(file, block, 0)
        now = time.monotonic()
        longest, due = max(longest, now - due), max(due, now - PERIOD)


main()
