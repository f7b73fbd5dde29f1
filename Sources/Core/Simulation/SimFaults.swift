import BlockTypes

/// What goes wrong in a world, and how often. "One in" rates are per event; 0 switches a fault fully off.
public struct SimFaults: Sendable {
    /// Delays, resets and damage between machines.
    public var network: SimNetworkFaults
    /// What new disks suffer unless told otherwise.
    public var disk: SimDiskFaults
    /// Each machine's clock runs faster or slower by up to this many millionths.
    public var clockDriftMillionthsMax: Int
    /// A timer fires up to this much late.
    public var timerLatenessMax: Duration

    /// A friendly world: small delays, no faults.
    public static let none = SimFaults(
        network: .none, disk: .none, clockDriftMillionthsMax: 0, timerLatenessMax: .zero)
    /// A world with these faults.
    public init(
        network: SimNetworkFaults, disk: SimDiskFaults, clockDriftMillionthsMax: Int,
        timerLatenessMax: Duration
    ) {
        (self.network, self.disk) = (network, disk)
        (self.clockDriftMillionthsMax, self.timerLatenessMax) = (clockDriftMillionthsMax, timerLatenessMax)
    }
    /// Each fault off in about half of the worlds, mild to wild in the others, so that rare mixes appear.
    public static func swarm(_ random: inout SeededRandom) -> SimFaults {
        SimFaults(
            network: .swarm(&random), disk: .swarm(&random),
            clockDriftMillionthsMax: random.oneIn(2) ? 0 : 10_000,
            timerLatenessMax: .microseconds(random.oneIn(2) ? 0 : Int.random(in: 1...5_000, using: &random)))
    }
}

/// What a network does to byte streams. Inside one stream bytes never overtake each other.
public struct SimNetworkFaults: Sendable {
    /// Least one-way delay.
    public var latencyMin: Duration
    /// Evenly spread extra delay.
    public var latencyJitter: Duration
    /// One burst in so many is held up by up to ``spikeMax``.
    public var spikeOneIn: Int
    /// Longest hold-up; also stands for a lost and repeated packet.
    public var spikeMax: Duration
    /// One burst in so many is cut in the middle, and both ends of the connection learn of a reset.
    public var resetOneIn: Int
    /// One burst in so many has a bit flipped.
    public var flippedBitOneIn: Int
    /// One delivery in so many reaches its handler in pieces cut anywhere.
    public var choppedOneIn: Int
    /// Bytes each direction of a connection carries in a second.
    public var bandwidthBytesPerSecond: Int
    /// Bytes that may be on their way or unread in one direction; more waits in the sender's queue.
    public var windowBytes: Int
    /// A sender whose bytes did not get through for so long is told that the connection timed out.
    public var unansweredMax: Duration

    /// 50 to 100 microseconds, 10 Gbit/s, nothing breaks.
    public static let none = SimNetworkFaults(
        latencyMin: .microseconds(50), latencyJitter: .microseconds(50), spikeOneIn: 0,
        spikeMax: .zero, resetOneIn: 0, flippedBitOneIn: 0, choppedOneIn: 0,
        bandwidthBytesPerSecond: 1_250_000_000, windowBytes: 1 << 20, unansweredMax: .seconds(20))
    /// A network with these manners.
    public init(
        latencyMin: Duration, latencyJitter: Duration, spikeOneIn: Int, spikeMax: Duration, resetOneIn: Int,
        flippedBitOneIn: Int, choppedOneIn: Int, bandwidthBytesPerSecond: Int, windowBytes: Int,
        unansweredMax: Duration
    ) {
        (self.latencyMin, self.latencyJitter) = (latencyMin, latencyJitter)
        (self.spikeOneIn, self.spikeMax) = (spikeOneIn, spikeMax)
        (self.resetOneIn, self.flippedBitOneIn) = (resetOneIn, flippedBitOneIn)
        (self.choppedOneIn, self.bandwidthBytesPerSecond) = (choppedOneIn, bandwidthBytesPerSecond)
        (self.windowBytes, self.unansweredMax) = (windowBytes, unansweredMax)
    }
    /// Each fault off in about half of the networks.
    public static func swarm(_ random: inout SeededRandom) -> SimNetworkFaults {
        var faults = SimNetworkFaults.none
        func maybe(_ range: ClosedRange<Int>) -> Int {
            random.oneIn(2) ? 0 : Int.random(in: range, using: &random)
        }
        faults.latencyMin = .microseconds(Int.random(in: 20...500, using: &random))
        faults.latencyJitter = .microseconds(Int.random(in: 10...2_000, using: &random))
        faults.spikeOneIn = maybe(20...2_000)
        faults.spikeMax = .milliseconds(Int.random(in: 1...400, using: &random))
        faults.resetOneIn = maybe(200...20_000)
        faults.choppedOneIn = maybe(1...20)
        if random.oneIn(3) {
            faults.bandwidthBytesPerSecond = Int.random(in: 10_000_000...200_000_000, using: &random)
        }
        if random.oneIn(3) { faults.windowBytes = Int.random(in: 4_096...300_000, using: &random) }
        return faults
    }
}

