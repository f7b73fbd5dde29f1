#!/usr/bin/python3
"""The verifying load of a drill, in a process of its own so that the drill's work does not stall it.

Usage: load.py URI SEED. Reads commands from standard input: `mark` starts measuring anew, `stop` verifies every block.
Each answers with one line of JSON.
"""
import json, os, select, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "Interop"))
from ledger import Ledger, Lost

BLOCKS = 4096


def main():
    ledger = Ledger(sys.argv[1], blocks=BLOCKS, seed=int(sys.argv[2]))

    def answer(lost=None):
        print(json.dumps({
            "acknowledged": ledger.acknowledged, "reads": ledger.reads, "ioErrors": ledger.io_errors,
            "errors": {str(key): count for key, count in ledger.errors.items()}, "reconnects": ledger.reconnects,
            "gapSeconds": ledger.longest_gap, "gapEnded": ledger.longest_gap_ended,
            "gapStarved": ledger.longest_gap_starved, "lost": lost}), flush=True)

    def step():
        if not select.select([sys.stdin], [], [], 0)[0]:
            return False
        command = sys.stdin.readline().strip()
        if command == "mark":
            answer()
            ledger.longest_gap = 0.0
            return False
        return True  # `stop`, or the drill is gone.

    try:
        ledger.run(step)
        ledger.verify_all()
        answer()
    except Lost as lost:
        answer(str(lost))


main()
