import BlockTypes
import Environment
import Simulation

/// One thing that goes wrong in a run and could be left out of it.
public enum PlannedFault: Hashable, Sendable, CustomStringConvertible {
    /// What the nemesis does, counted from 0.
    case deed(Int)
    /// What people do with volumes, counted from 0.
    case act(Int)
    /// What goes wrong now and then.
    case rate(FaultRate)

    /// `deed:3`; see ``init(_:)``.
    public var description: String {
        switch self {
        case .deed(let number): "deed:\(number)"
        case .act(let number): "act:\(number)"
        case .rate(let rate): "rate:\(rate.rawValue)"
        }
    }
    /// What ``description`` says.
    public init?(_ text: some StringProtocol) {
        let parts = text.split(separator: ":", maxSplits: 1)
        guard parts.count == 2 else { return nil }
        switch (parts[0], Int(parts[1])) {
        case ("deed", let number?): self = .deed(number)
        case ("act", let number?): self = .act(number)
        case ("rate", _):
            guard let rate = FaultRate(rawValue: String(parts[1])) else { return nil }
            self = .rate(rate)
        default: return nil
        }
    }
}

/// What goes wrong now and then, by chance.
public enum FaultRate: String, CaseIterable, Sendable {
    case slowNetwork = "slow network"
    case networkSpikes = "bursts held up"
    case resets = "connections reset"
    case flippedBits = "flipped bits"
    case choppedDeliveries = "deliveries in pieces"
    case narrowLinks = "narrow links"
    case smallWindows = "small windows"
    case slowDisks = "slow disks"
    case diskSpikes = "disk requests held up"
    case clockDrift = "clocks that drift"
    case lateTimers = "late timers"
    case damage = "a disk that damages"
    case writeErrors = "writes that fail"
    case metadata = "trouble of the metadata store"

    /// Takes it away.
    func remove(from faults: inout SimFaults) {
        switch self {
        case .slowNetwork:
            faults.network.latencyMin = SimNetworkFaults.none.latencyMin
            faults.network.latencyJitter = SimNetworkFaults.none.latencyJitter
        case .networkSpikes: faults.network.spikeOneIn = 0
        case .resets: faults.network.resetOneIn = 0
        case .flippedBits: faults.network.flippedBitOneIn = 0
        case .choppedDeliveries: faults.network.choppedOneIn = 0
        case .narrowLinks:
            faults.network.bandwidthBytesPerSecond = SimNetworkFaults.none.bandwidthBytesPerSecond
        case .smallWindows: faults.network.windowBytes = SimNetworkFaults.none.windowBytes
        case .slowDisks:
            faults.disk.latencyMin = SimDiskFaults.none.latencyMin
            faults.disk.latencyJitter = SimDiskFaults.none.latencyJitter
        case .diskSpikes: faults.disk.spikeOneIn = 0
        case .clockDrift: faults.clockDriftMillionthsMax = 0
        case .lateTimers: faults.timerLatenessMax = .zero
        case .damage, .writeErrors, .metadata: break
        }
    }
    /// True when it is there to be taken away.
    func isIn(_ faults: SimFaults) -> Bool {
        switch self {
        case .slowNetwork: faults.network.latencyJitter != SimNetworkFaults.none.latencyJitter
        case .networkSpikes: faults.network.spikeOneIn > 0
        case .resets: faults.network.resetOneIn > 0
        case .flippedBits: faults.network.flippedBitOneIn > 0
        case .choppedDeliveries: faults.network.choppedOneIn > 0
        case .narrowLinks:
            faults.network.bandwidthBytesPerSecond != SimNetworkFaults.none.bandwidthBytesPerSecond
        case .smallWindows: faults.network.windowBytes != SimNetworkFaults.none.windowBytes
        case .slowDisks: faults.disk.latencyJitter != SimDiskFaults.none.latencyJitter
        case .diskSpikes: faults.disk.spikeOneIn > 0
        case .clockDrift: faults.clockDriftMillionthsMax > 0
        case .lateTimers: faults.timerLatenessMax > .zero
        case .damage, .writeErrors, .metadata: false
        }
    }
}

/// Which part of a plan is carried out.
public struct PlanSelection: Sendable {
    /// Nothing else goes wrong; `nil`: everything that the seed brings.
    public var kept: Set<PlannedFault>?  // Looked up, never iterated.
    /// Clients ask for no more than this in all.
    public var operationsMax = Int.max
    /// All of it.
    public init() {}
    /// Only this.
    public init(kept: Set<PlannedFault>?, operationsMax: Int = .max) {
        (self.kept, self.operationsMax) = (kept, operationsMax)
    }
    func includes(_ fault: PlannedFault) -> Bool { kept?.contains(fault) ?? true }
}

/// Something that was done to a run on purpose, for a person to read.
public struct ScenarioEvent: Sendable {
    /// Which part of the plan.
    public var fault: PlannedFault
    /// True time since the world began.
    public var at: Duration
    /// What, to whom, for how long.
    public var what: String
    /// Such an event.
    public init(fault: PlannedFault, at: Duration, what: String) {
        (self.fault, self.at, self.what) = (fault, at, what)
    }
}

/// Chooses what is done to a run, one thing after the other.
///
/// Each has chance of its own, drawn from the seed and its number alone: where some are left out, the others
/// are the same.
struct DeedDice {
    private let seed: UInt64
    private(set) var number = -1
    private(set) var random: SeededRandom
    /// What was drawn for the present one, in words.
    private(set) var details: [String] = []

    init(seed: UInt64) { (self.seed, random) = (seed, SeededRandom(seed: seed)) }

    /// On to the next.
    mutating func advance() {
        number += 1
        random = SeededRandom(seed: seed &+ UInt64(number + 1) &* 0x9E37_79B9_7F4A_7C15)
        details = []
    }
    mutating func pick(_ range: Range<Int>) -> Int { Int.random(in: range, using: &random) }
    mutating func oneIn(_ n: Int) -> Bool { random.oneIn(n) }
    /// One of `choices`, which are not empty.
    mutating func pick<T>(_ choices: [T]) -> T { choices[pick(0..<choices.count)] }
    mutating func time(upTo milliseconds: Int) -> Duration {
        let time = Int.random(in: 1...max(1, milliseconds), using: &random)
        details.append("\(time) ms")
        return .milliseconds(time)
    }
    mutating func note(_ what: String) { details.append(what) }
}
