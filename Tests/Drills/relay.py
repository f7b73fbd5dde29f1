#!/usr/bin/python3
"""A bad cable between two interfaces: relay.py A B LOSS-PERCENT DELAY-MILLISECONDS

Says `ready` when it is, and begins with the next line of its input: the cable need not be cut while it starts.
Frames pass with their virtio_net header, so that what the kernel left to hardware (checksums, cutting into segments)
is still known on the other side. See packet(7).
"""
import heapq, random, select, socket, sys, time

ETH_P_ALL, SOL_PACKET, PACKET_VNET_HDR, PACKET_OUTGOING = 3, 263, 15, 4
FRAME_MAX = 10 + 65536 + 64


def end(interface):
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    raw.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
    raw.bind((interface, ETH_P_ALL))
    raw.setblocking(False)
    return raw


def drop_waiting(raw):
    try:
        while True:
            raw.recv(FRAME_MAX)
    except BlockingIOError:
        pass


def main():
    ends, loss, delay = [end(sys.argv[1]), end(sys.argv[2])], float(sys.argv[3]) / 100, float(sys.argv[4]) / 1000
    waiting, order, chance = [], 0, random.Random(7)
    print("ready", flush=True)
    sys.stdin.readline()
    for raw in ends:  # Passed some other way before the cable was bad.
        drop_waiting(raw)
    while True:
        pause = max(0, waiting[0][0] - time.monotonic()) if waiting else None
        for source in select.select(ends, [], [], pause)[0]:
            frame, origin = source.recvfrom(FRAME_MAX)
            if origin[2] == PACKET_OUTGOING or chance.random() < loss:
                continue
            order += 1
            heapq.heappush(waiting, (time.monotonic() + delay, order, ends[source is ends[0]], frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, target, frame = heapq.heappop(waiting)
            try:
                target.send(frame)
            except OSError:
                pass  # A full queue loses frames, as cables do.


main()
