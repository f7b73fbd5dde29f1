"""Machines made of network namespaces: one for each chunkserver, and a hub for everybody else.

Everything hangs on processes that hold the namespaces; when they end, nothing is left. Needs root.
"""
import os, subprocess, time

NETWORK = "10.77.0."


def available():
    """Why wires cannot be had here, or None."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    tried = subprocess.run(["unshare", "-n", "ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1"],
                           capture_output=True, text=True)
    return None if tried.returncode == 0 else "no veth devices: " + tried.stderr.strip()


class Namespace:
    def __init__(self):
        self.holder = subprocess.Popen(["unshare", "-n", "--", "sleep", "infinity"], stdin=subprocess.DEVNULL)
        ours = os.readlink("/proc/self/ns/net")
        while os.readlink(f"/proc/{self.holder.pid}/ns/net") == ours:
            time.sleep(0.01)
        self.prefix = ["nsenter", "-t", str(self.holder.pid), "-n", "--"]
        self.ip("link set lo up")

    def ip(self, words):
        subprocess.run([*self.prefix, "ip", *words.split()], check=True)

    def close(self):
        self.holder.kill()
        self.holder.wait()


class Wires:
    hub_address = NETWORK + "1"

    def __init__(self, servers=3):
        self.hub = Namespace()
        self.machines = [Namespace() for _ in range(servers)]
        self.cables = {}
        # An address of its own: a bridge that is not told one takes a port's, and changes it when that port leaves,
        # which nobody notices for a second or so.
        self.hub.ip("link add br0 address 02:00:00:00:00:01 type bridge")
        self.hub.ip(f"addr add {self.hub_address}/24 dev br0")
        self.hub.ip("link set br0 up")
        for index, machine in enumerate(self.machines):
            self.hub.ip(f"link add v{index} type veth peer name eth0 netns {machine.holder.pid}")
            self.hub.ip(f"link set v{index} master br0 up")
            machine.ip(f"addr add {self.address(index)}/24 dev eth0")
            machine.ip("link set eth0 up")

    def inside(self, server):
        return (self.hub if server is None else self.machines[server]).prefix

    def address(self, server):
        return NETWORK + str(11 + server)

    def cut(self, server):
        """The machine is there, its packets are not."""
        self.hub.ip(f"link set v{server} nomaster")

    def join(self, server):
        self.hub.ip(f"link set v{server} master br0")

    def mute(self, server):
        """What the machine sends is lost; it still hears the others."""
        for address in [self.hub_address, *(self.address(other) for other in range(len(self.machines)))]:
            if address != self.address(server):
                self.machines[server].ip(f"neigh replace {address} lladdr 02:00:00:00:0b:ad dev eth0 nud permanent")

    def unmute(self, server):
        self.machines[server].ip("neigh flush all nud permanent")

    def deafen(self, server):
        """What is sent to the machine is lost; the others still hear it."""
        for namespace, device in [(self.hub, "br0"), *((machine, "eth0") for machine in self.machines)]:
            if namespace is not self.machines[server]:
                namespace.ip(f"neigh replace {self.address(server)} lladdr 02:00:00:00:0b:ad dev {device} nud permanent")

    def undeafen(self):
        for namespace in [self.hub, *self.machines]:
            namespace.ip("neigh flush all nud permanent")

    def bad_cable(self, server, loss_percent=0.0, delay_milliseconds=0.0):
        """From here on a relay stands between the machine and the hub."""
        self.hub.ip(f"link add c{server} type veth peer name d{server}")
        self.hub.ip(f"link set d{server} master br0 up")
        self.hub.ip(f"link set c{server} up")
        relay = os.path.join(os.path.dirname(os.path.abspath(__file__)), "relay.py")
        self.cables[server] = subprocess.Popen(
            [*self.hub.prefix, "/usr/bin/python3", relay, f"v{server}", f"c{server}", str(loss_percent),
             str(delay_milliseconds)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.cables[server].stdout.readline()
        self.cut(server)
        self.cables[server].stdin.write(b"go\n")
        self.cables[server].stdin.flush()

    def good_cable(self, server):
        self.cables[server].kill()
        self.join(server)
        self.cables.pop(server).wait()
        self.hub.ip(f"link del c{server}")

    def close(self):
        for cable in self.cables.values():
            cable.kill()
            cable.wait()
        for namespace in [*self.machines, self.hub]:
            namespace.close()
