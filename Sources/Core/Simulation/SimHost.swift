import BlockTypes
import Environment

/// One process of a world, as the shell inside it sees the world.
///
/// A restart is a new host on the same machine with the same ``SimDisk``.
public final class SimHost: Environment {
    let world: SimWorld
    let machine: SimMachine
    let number: UInt64
    private var chance: SeededRandom
    /// False after ``crash(downFor:)`` or ``kill()``; nothing of it runs any more.
    public private(set) var isAlive = true
    /// True while it is stopped: its clock and the world go on, it does nothing.
    public private(set) var isPaused = false
    private var held: [HappeningQueue.Name] = []
    /// Looked up by number; sorted where the order can be seen.
    private var connections: [UInt64: SimConnection] = [:]
    private var listeners: [UInt64: SimListener] = [:]
    private var disks: [SimDisk] = []
    private var wallSeconds: Int64 = 1_750_000_000
    /// What the clock showed at a moment: it is asked much more often than it moves.
    private var clockRead: (at: Int64, shown: Duration) = (-1, .zero)

    init(world: SimWorld, machine: SimMachine, number: UInt64, seed: UInt64) {
        (self.world, self.machine, self.number) = (world, machine, number)
        chance = SeededRandom(seed: seed)
    }

    /// The machine it runs on; also its host name in the network.
    public var machineName: String { machine.name }

    // MARK: Environment

    /// The machine's own clock.
    public var now: Duration {
        if clockRead.at != world.nowNanoseconds {
            let shown = machine.clockNanoseconds(trueNanoseconds: world.nowNanoseconds)
            clockRead = (world.nowNanoseconds, .nanoseconds(shown))
        }
        return clockRead.shown
    }
    /// Wall time, as wrong as ``jumpWallClock(bySeconds:)`` made it.
    public var secondsSince1970: UInt64 {
        UInt64(max(0, wallSeconds + world.nowNanoseconds / 1_000_000_000))
    }
    /// 64 bits that depend on the world's seed.
    public func random() -> UInt64 { chance.next() }
    /// Runs `action` when this machine's clock says so, or a little later.
    @discardableResult public func after(_ delay: Duration, _ action: @escaping () -> Void) -> TimerID {
        // The end of a turn is the most frequent timer.
        let wanted =
            delay == .zero ? 0 : min(max(delay.wholeNanoseconds, 0), Self.timerNanosecondsMax)
        let late = world.nanoseconds(upTo: world.timerLatenessNanosecondsMax)
        let name = world.schedule(
            afterNanoseconds: machine.trueNanoseconds(delay: wanted) + late, owner: self, action)
        return TimerID(rawValue: UInt64(name.slot) << 32 | UInt64(name.generation))
    }
    /// Forgets a timer.
    public func cancel(_ timer: TimerID) {
        world.cancel(
            .init(
                slot: UInt32(truncatingIfNeeded: timer.rawValue >> 32),
                generation: UInt32(truncatingIfNeeded: timer.rawValue)))
    }
    /// Listens on this machine; port 0 lets the world choose.
    public func listen(
        on address: SocketAddress, accepted: @escaping (any Connection) -> Void
    ) throws(NetworkError) -> any Listener {
        let key = listeningKey(address)
        guard isAlive else { throw .closedHere }
        guard machine.listeners[key] == nil else { throw .addressInUse(address) }
        let listener = SimListener(host: self, number: world.takeNumber(), key: key, accepted: accepted)
        machine.listeners[key] = listener
        listeners[listener.number] = listener
        world.note { "\(self): listens on \(key)" }
        return listener
    }
    /// Connects through the simulated network.
    public func connect(
        to address: SocketAddress, timeout: Duration,
        completed: @escaping (Result<any Connection, NetworkError>) -> Void
    ) {
        let (target, key) = destination(address)
        SimDial(from: self, to: target, key: key, address: address, timeout: timeout, completed: completed)
            .start()
    }
    /// A line of the trace.
    public func log(_ level: LogLevel, _ message: @autoclosure () -> String) {
        world.note { "\(self): \(level): \(message())" }
    }

