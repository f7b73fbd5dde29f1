import BlockTypes
import ChunkServer
import ChunkStore
import Simulation

/// Everything a run depends on, chosen by its seed.
public struct ScenarioPlan: Sendable {
    /// The run's number.
    public let seed: UInt64
    /// What goes wrong while the load runs.
    public var faults: SimFaults
    /// What the nemesis does.
    public var nemesis: NemesisPlan
    /// What clients do.
    public var load: LoadPlan
    /// Copysets of the pool; each has all three chunkservers.
    public var copysets: Int
    /// Size of the one volume.
    public var volumeBytes: UInt64
    /// What the volume is said to have of that; `nil`: all.
    public var servedBytes: UInt64?
    /// Striping; 1 is plain.
    public var stripeCount: UInt32
    /// The disks' sectors.
    public var sectorBytes: Int
    /// True when the disks may lose unflushed sectors.
    public var hasVolatileCache: Bool
    /// Journal of each store: small ones wrap and make checkpoints.
    public var journalBytes: UInt64
    /// How much log the stores keep, how often they make checkpoints.
    public var store = StoreSettings()
    /// The chunkservers' bounds: small ones are reached.
    public var limits: ChunkServerLimits
    /// The disks say that they have no volatile cache, and have one: acknowledged writes get lost at a power
    /// loss of all. Never in a plan made by seed; shows that the judge sees it.
    public var disksLie = false
    /// The one chunkserver whose disk damages what it keeps, if any.
    public var damagedServer: Int?

    /// What of all this is carried out.
    public private(set) var selection = PlanSelection()

    /// Simulated time that the load and the nemesis have together.
    public static let turmoil: Duration = .seconds(15)
    /// Time in which everything must finish once faults have stopped.
    public static let calm: Duration = .seconds(60)

    /// The plan of run `seed`.
    public init(seed: UInt64) {
        var random = SeededRandom(seed: seed ^ 0xC0FF_EE00_0000_0000)
        self.seed = seed
        faults = random.oneIn(5) ? .none : .swarm(&random)
        nemesis = NemesisPlan(&random)
        copysets = Int.random(in: 1...4, using: &random)
        stripeCount = random.oneIn(2) ? 4 : 1
        let chunks = UInt64(Int.random(in: 1...2, using: &random) * Int(stripeCount))
        volumeBytes = chunks * UInt64(Geometry.chunkBytes)
        sectorBytes = random.oneIn(2) ? 512 : 4096
        hasVolatileCache = !random.oneIn(3)
        journalBytes = random.oneIn(2) ? 256 << 10 : 4 << 20
        damagedServer = random.oneIn(5) ? Int.random(in: 0..<3, using: &random) : nil
        // Who was away has to copy everything.
        if random.oneIn(2) {
            store.retainedEntriesMax = Int.random(in: 16...800, using: &random)
            store.retainedBytesMax = Int.random(in: 4...400, using: &random) << 12
        }
        if random.oneIn(2) {
            store.checkpointEvery = .milliseconds(Int.random(in: 50...5000, using: &random))
        }
        store.discardsFreedSpace = random.oneIn(3)
        load = LoadPlan(
            volumeBlocks: Int(volumeBytes) / Geometry.blockBytes,
            operations: Int.random(in: 300...7500, using: &random), random: &random)
        limits = .swarm(&random)
        // Not so often that no large transfer ever comes through: clients repeat a damaged one twice.
        if random.oneIn(4) { faults.network.flippedBitOneIn = Int.random(in: 500...10_000, using: &random) }
    }
}

extension ScenarioPlan {
    /// What goes wrong now and then.
    public var rates: [FaultRate] {
        FaultRate.allCases.filter { $0.isIn(faults) } + (damagedServer == nil ? [] : [.damage])
    }
    /// The plan without what `selection` leaves out.
    public func reduced(to selection: PlanSelection) -> ScenarioPlan {
        var plan = self
        plan.selection = selection
        plan.load.operations = min(load.operations, selection.operationsMax)
        for rate in rates where !selection.includes(.rate(rate)) {
            rate.remove(from: &plan.faults)
            if rate == .damage { plan.damagedServer = nil }
        }
        return plan
    }
}

extension ScenarioPlan: CustomStringConvertible {
    /// The plan in a few lines, for whoever looks at a failure.
    public var description: String {
        """
        seed \(seed): \(copysets) copysets, \(volumeBytes >> 20) MiB in \(stripeCount) stripes, sectors of \
        \(sectorBytes), \(hasVolatileCache ? "volatile cache" : "write-through"), journal \(journalBytes >> 10) KiB, \
        \(store.retainedEntriesMax) entries and \(store.retainedBytesMax >> 10) KiB kept, \
        \(damagedServer.map { "disk\($0 + 1) damages" } ?? "sound disks")
        load: \(load)
        nemesis: \(nemesis)
        faults: \(faults)
        """
    }
}

/// What is done to machines and network while the load runs.
public struct NemesisPlan: Sendable {
    /// One kind of deed.
    public enum Deed: CaseIterable, Sendable {
        /// A chunkserver's machine loses power and comes back.
        case powerLoss
        /// All three at once.
        case powerLossOfAll
        /// A chunkserver's process dies and is started again.
        case kill
        /// A process stands still and goes on.
        case pause
        /// A machine is cut off.
        case isolate
        /// One direction between two machines is blocked.
        case blockOneWay
        /// One direction between two machines becomes slow.
        case slow
        /// Requests of the client to one server are held up on their way, until it leads again after others
        /// have led: late copies of what was answered long ago.
        case strand
        /// The network is whole again.
        case heal
        /// The directory dies and comes back.
        case directoryDown
        /// The client dies; a new one attaches.
        case clientDies
        /// A second client takes the volume over from a living one.
        case takeOver
    }
    /// The deeds of this run; none of the others happens. One named twice happens more often.
    public var deeds: [Deed]
    /// Longest time between two deeds.
    public var restMax: Duration

    init(_ random: inout SeededRandom) {
        deeds = random.oneIn(6) ? [] : Deed.allCases.filter { _ in random.oneIn(2) }
        if deeds.contains(where: { [.isolate, .blockOneWay, .slow].contains($0) }), !deeds.contains(.heal) {
            deeds.append(.heal)
        }
        restMax = .milliseconds(Int.random(in: 100...4_000, using: &random))
    }
}
