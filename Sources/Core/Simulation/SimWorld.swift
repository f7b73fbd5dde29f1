import BlockTypes
import Environment

/// A seeded world: machines, processes, a network, disks and clocks that fail on purpose, on one thread.
///
/// Everything that happens goes through one queue ordered by (true time, order of scheduling), and every
/// choice comes from one seeded source. The same seed and the same calls give the same run, byte by byte.
public final class SimWorld {
    /// What the run depends on.
    public let seed: UInt64
    /// What goes wrong; may be changed while the world runs.
    public var faults: SimFaults { didSet { notePaces() } }
    /// The durations of `faults` as numbers: they are asked for at every step.
    private(set) var networkPace = SimPace(SimNetworkFaults.none)
    private(set) var timerLatenessNanosecondsMax: Int64 = 0
    /// What happened.
    public private(set) var trace: SimTrace
    /// Hears all that is sent when it is sent: which stream, from which machine to which, and the bytes.
    public var wiretap: ((ObjectIdentifier, _ from: String, _ to: String, SendPiece) -> Void)?
    /// Chance, for the world and for tests that want theirs to depend on the same seed.
    public var random: SeededRandom
    /// Happenings performed so far.
    public private(set) var stepCount: UInt64 = 0
    /// Bytes that handlers received so far.
    public internal(set) var deliveredByteCount: UInt64 = 0

    private(set) var nowNanoseconds: Int64 = 0
    private var queue = HappeningQueue()
    private var machines: [String: SimMachine] = [:]
    private var hosts: [SimHost] = []
    private var isStepping = false
    private var isOver = false
    private var nextNumber: UInt64 = 1
    /// Where bytes land that no handler gave a window for.
    let staging = BlockBuffer(byteCount: SimWorld.stagingBytes)
    /// As much as one receive of the real reactor takes.
    static let stagingBytes = 64 << 10

    /// - Parameter traceLinesMax: lines of the trace that are kept, for a person to read.
    public init(seed: UInt64, faults: SimFaults = .none, traceLinesMax: Int = 0) {
        (self.seed, self.faults) = (seed, faults)
        trace = SimTrace(linesMax: traceLinesMax)
        random = SeededRandom(seed: seed)
        notePaces()
    }
    private func notePaces() {
        networkPace = SimPace(faults.network)
        timerLatenessNanosecondsMax = faults.timerLatenessMax.wholeNanoseconds
    }

    /// True time since the world began. Processes see only their own clocks.
    public var trueNow: Duration { .nanoseconds(nowNanoseconds) }

    /// Starts a process on a machine, which is made, or switched on again, if need be.
    public func startHost(on machineName: String) -> SimHost {
        let machine = machine(machineName)
        machine.isUp = true
        let host = SimHost(world: self, machine: machine, number: takeNumber(), seed: random.next())
        hosts.append(host)
        note { "\(machineName): process \(host.number) starts" }
        return host
    }
    /// Does `action` later, as an act of nature: no crash or pause of a host holds it up.
    public func after(_ delay: Duration, _ action: @escaping () -> Void) {
        schedule(afterNanoseconds: delay.wholeNanoseconds, owner: nil, action)
    }

    // MARK: Running

    /// Performs the next happening.
    /// - Returns: false when nothing will ever happen again.
    @discardableResult public func step() -> Bool {
        invariant(!isStepping, "a callback may not run the world")
        guard let due = queue.nextDueNanoseconds else { return false }
        nowNanoseconds = max(nowNanoseconds, due)
        guard let taken = queue.takeNext() else { return true }
        if let owner = taken.owner {
            guard owner.isAlive else {
                cancel(taken.name)
                return true
            }
            if owner.isPaused {
                owner.hold(taken.name)
                return true
            }
        }
        guard let (action, _) = queue.finish(taken.name) else { return true }
        stepCount += 1
        trace.mix(UInt64(bitPattern: nowNanoseconds))
        trace.mix(taken.owner?.number ?? 0)
        isStepping = true
        action()
        isStepping = false
        return true
    }
    /// Runs until `duration` of true time has passed.
    public func run(for duration: Duration) {
        let end = nowNanoseconds + duration.wholeNanoseconds
        while let due = queue.nextDueNanoseconds, due <= end { step() }
        nowNanoseconds = max(nowNanoseconds, end)
    }
    /// Runs until `condition` holds.
    /// - Returns: false when `limit` of true time has passed, or the world has ended, without it.
    public func run(within limit: Duration, until condition: () -> Bool) -> Bool {
        let end = nowNanoseconds + limit.wholeNanoseconds
        while !condition() {
            guard let due = queue.nextDueNanoseconds, due <= end else { return false }
            step()
        }
        return true
    }
    /// Ends everything and forgets all callbacks, so that no cycle of references outlives the world.
    public func end() {
        for host in hosts where host.isAlive { host.crash() }
        for host in hosts { host.forgetEverything() }
        machines.removeAll()
        // Whoever goes with the last reference may still cancel a timer, and nothing is dropped while it
        // changes; or plan something, which would hold the world for ever.
        isOver = true
        let (everything, everybody) = (queue, hosts)
        (queue, hosts) = (HappeningQueue(), [])
        withExtendedLifetime((everything, everybody)) {}
    }

