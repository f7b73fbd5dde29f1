"""Drills that kill, stop and hang processes."""
import time
from cluster import connect, eventually, MIB
from scene import HOLDER_KEY, Failed, Scene

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


TAKEOVER_SECONDS_MAX = 10


def mds_takeover(seed):
    """kill -9 of the MDS that leads while another stands by; at once a volume is attached, another one grows"""
    with Scene(seed, mds_count=2) as scene:
        cluster = scene.cluster
        first, second = cluster.metadata_servers
        cluster.curve("volume", "create", "w", "--size", "64M")

        def states():
            return [server["state"] for server in cluster.status()["metadataServers"]]

        def use(name):
            """What needs an MDS, measured."""
            began = time.monotonic()
            daemon, uri = cluster.serve_volume("w", "--holder-key", "w", socket_name=name)
            daemon.ready()
            cluster.curve("volume", "resize", "v", "--size", f"{1024 + 64 * len(name)}M")
            seconds = time.monotonic() - began
            content = bytes([len(name)]) * 4096
            handle = connect(uri)
            handle.pwrite(content, MIB)
            if handle.pread(4096, MIB) != content:
                raise Failed("the volume attached after the takeover reads something else")
            handle.shutdown()
            daemon.process.terminate()
            daemon.process.wait()
            scene.note(f"attached and resized after {seconds:.1f} s")
            if seconds > TAKEOVER_SECONDS_MAX:
                raise Failed("the takeover took too long")

        if states() != ["leads", "stands by"]:
            raise Failed(f"at first the metadata servers are {states()}")
        scene.kill([first])
        use("after")
        if states() != ["silent", "leads"] or not cluster.status()["warnings"]:
            raise Failed(f"after the takeover the metadata servers are {states()}")
        scene.start([first])
        if states() != ["stands by", "leads"]:
            raise Failed(f"started again, the metadata servers are {states()}")
        # One that stands still holds the database; nobody may write beside it.
        scene.stop([second])
        time.sleep(STOP_SECONDS)
        cluster.curve("volume", "list", status=1, says="which holds the database")
        scene.kill([second])
        use("back-again")
        scene.start([second])
        eventually(5, lambda: states() == ["leads", "stands by"], "the second one does not stand by")
        time.sleep(AFTERMATH_SECONDS)
        return scene.finish()


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
