"""Drills that kill, stop and hang processes."""
import time
from scene import HOLDER_KEY, Scene

STOP_SECONDS = 10
AFTERMATH_SECONDS = 4


def killed(scene, daemons, rest=AFTERMATH_SECONDS):
    scene.kill(daemons)
    time.sleep(rest)
    scene.start(daemons)
    return scene.finish()


def stopped(scene, daemons):
    scene.stop(daemons)
    time.sleep(STOP_SECONDS)
    scene.go_on(daemons)
    time.sleep(AFTERMATH_SECONDS)
    return scene.finish()


def hung(scene, daemons):
    """Stopped for ever; later an operator kills it and starts it again."""
    scene.stop(daemons)
    time.sleep(2 * STOP_SECONDS)
    scene.kill(daemons)
    scene.start(daemons)
    return scene.finish()


def follower_kill(seed):
    """kill -9 of a chunkserver that leads nothing"""
    with Scene(seed) as scene:
        return killed(scene, [scene.chunkserver(scene.follower())])


def follower_stop(seed):
    """a chunkserver that leads nothing stands still for 10 s"""
    with Scene(seed) as scene:
        return stopped(scene, [scene.chunkserver(scene.follower())])


def follower_hang(seed):
    """a chunkserver that leads nothing stands still until it is killed"""
    with Scene(seed) as scene:
        return hung(scene, [scene.chunkserver(scene.follower())])


def leader_kill(seed):
    """kill -9 of the chunkserver that leads every copyset"""
    with Scene(seed) as scene:
        return killed(scene, [scene.chunkserver(scene.leader())])


def leader_stop(seed):
    """the chunkserver that leads every copyset stands still for 10 s"""
    with Scene(seed) as scene:
        return stopped(scene, [scene.chunkserver(scene.leader())])


def leader_hang(seed):
    """the chunkserver that leads every copyset stands still until it is killed"""
    with Scene(seed) as scene:
        return hung(scene, [scene.chunkserver(scene.leader())])


def mds_kill(seed):
    """kill -9 of the MDS"""
    with Scene(seed) as scene:
        return killed(scene, [scene.cluster.mds])


def mds_stop(seed):
    """the MDS stands still for 10 s"""
    with Scene(seed) as scene:
        return stopped(scene, [scene.cluster.mds])


def mds_hang(seed):
    """the MDS stands still until it is killed, longer than a volume's lease lasts"""
    with Scene(seed) as scene:
        scene.stop([scene.cluster.mds])
        time.sleep(45)
        return killed(scene, [scene.cluster.mds], rest=0)


def gateway_kill(seed):
    """kill -9 of the NBD server; it is started again and the client connects anew"""
    with Scene(seed) as scene:
        return killed(scene, [scene.gateway], rest=0)


def gateway_stop(seed):
    """the NBD server stands still for 10 s"""
    with Scene(seed) as scene:
        return stopped(scene, [scene.gateway])


def gateway_hang(seed):
    """the NBD server stands still; another takes the volume over, then the old one wakes up and may do nothing"""
    with Scene(seed) as scene:
        old = scene.gateway
        scene.stop([old])
        time.sleep(3)
        # Under another name: the hung one must be fenced, not taken for the same.
        scene.gateway, _ = scene.cluster.serve_volume(
            "v", "--takeover", "--holder-key", HOLDER_KEY + "-2", socket_name="second")
        scene.gateway.ready()
        scene.point_clients_at("second")
        scene.go_on([old])
        time.sleep(AFTERMATH_SECONDS)
        result = scene.finish()
        if old.process.poll() is None:
            scene.note("the fenced NBD server still runs")
            result["ok"] = False
        result["note"] = "; ".join(scene.notes)
        return result


def all_kill(seed):
    """kill -9 of everything at once, then everything is started again"""
    with Scene(seed) as scene:
        return killed(scene, scene.everyone(), rest=0)


def all_stop(seed):
    """everything stands still for 10 s"""
    with Scene(seed) as scene:
        return stopped(scene, scene.everyone())


def all_hang(seed):
    """everything stands still until it is killed, then everything is started again"""
    with Scene(seed) as scene:
        return hung(scene, scene.everyone())
