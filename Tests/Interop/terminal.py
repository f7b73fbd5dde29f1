#!/usr/bin/env python3
"""Runs a program at a terminal of its own, presses a key when it has printed a text, and checks its end.

    terminal.py --key CODE --when TEXT --status N -- PROGRAM ARGS

Prints what the program printed, and at the end how it ended. Exit 1 when the text did not come within 60 s, when the program
did not end within 60 s after the key, or when its status is another.
"""
import argparse
import os
import pty
import select
import signal
import sys
import time

PATIENCE_SECONDS = 60


def read_until(terminal, done):
    """Passes the program's words on until `done` of all of them; False when it does not come."""
    said = b""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 0.1)[0]:
            continue
        try:
            words = os.read(terminal, 65536)
        except OSError:  # EIO: the program has let go of the terminal.
            words = b""
        said += words
        sys.stdout.buffer.write(words)
        if done(said, not words):
            return True
        if not words:
            return False
    return False


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--key", type=int, required=True)
    parser.add_argument("--when", required=True)
    parser.add_argument("--status", type=int, required=True)
    parser.add_argument("program", nargs="+")
    wanted = parser.parse_args()
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # A script's background job ignores it.
        os.execvp(wanted.program[0], wanted.program)
    if read_until(terminal, lambda said, _: wanted.when.encode() in said):
        os.write(terminal, bytes([wanted.key]))
        ended = read_until(terminal, lambda _, is_end: is_end)
    else:
        ended = False
    if not ended:
        os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    print(f"\nended with status {status}" if ended else "\ndid not come to its end")
    return 0 if ended and status == wanted.status else 1


sys.exit(main())
