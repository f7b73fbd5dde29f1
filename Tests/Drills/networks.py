"""Drills with cut, one-way and bad cables, between network namespaces."""
import time
import wires
from scene import Scene, Skipped

CUT_SECONDS = 10
CUT_ALL_SECONDS = 20
AFTERMATH_SECONDS = 4


def wired(seed):
    why = wires.available()
    if why:
        raise Skipped(why)
    return Scene(seed, wires=True)


def cut(scene, server):
    scene.wires.cut(server)
    time.sleep(CUT_SECONDS)
    scene.wires.join(server)
    time.sleep(AFTERMATH_SECONDS)
    return scene.finish()


def cut_follower(seed):
    """the network of a chunkserver that leads nothing is gone for 10 s"""
    with wired(seed) as scene:
        return cut(scene, scene.follower())


def cut_leader(seed):
    """the network of the chunkserver that leads every copyset is gone for 10 s"""
    with wired(seed) as scene:
        return cut(scene, scene.leader())


def cut_all(seed):
    """the network of all chunkservers is gone for 20 s"""
    with wired(seed) as scene:
        servers = range(len(scene.wires.machines))
        for server in servers:
            scene.wires.cut(server)
        time.sleep(CUT_ALL_SECONDS)
        for server in servers:
            scene.wires.join(server)
        time.sleep(AFTERMATH_SECONDS)
        return scene.finish()


def mute_leader(seed):
    """for 10 s the leader hears everybody and nobody hears it"""
    with wired(seed) as scene:
        leader = scene.leader()
        scene.wires.mute(leader)
        time.sleep(CUT_SECONDS)
        scene.wires.unmute(leader)
        time.sleep(AFTERMATH_SECONDS)
        return scene.finish()


def deaf_leader(seed):
    """for 10 s everybody hears the leader and it hears nobody"""
    with wired(seed) as scene:
        scene.wires.deafen(scene.leader())
        time.sleep(CUT_SECONDS)
        scene.wires.undeafen()
        time.sleep(AFTERMATH_SECONDS)
        return scene.finish()


def bad_cable(scene, **faults):
    leader = scene.leader()
    scene.wires.bad_cable(leader, **faults)
    time.sleep(CUT_SECONDS)
    scene.wires.good_cable(leader)
    time.sleep(AFTERMATH_SECONDS)
    return scene.finish()


def loss(seed):
    """the leader's cable loses 5 % of the frames for 10 s"""
    with wired(seed) as scene:
        return bad_cable(scene, loss_percent=5)


def delay(seed):
    """the leader's cable takes 50 ms in each direction for 10 s"""
    with wired(seed) as scene:
        return bad_cable(scene, delay_milliseconds=50)