/// How long things take, in nanoseconds.
struct SimPace {
    let latencyMin: Int64
    let latencyJitter: Int64
    let spikeMax: Int64
    init(_ faults: SimNetworkFaults) {
        latencyMin = faults.latencyMin.wholeNanoseconds
        latencyJitter = faults.latencyJitter.wholeNanoseconds
        spikeMax = faults.spikeMax.wholeNanoseconds
    }
    init(_ faults: SimDiskFaults) {
        latencyMin = faults.latencyMin.wholeNanoseconds
        latencyJitter = faults.latencyJitter.wholeNanoseconds
        spikeMax = faults.spikeMax.wholeNanoseconds
    }
}

/// What a disk does to requests and to the bytes it keeps.
public struct SimDiskFaults: Sendable {
    /// Least time a request takes.
    public var latencyMin: Duration
    /// Evenly spread extra time; it lets requests overtake each other.
    public var latencyJitter: Duration
    /// One request in so many takes up to ``spikeMax`` longer.
    public var spikeOneIn: Int
    /// Longest such delay.
    public var spikeMax: Duration
    /// One request in so many never completes.
    public var hangOneIn: Int
    /// One read in so many fails with EIO.
    public var readErrorOneIn: Int
    /// One write in so many fails with EIO, having changed some of its sectors or none.
    public var writeErrorOneIn: Int
    /// One flush in so many fails with EIO; what it should have saved is never saved by a later one.
    public var flushErrorOneIn: Int
    /// One write in so many is acknowledged and changes nothing.
    public var lostWriteOneIn: Int
    /// One write in so many is acknowledged and lands elsewhere.
    public var misdirectedWriteOneIn: Int
    /// One read in so many returns what lies elsewhere.
    public var misdirectedReadOneIn: Int
    /// One written block in so many is kept with a flipped bit.
    public var bitRotOneIn: Int
    /// One written block in so many cannot be read until it is written again.
    public var latentErrorOneIn: Int
    /// Bytes the file system below can hold; a write that needs more fails with ``DiskError/full``.
    public var spaceBytesMax: UInt64

    /// A sound, fast disk that loses unsynced sectors only at a crash.
    public static let none = SimDiskFaults(latencyMin: .microseconds(20), latencyJitter: .microseconds(60))
    /// A disk that is slow like this and suffers nothing else.
    public init(latencyMin: Duration, latencyJitter: Duration) {
        (self.latencyMin, self.latencyJitter) = (latencyMin, latencyJitter)
        (spikeOneIn, spikeMax, hangOneIn) = (0, .zero, 0)
        (readErrorOneIn, writeErrorOneIn, flushErrorOneIn) = (0, 0, 0)
        (lostWriteOneIn, misdirectedWriteOneIn, misdirectedReadOneIn) = (0, 0, 0)
        (bitRotOneIn, latentErrorOneIn, spaceBytesMax) = (0, 0, .max)
    }
    /// Slowness only: what any number of replicas may suffer at once without losing data.
    public static func swarm(_ random: inout SeededRandom) -> SimDiskFaults {
        var faults = SimDiskFaults(
            latencyMin: .microseconds(Int.random(in: 10...200, using: &random)),
            latencyJitter: .microseconds(Int.random(in: 10...2_000, using: &random)))
        if random.oneIn(2) {
            faults.spikeOneIn = Int.random(in: 20...2_000, using: &random)
            faults.spikeMax = .milliseconds(Int.random(in: 1...800, using: &random))
        }
        return faults
    }
    /// Damage that checksums and peers must heal: for at most a minority of a block's replicas.
    public static func damagedSwarm(_ random: inout SeededRandom) -> SimDiskFaults {
        var faults = swarm(&random)
        func maybe() -> Int { random.oneIn(2) ? 0 : Int.random(in: 50...5_000, using: &random) }
        faults.readErrorOneIn = maybe()
        faults.lostWriteOneIn = maybe()
        faults.misdirectedWriteOneIn = maybe()
        faults.misdirectedReadOneIn = maybe()
        faults.bitRotOneIn = maybe()
        faults.latentErrorOneIn = maybe()
        return faults
    }
}
