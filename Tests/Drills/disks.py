"""Drills on disks and on the MDS's database."""
import contextlib, mmap, os, shutil, subprocess, tempfile, time
from cluster import MIB, NBD, connect, eventually, run
from scene import Failed, Scene, Skipped

MARKED_OFFSET = 512 * MIB
BLKIO = "/sys/fs/cgroup/blkio"


@contextlib.contextmanager
def throttled(pid, device, writes_per_second):
    """The process's writes to the device are limited by the blkio controller (cgroup v1)."""
    group = tempfile.mkdtemp(prefix="curve-drill-", dir=BLKIO)
    try:
        with open(group + "/blkio.throttle.write_iops_device", "w") as file:
            file.write(f"{device} {writes_per_second}")
        with open(group + "/cgroup.procs", "w") as file:
            file.write(str(pid))
        yield
    finally:
        with open(group + "/cgroup.procs") as file:
            for member in file.read().split():
                with open(BLKIO + "/cgroup.procs", "w") as home:
                    home.write(member)
        os.rmdir(group)


@contextlib.contextmanager
def small_disk(mib):
    """A file system of its own on a loop device, in a folder."""
    folder = tempfile.mkdtemp(prefix="curve-drill-")
    mounted = False
    try:
        with open(folder + "/image", "wb") as file:
            file.truncate(mib * MIB)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", folder + "/image"], check=True)
        os.mkdir(folder + "/disk")
        tried = subprocess.run(["mount", "-o", "loop", folder + "/image", folder + "/disk"], capture_output=True, text=True)
        if tried.returncode != 0:
            raise Skipped("no loop devices: " + tried.stderr.strip())
        mounted = True
        yield folder + "/disk"
    finally:
        if mounted:
            subprocess.run(["umount", "-l", folder + "/disk"], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def slow_disk(seed):
    """the disk of a chunkserver that leads nothing does 40 writes a second (cgroup blkio) for 15 s"""
    if not os.access(BLKIO, os.W_OK) or not os.path.exists(BLKIO + "/blkio.throttle.write_iops_device"):
        raise Skipped("no blkio controller (cgroup v1) that may be written")
    if os.geteuid() != 0:
        raise Skipped("mounting needs root")
    with contextlib.ExitStack() as disks:
        # File systems of their own. Stores that share one wait for each other inside of it: inodes that lie in one block of
        # the disk are written together, and who syncs its inode waits until the throttled writes before it are done.
        folders = [disks.enter_context(small_disk(3072)) for _ in range(3)]
        with Scene(seed, store_folders=folders) as scene:
            server = scene.follower()
            number = os.stat(scene.cluster.stores[server]).st_dev
            device = f"{os.major(number)}:{os.minor(number)}"
            try:
                with throttled(scene.chunkserver(server).process.pid, device, 40):
                    time.sleep(15)
            except OSError as error:
                raise Skipped(f"the blkio controller refuses device {device}: {error}")
            return scene.finish()


def filled(seed, whose):
    """The file system below one lazily grown store is filled by somebody else, then has room again."""
    if os.geteuid() != 0:
        raise Skipped("mounting needs root")
    with contextlib.ExitStack() as disks:
        folders = [disks.enter_context(small_disk(3072)) for _ in range(3)]
        with Scene(seed, store_folders=folders) as scene:
            server = whose(scene)
            disk = folders[server]
            free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
            with open(disk + "/somebody-else", "wb") as file:
                os.posix_fallocate(file.fileno(), 0, free - 2 * MIB)
            # Without new data on it the store would not notice.
            written = scene.grow(FULL_SECONDS)
            scene.note(f"{written} MiB of new data meanwhile")
            if not scene.chunkserver(server).alive():
                scene.note("the chunkserver whose file system is full ended")
            os.unlink(disk + "/somebody-else")
            if not scene.chunkserver(server).alive():
                scene.start([scene.chunkserver(server)])
            return scene.finish()


FULL_SECONDS = 10


def full_disk(seed):
    """the file system below the lazily grown store of the leader is full for 10 s"""
    return filled(seed, Scene.leader)


def full_disk_follower(seed):
    """the same for a store that leads nothing"""
    return filled(seed, Scene.follower)


def find_block(path, content):
    """Where a file holds exactly this block, holes passed over."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        position = 0
        while position < size:
            try:
                start = os.lseek(file.fileno(), position, os.SEEK_DATA)
            except OSError:
                return None
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            base = start - start % mmap.ALLOCATIONGRANULARITY
            with mmap.mmap(file.fileno(), end - base, offset=base, access=mmap.ACCESS_READ) as window:
                found = window.find(content)
            if found >= 0:
                return base + found
            position = end
    return None


def bit_flip(seed):
    """a bit of a stored block turns over under load: the read is right, the copy is mended, status says so"""
    with Scene(seed) as scene:
        handle, content = connect(scene.uri), os.urandom(4096)
        handle.pwrite(content, MARKED_OFFSET)
        store = scene.cluster.stores[scene.leader()]
        place = find_block(store, content)
        if place is None:
            raise Failed("the block is not in the leader's store")
        with open(store, "r+b") as file:
            file.seek(place + 1000)
            file.write(bytes([content[1000] ^ 4]))
            file.flush()
            os.fsync(file.fileno())
        for _ in range(3):
            if handle.pread(4096, MARKED_OFFSET) != content:
                raise Failed("a damaged block was handed out")
        eventually(10, lambda: find_block(store, content) is not None, "the damaged copy was not mended")
        eventually(5, lambda: any(server["mendedBlocks"] for server in scene.cluster.status()["servers"]),
                   "status says nothing of the mended block")
        return scene.finish()


WENT_BACK = "older than what chunkservers"


def mds_restore(seed):
    """an older backup of the MDS's database is put back: holders go on, nothing is given before an operator agrees"""
    with Scene(seed) as scene:
        cluster, content = scene.cluster, os.urandom(4096)
        folder, backup = cluster.folder + "/mds", cluster.folder + "/backup"

        def is_in(state):
            return cluster.status()["database"]["state"] == state

        # The files of one moment, as a snapshot of the file system would have them.
        scene.stop([cluster.mds])
        shutil.copytree(folder, backup)
        scene.go_on([cluster.mds])
        cluster.curve("volume", "create", "younger", "--size", "64M")
        younger, uri = cluster.serve_volume("younger", socket_name="younger")
        younger.ready()
        handle = connect(uri)
        handle.pwrite(content, 0)
        cluster.curve("volume", "resize", "v", "--size", "2G")
        time.sleep(5)  # The holder hears of it when it renews, chunkservers of everything with a heartbeat.
        scene.kill([cluster.mds])
        shutil.rmtree(folder)
        time.sleep(2)
        shutil.copytree(backup, folder)
        scene.start([cluster.mds])
        eventually(10, lambda: is_in("went back"), "the older database was not noticed")
        cluster.curve("volume", "create", "new", "--size", "64M", status=2, says=WENT_BACK)
        taker = [NBD, "serve", "v", "--mds", cluster.address, "--listen", f"unix:{cluster.folder}/taker.sock",
                 "--takeover"]
        run(taker, status=2, says=WENT_BACK)
        if handle.pread(4096, 0) != content:
            raise Failed("the holder of a volume that the database does not know reads something else")
        cluster.curve("mds", "adopt", says="volume 1, /v, has 2 GiB")
        # It counts once a majority of the chunkservers has spoken to this MDS; the leaders alone were enough to adopt.
        eventually(10, lambda: is_in("current"), "the database was adopted and still does not count")
        cluster.curve("volume", "create", "new", "--size", "64M")
        handle.pwrite(content, MIB)
        result = scene.finish()
        scene.kill([scene.gateway])
        again, uri = cluster.serve_volume("v", "--takeover", socket_name="taker")
        again.ready()
        size = connect(uri).get_size()
        if size != 2048 * MIB:
            result.update(ok=False, note=f"after the adoption the volume has {size} bytes")
        return result