    // MARK: The network between machines

    /// Stops everything that `from` sends to `to`; the other direction goes on. Streams wait, as TCP does.
    public func block(from: String, to: String) {
        machine(from).blockedTo.insert(machine(to).number)
        note { "network: \(from) -> \(to) blocked" }
    }
    /// Lets `from` reach `to` again.
    public func unblock(from: String, to: String) {
        machine(from).blockedTo.remove(machine(to).number)
        note { "network: \(from) -> \(to) open" }
    }
    /// Cuts a machine off from all others, both ways.
    public func isolate(_ name: String) {
        for other in machines.keys.sorted() where other != name {
            block(from: name, to: other)
            block(from: other, to: name)
        }
    }
    /// Makes what `from` sends to `to` take this much longer.
    public func slow(from: String, to: String, by extra: Duration) {
        machine(from).extraNanosecondsTo[machine(to).number] = extra.wholeNanoseconds
        note { "network: \(from) -> \(to) slower by \(extra)" }
    }
    /// Opens every direction and takes all slowness away.
    public func healNetwork() {
        for name in machines.keys.sorted() {
            machines[name]?.blockedTo.removeAll()
            machines[name]?.extraNanosecondsTo.removeAll()
        }
        note { "network: healed" }
    }

    // MARK: Inside

    @discardableResult func schedule(
        afterNanoseconds delay: Int64, owner: SimHost?, _ action: @escaping () -> Void
    ) -> HappeningQueue.Name {
        if isOver { return HappeningQueue.Name(slot: .max, generation: 0) }
        return queue.add(dueNanoseconds: nowNanoseconds + max(delay, 0), owner: owner, action)
    }
    func cancel(_ name: HappeningQueue.Name) {
        // Dropped only when the queue is at rest: with the last reference something may end that plans more.
        let dropped = queue.finish(name)
        withExtendedLifetime(dropped) {}
    }
    func putBack(_ name: HappeningQueue.Name) { queue.putBack(name, dueNanoseconds: nowNanoseconds) }

    func takeNumber() -> UInt64 {
        defer { nextNumber += 1 }
        return nextNumber
    }
    func machine(_ name: String) -> SimMachine {
        if let known = machines[name] { return known }
        let limit = faults.clockDriftMillionthsMax
        let made = SimMachine(
            name: name, number: takeNumber(),
            driftMillionths: Int64(Int.random(in: -limit...limit, using: &random)),
            offsetNanoseconds: Int64.random(in: 0...1_000_000_000_000, using: &random))
        machines[name] = made
        return made
    }
    func knownMachine(_ name: String) -> SimMachine? { machines[name] }

    /// True once in `n` on average; never for 0.
    func chance(oneIn n: Int) -> Bool { n > 0 && random.oneIn(n) }
    func nanoseconds(upTo most: Int64) -> Int64 {
        most > 0 ? Int64.random(in: 0...most, using: &random) : 0
    }
    func mix(_ value: UInt64) { trace.mix(value) }
    /// Adds a line to the trace when somebody listens.
    public func note(_ line: () -> String) {
        guard trace.isListening else { return }
        trace.add("\(stamp) \(line())")
    }
    private var stamp: String {
        let microseconds = nowNanoseconds / 1000
        let fraction = String(microseconds % 1_000_000)
        let zeroes = String(repeating: "0", count: 6 - fraction.count)
        return "\(microseconds / 1_000_000).\(zeroes)\(fraction)"
    }
}

/// A machine of the world: its clock, its place in the network, who listens on it. Outlives its processes.
final class SimMachine {
    let name: String
    let number: UInt64
    /// Parts of a million by which its clock is too fast.
    let driftMillionths: Int64
    let offsetNanoseconds: Int64
    /// False while it is without power: nothing answers.
    var isUp = true
    /// Looked up, never iterated.
    var blockedTo: Set<UInt64> = []
    var extraNanosecondsTo: [UInt64: Int64] = [:]
    var listeners: [SocketAddress: SimListener] = [:]
    private var nextPort: UInt16 = 32_768

    init(name: String, number: UInt64, driftMillionths: Int64, offsetNanoseconds: Int64) {
        (self.name, self.number) = (name, number)
        (self.driftMillionths, self.offsetNanoseconds) = (driftMillionths, offsetNanoseconds)
    }
    func clockNanoseconds(trueNanoseconds: Int64) -> Int64 {
        offsetNanoseconds + trueNanoseconds + trueNanoseconds * driftMillionths / 1_000_000
    }
    /// True time in which this clock advances by at least `delay`.
    func trueNanoseconds(delay: Int64) -> Int64 {
        delay - delay * driftMillionths / (1_000_000 + driftMillionths) + 2
    }
    func takePort() -> UInt16 {
        defer { nextPort = nextPort == .max ? 32_768 : nextPort + 1 }
        return nextPort
    }
}

extension Duration {
    /// Nanoseconds, rounded down.
    var wholeNanoseconds: Int64 {
        let (seconds, attoseconds) = components
        return seconds * 1_000_000_000 + attoseconds / 1_000_000_000
    }
}
