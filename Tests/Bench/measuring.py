"""What every bench needs: CPU time of processes, fio, medians."""
import json, os, shutil, signal, statistics, subprocess, sys, time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TICKS = os.sysconf("SC_CLK_TCK")
CPU_CLOCK_OF_PROCESS = 2  # CPUCLOCK_SCHED: nanoseconds, of threads that have ended too.


class Row:
    """What fio is to do. `depth` is what all connections have in flight together."""

    def __init__(self, rw, block, depth, connections=1, pinned=False):
        self.rw, self.block, self.depth = rw, block, depth
        self.connections, self.pinned = connections, pinned

    @property
    def writes(self):
        return "write" in self.rw


def end_with_signal():
    """A running fio, and what else was started, ends with us."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))


def need_fio():
    if shutil.which("fio") is None:
        sys.exit("bench: fio is missing; run tools/setup --tests")


def cpu_seconds(pid):
    """User and system time of a process and all its threads, those included that have ended."""
    try:
        return time.clock_gettime((~pid << 3) | CPU_CLOCK_OF_PROCESS)
    except OSError:
        sys.exit(f"bench: process {pid} has ended; a measurement across that means nothing")


def machine_seconds():
    """CPU seconds that everything on this machine has used."""
    with open("/proc/stat") as file:
        fields = list(map(int, file.readline().split()[1:9]))
    return (sum(fields) - fields[3] - fields[4] - fields[7]) / TICKS


def own_seconds():
    """CPU seconds of this process and of the children that have ended."""
    now = os.times()
    return now.user + now.system + now.children_user + now.children_system


class OthersMeter:
    """How busy others kept the machine meanwhile."""

    def __init__(self, daemons):
        self.daemons = daemons
        self.start, self.busy, self.ours = time.monotonic(), machine_seconds(), self._ours()

    def _ours(self):
        return own_seconds() + sum(map(cpu_seconds, self.daemons))

    def percent_of_one_cpu(self):
        others = machine_seconds() - self.busy - (self._ours() - self.ours)
        return max(0, others) / (time.monotonic() - self.start) * 100


def run_fio(what, arguments, folder, pinned=False):
    """Runs it where nothing stays: some of its engines leave state files behind when they are interrupted."""
    pin = ["taskset", "-c", str(PINNED_CPU)] if pinned else []
    run = subprocess.run([*pin, "fio", *arguments], capture_output=True, text=True, cwd=folder)
    if run.returncode != 0:
        sys.exit(f"bench: fio failed {what}:\n{run.stdout}{run.stderr}")
    return run.stdout


PINNED_CPU = max(os.sched_getaffinity(0))


def pin(pid, pinned):
    """Puts a process, and every thread that it will start, on one CPU, or lets it roam."""
    where = {PINNED_CPU} if pinned else os.sched_getaffinity(0)
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            os.sched_setaffinity(int(thread), where)
        except ProcessLookupError:
            pass  # It has just ended.


def fio(name, row, seconds, size, target, folder):
    """One row: what fio says of it."""
    output = run_fio(f"in row {name}", [
        "--name=bench", f"--rw={row.rw}", f"--bs={row.block}", f"--iodepth={row.depth // row.connections}",
        f"--size={size}", "--time_based", f"--runtime={seconds}", "--output-format=json", "--randrepeat=0",
        *(["--norandommap"] if row.connections > 1 else []),
        *([f"--numjobs={row.connections}", "--group_reporting"] if row.connections > 1 else []), *target],
        folder, row.pinned)
    return fio_result(name, output, row.writes, seconds)


def fio_result(name, output, writes, seconds):
    """What matters of fio's JSON, in front of which it may have warned of something."""
    job = json.loads(output[output.index("{"):])["jobs"][0]
    side = job["write" if writes else "read"]
    percentiles = side["clat_ns"].get("percentile")
    if not percentiles:
        sys.exit(f"bench: not one answer in row {name} within {seconds} s")
    return {"ios": side["total_ios"], "bytes": side["io_bytes"], "iops": side["iops"],
            "megabytesPerSecond": side["bw_bytes"] / 1e6,
            "p50Microseconds": percentiles["50.000000"] / 1e3,
            "p99Microseconds": percentiles["99.000000"] / 1e3}


def medians(collected, measures):
    """Of {(row, subject): [round, ...]} one line for each."""
    lines = []
    for (row, subject), rounds in collected.items():
        line = {"row": row, "subject": subject}
        for key in measures:
            values = [r[key] for r in rounds if r.get(key) is not None]
            line[key] = round(statistics.median(values), 3) if values else None
        lines.append(line)
    return lines


def inside_playground(program, size, arguments, data=None):
    """Becomes `tools/run` around `program`: whoever ends this process, ends the cluster, and takes its files away."""
    environment = dict(os.environ)
    if data:
        environment["TMPDIR"] = os.path.abspath(data)
    run = [ROOT + "/tools/run", "--prewritten", "--size", size.upper(), "--", sys.executable,
           os.path.abspath(program), *arguments]
    sys.stdout.flush()
    os.execve(run[0], run, environment)


def playground_members():
    with open(os.environ["CURVE_PLAYGROUND"] + "/playground.json") as file:
        return json.load(file)["members"]
