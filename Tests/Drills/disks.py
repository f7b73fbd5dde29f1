"""Drills on disks and on the MDS's database."""
import contextlib, mmap, os, shutil, subprocess, tempfile, time
from cluster import MIB, connect, eventually
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


def slow_disk(seed):
    """the disk of a chunkserver that leads nothing does 40 writes a second (cgroup blkio) for 15 s"""
    if not os.access(BLKIO, os.W_OK) or not os.path.exists(BLKIO + "/blkio.throttle.write_iops_device"):
        raise Skipped("no blkio controller (cgroup v1) that may be written")
    with Scene(seed) as scene:
        server = scene.follower()
        number = os.stat(scene.cluster.stores[server]).st_dev
        device = f"{os.major(number)}:{os.minor(number)}"
        try:
            with throttled(scene.chunkserver(server).process.pid, device, 40):
                time.sleep(15)
        except OSError as error:
            raise Skipped(f"the blkio controller refuses device {device}: {error}")
        return scene.finish()


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


def full_disk(seed):
    """the file system below a lazily grown store is filled by somebody else, then has room again"""
    if os.geteuid() != 0:
        raise Skipped("mounting needs root")
    with small_disk(3072) as disk, tempfile.TemporaryDirectory() as other:
        with Scene(seed, store_folders=[other, disk, other]) as scene:
            free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
            with open(disk + "/somebody-else", "wb") as file:
                os.posix_fallocate(file.fileno(), 0, free - 2 * MIB)
            time.sleep(10)
            if not scene.chunkserver(1).alive():
                scene.note("the chunkserver whose file system is full ended")
            os.unlink(disk + "/somebody-else")
            if not scene.chunkserver(1).alive():
                scene.start([scene.chunkserver(1)])
            return scene.finish()


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
        counted = sum(server["mendedBlocks"] for server in scene.cluster.status()["servers"])
        result = scene.finish()
        if not counted:
            result.update(ok=False, note="status says nothing of the damaged block")
        return result


def mds_restore(seed):
    """the MDS's database is lost and an older backup is restored"""
    with Scene(seed) as scene:
        folder = scene.cluster.folder + "/mds"
        backup = scene.cluster.folder + "/backup"
        # The files of one moment, as a snapshot of the file system would have them.
        scene.stop([scene.cluster.mds])
        shutil.copytree(folder, backup)
        scene.go_on([scene.cluster.mds])
        scene.cluster.curve("volume", "create", "younger", "--size", "64M")
        scene.kill([scene.cluster.mds])
        shutil.rmtree(folder)
        time.sleep(2)
        shutil.copytree(backup, folder)
        scene.start([scene.cluster.mds])
        return scene.finish()