    // MARK: Fate

    /// The machine loses power: timers, connections and listeners vanish without a word, its disks lose
    /// what was not flushed. For `downFor` nothing answers; then the machine is up with no process on it.
    public func crash(downFor: Duration = .zero) {
        guard isAlive else { return }
        world.note { "\(self): power loss" }
        die()
        for number in connections.keys.sorted() { connections[number]?.vanish() }
        connections.removeAll()
        for disk in disks { disk.losePower() }
        disks.removeAll()
        dropHeld()
        guard downFor > .zero else { return }
        machine.isUp = false
        let machine = machine
        world.after(downFor) { machine.isUp = true }
    }
    /// Only the process dies: its machine closes the sockets, and its disks lose nothing.
    public func kill() {
        guard isAlive else { return }
        world.note { "\(self): killed" }
        die()
        for number in connections.keys.sorted() { connections[number]?.closedByKernel() }
        connections.removeAll()
        for disk in disks { disk.ownerDied() }
        disks.removeAll()
        dropHeld()
    }
    /// Stops the process, as SIGSTOP or a stalled virtual machine does; it goes on by itself afterwards.
    public func pause(for duration: Duration) {
        guard isAlive, !isPaused else { return }
        pause()
        world.after(duration) { self.resume() }
    }
    /// Stops the process until ``resume()``.
    public func pause() {
        guard isAlive, !isPaused else { return }
        isPaused = true
        world.note { "\(self): paused" }
    }
    /// Lets a paused process go on: what was due meanwhile happens now, in its order.
    public func resume() {
        guard isPaused else { return }
        isPaused = false
        world.note { "\(self): resumes" }
        for name in held { world.putBack(name) }
        held.removeAll()
    }
    /// Sets the wall clock forward or back.
    public func jumpWallClock(bySeconds seconds: Int64) { wallSeconds += seconds }

    // MARK: Inside

    /// Longest timer: keeps the arithmetic of drifting clocks inside 64 bits.
    private static let timerNanosecondsMax: Int64 = 86_400_000_000_000

    private func die() {
        isAlive = false
        isPaused = false
        for number in listeners.keys.sorted() { listeners[number]?.close() }
        listeners.removeAll()
    }
    /// Last of all: what ends with what was planned finds its connections gone, and can say nothing.
    private func dropHeld() {
        let names = held
        held.removeAll()
        for name in names { world.cancel(name) }
    }
    func hold(_ name: HappeningQueue.Name) { held.append(name) }
    func own(_ connection: SimConnection) { connections[connection.number] = connection }
    func disown(_ connection: SimConnection) { connections[connection.number] = nil }
    func disown(_ listener: SimListener) { listeners[listener.number] = nil }
    func own(_ disk: SimDisk) { disks.append(disk) }
    func disown(_ disk: SimDisk) { disks.removeAll { $0 === disk } }
    func forgetEverything() {
        connections.removeAll()
        listeners.removeAll()
        disks.removeAll()
    }

    /// Calls back as soon as this process runs, never from inside what it does now.
    func schedule(afterNanoseconds delay: Int64 = 0, _ action: @escaping () -> Void) {
        world.schedule(afterNanoseconds: delay, owner: self, action)
    }

    private func listeningKey(_ address: SocketAddress) -> SocketAddress {
        guard case .tcp(_, let port) = address else { return address }
        return .tcp(host: machine.name, port: port == 0 ? machine.takePort() : port)
    }
    private func destination(_ address: SocketAddress) -> (SimMachine?, SocketAddress) {
        guard case .tcp(let host, let port) = address else { return (machine, address) }
        if ["localhost", "127.0.0.1", "::1"].contains(host) {
            return (machine, .tcp(host: machine.name, port: port))
        }
        return (world.knownMachine(host), address)
    }
}

extension SimHost: CustomStringConvertible {
    /// `machine#process`.
    public var description: String { "\(machine.name)#\(number)" }
}

extension SimHost {
    /// Adds a line of this process to the trace when somebody listens.
    public func traceLine(_ line: () -> String) { world.note { "\(self): \(line())" } }
}
