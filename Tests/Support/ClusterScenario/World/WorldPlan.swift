import BlockTypes
import ChunkServer
import ChunkStore
import Simulation

/// Everything that a run of the whole world depends on, chosen by its seed.
public struct WorldPlan: Sendable {
    /// The run's number.
    public let seed: UInt64
    /// What goes wrong while the load runs.
    public var faults: SimFaults
    /// What the metadata server's database suffers.
    public var metadata: MetadataFaults
    /// What is done to machines, processes and network; one named twice happens more often.
    public var deeds: [WorldDeed]
    /// Longest time between two deeds.
    public var restMax: Duration
    /// What people do with volumes.
    public var acts: [WorldAct]
    /// Longest time between two acts.
    public var actRestMax: Duration
    /// Chunkservers, each on its own machine.
    public var servers: Int
    /// Metadata servers, each on its own machine, over one database: one leads.
    public var metadataServers: Int
    /// Copysets of the pool, three members each.
    public var copysets: Int
    /// Volumes that exist at the beginning; people may make more.
    public var volumes: [WorldVolumePlan] = []
    /// How many of them are used by clients at a time.
    public var clientsMax: Int
    /// The disks' sectors.
    public var sectorBytes: Int
    /// True when the disks may lose unflushed sectors.
    public var hasVolatileCache: Bool
    /// Size of each store.
    public var storeBytes: UInt64
    /// In the middle of the run the metadata server's database is replaced by an older copy.
    public var restoresMetadata = false
    /// An operator adopts that copy; otherwise nothing is given any more.
    public var operatorAdopts: Bool { seed % 3 != 0 }
    /// The stores' sizes differ a little, as disks do.
    public var storeSizesDiffer: Bool
    /// Journal of each store: small ones wrap and make checkpoints.
    public var journalBytes: UInt64
    /// How much log the stores keep, how often they make checkpoints.
    public var store = StoreSettings()
    /// A refused connection counts as proof that a process is gone.
    public var refusalProvesDeath: Bool
    /// The chunkservers' bounds: small ones are reached.
    public var limits: ChunkServerLimits
    /// The disks say that they have no volatile cache, and have one. Never in a plan made by seed; shows that
    /// the judge sees it.
    public var disksLie = false
    /// Somebody copies a running chunkserver's store and starts the copy on another machine.
    public var clonesStore: Bool
    /// Chunkservers whose disks would damage what they keep; `FaultAtlas` lets as many of them as no block
    /// loses two copies by.
    public var damagedServers: [Int] = []
    /// One write in so many fails on every disk, having changed some of its sectors or none; 0: never.
    public var writeErrorOneIn: Int

    /// What of all this is carried out.
    public private(set) var selection = PlanSelection()

    /// Simulated time that load, nemesis and people have together.
    public static let turmoil: Duration = .seconds(15)
    /// Time in which everything must finish once faults have stopped.
    public static let calm: Duration = .seconds(90)
    /// Volumes of a run, deleted ones included.
    public static let volumesMax = 8

    /// The plan of run `seed`.
    /// - Parameter fillsStores: clients write more than the stores can hold.
    public init(seed: UInt64, fillsStores: Bool = false) {
        var random = SeededRandom(seed: seed ^ 0x0DD5_ED00_0000_0000)
        self.seed = seed
        faults = random.oneIn(5) ? .none : .swarm(&random)
        // Not so often that no large transfer ever comes through: clients repeat a damaged one twice.
        if random.oneIn(4) { faults.network.flippedBitOneIn = Int.random(in: 500...10_000, using: &random) }
        metadata = random.oneIn(2) ? .none : .swarm(&random)
        deeds = random.oneIn(6) ? [] : WorldDeed.allCases.filter { _ in random.oneIn(2) }
        if deeds.contains(where: { [.isolate, .blockPair, .blockOneWay, .slow].contains($0) }),
            !deeds.contains(.heal)
        {
            deeds.append(.heal)
        }
        restMax = .milliseconds(Int.random(in: 100...4_000, using: &random))
        clonesStore = random.oneIn(10)
        acts = random.oneIn(3) ? [] : WorldAct.allCases.filter { _ in random.oneIn(2) }
        actRestMax = .milliseconds(Int.random(in: 100...4_000, using: &random))
        servers = random.oneIn(2) ? 3 : Int.random(in: 4...9, using: &random)
        // From a source of its own: what else a seed means does not depend on it.
        var extra = SeededRandom(seed: seed ^ 0x3D5_0000_0000_0000)
        metadataServers = Int.random(in: 1...3, using: &extra)
        copysets = Int.random(in: 1...(servers + 1), using: &random)
        clientsMax = Int.random(in: 1...4, using: &random)
        sectorBytes = random.oneIn(2) ? 512 : 4096
        hasVolatileCache = !random.oneIn(3)
        journalBytes = random.oneIn(2) ? 256 << 10 : 2 << 20
        refusalProvesDeath = random.oneIn(2)
        storeBytes = random.oneIn(3) ? 8 << 20 : 256 << 20
        storeSizesDiffer = random.oneIn(2)
        if random.oneIn(2) {
            store.retainedEntriesMax = Int.random(in: 400...800, using: &random)
            store.retainedBytesMax = Int.random(in: 4...400, using: &random) << 12
        }
        if random.oneIn(2) {
            store.checkpointEvery = .milliseconds(Int.random(in: 50...5000, using: &random))
        }
        store.discardsFreedSpace = random.oneIn(3)
        if !fillsStores, random.oneIn(3) {
            let most = servers == 3 ? 1 : 3
            damagedServers = Array(
                Array(0..<servers).shuffled(using: &random).prefix(Int.random(in: 1...most, using: &random)))
        }
        limits = .swarm(&random)
        writeErrorOneIn = random.oneIn(8) ? Int.random(in: 1_000...20_000, using: &random) : 0
        let count = Int.random(in: 1...6, using: &random)
        let operations = Int.random(in: 300...1500, using: &random)
        if fillsStores { storeBytes = (random.oneIn(2) ? 8 : 32) << 20 }
        for _ in 0..<count {
            volumes.append(
                WorldVolumePlan(
                    operations: operations / min(count, clientsMax),
                    isResized: acts.contains(where: \.resizes),
                    isLarge: storeBytes > 64 << 20, fillsStores: fillsStores, &random))
        }
    }
    /// True when leaders may lose sight of a server for a while. What they let in meanwhile it may have no
    /// room for: a dead member must not stop the others.
    var losesSightOfServers: Bool {
        let blinding: [WorldDeed] = [
            .powerLoss, .powerLossOfAll, .kill, .breakDuringIO, .pause, .move, .swapStores, .isolate,
            .blockPair, .blockOneWay, .slow, .strand, .hangDisk, .fillBelow,
        ]
        return deeds.contains { blinding.contains($0) } || !damagedServers.isEmpty || writeErrorOneIn > 0
    }
    /// The plan of run `seed` with nothing going wrong and nobody interfering.
    public static func quiet(seed: UInt64) -> WorldPlan {
        var plan = WorldPlan(seed: seed)
        (plan.faults, plan.metadata, plan.deeds, plan.acts) = (.none, .none, [], [])
        (plan.storeBytes, plan.clonesStore) = (256 << 20, false)
        (plan.damagedServers, plan.writeErrorOneIn) = ([], 0)
        plan.metadataServers = 1
        return plan
    }
}

/// One volume of a run.
public struct WorldVolumePlan: Sendable {
    /// The sizes that it may have; the first one is its size at the beginning.
    public var sizes: [UInt64]
    /// Consecutive bytes in one chunk.
    public var stripeUnitBytes: UInt32
    /// Chunks that they go round; 1 is plain.
    public var stripeCount: UInt32
    /// What its clients do.
    public var load: LoadPlan
    /// True when its clients use it over NBD.
    public var isServedOverNBD: Bool
    /// NBD connections of each client.
    public var connections: Int
    /// Requests of each of them that the server takes at a time.
    public var requestsPerConnectionMax: Int

    init(
        operations: Int, isResized: Bool, isLarge: Bool, fillsStores: Bool, _ random: inout SeededRandom
    ) {
        stripeCount = [1, 1, 2, 4][Int.random(in: 0..<4, using: &random)]
        let units: [UInt32] = [4 << 10, 64 << 10, 1 << 20]
        stripeUnitBytes =
            stripeCount == 1 ? UInt32(Geometry.chunkBytes) : units[Int.random(in: 0..<3, using: &random)]
        let first =
            UInt64(Int.random(in: 256...(isLarge || fillsStores ? 20_000 : 9_000), using: &random)) << 12
        sizes = [first]
        load = LoadPlan(
            volumeBlocks: Int(first) / Geometry.blockBytes, operations: operations, random: &random)
        isServedOverNBD = random.oneIn(2)
        connections = random.oneIn(2) ? 1 : 2
        requestsPerConnectionMax = random.oneIn(2) ? 128 : Int.random(in: 1...8, using: &random)
        if fillsStores { fillStore(&random) }
        guard isResized else { return }
        // Other ends, near enough that a run of blocks straddles them.
        let width = Int.random(in: 8...160, using: &random)
        let end = Int(first) / Geometry.blockBytes
        let spot = max(0, end - width)..<(end + width)
        for _ in 0..<2 {
            let other = Int.random(in: max(256, spot.lowerBound)...max(256, spot.upperBound), using: &random)
            sizes.append(UInt64(other) << 12)
        }
        // What a shrink cuts off is zeroes: few requests may be open on one block at the same time.
        load.inFlightMax = min(load.inFlightMax, 4)
        load.hotSpots = [spot]
    }
    /// A load that puts more into the volume than a small store can hold.
    private mutating func fillStore(_ random: inout SeededRandom) {
        load.unitBytes = Geometry.blockBytes
        load.hotSpots = [0..<min(Int(sizes[0]) / Geometry.blockBytes, 16_384)]
        load.blocksMax = 32
        load.writes = 20
        load.trims = random.oneIn(2) ? 2 : 0
        load.inFlightMax = min(load.inFlightMax, 4)
        load.restMax = .zero
    }
}

/// What is done to machines, processes and network while the load runs.
public enum WorldDeed: CaseIterable, Sendable {
    /// A chunkserver's machine loses power and comes back.
    case powerLoss
    /// All chunkservers' machines at once.
    case powerLossOfAll
    /// A chunkserver's process dies and is started again.
    case kill
    /// A chunkserver dies, or its machine loses power, in the middle of some request of its disk; that may
    /// be during its recovery.
    case breakDuringIO
    /// A process stands still and goes on, perhaps long after its lease.
    case pause
    /// A chunkserver comes back with another address.
    case move
    /// Two chunkservers' disks change machines.
    case swapStores
    /// A disk answers nothing for a while.
    case hangDisk
    /// The file system below a store has no room for a while: nothing new fits, what was written once does.
    case fillBelow
    /// A machine is cut off.
    case isolate
    /// Two machines do not reach each other, and everybody else reaches both.
    case blockPair
    /// One direction between two machines is blocked.
    case blockOneWay
    /// One direction between two machines becomes slow.
    case slow
    /// Requests of a client to one server are held up on their way, until it leads again after others have
    /// led.
    case strand
    /// The network is whole again.
    case heal
    /// Somebody's wall clock jumps.
    case wallJump
    /// A metadata server dies, or its machine loses power, and comes back; mostly the one that leads.
    case metadataDown
    /// A metadata server stands still; mostly the one that leads.
    case metadataPause
    /// A client stands still, perhaps long after its lease, and goes on as if nothing had happened.
    case clientPauses
    /// A client dies; a new one attaches.
    case clientDies
    /// A second client takes a volume over from a living one.
    case takeOver
    /// Two clients take the same volume over at once.
    case twoTakers
    /// A client's NBD connection ends.
    case gatewayBreaks
}

/// What people do with volumes while clients use them.
public enum WorldAct: CaseIterable, Sendable {
    /// A new volume.
    case create
    /// The holder makes its volume larger or smaller.
    case resizeHeld
    /// Somebody else makes a volume larger.
    case growElsewhere
    /// Somebody else tries to delete a volume that may be in use.
    case deleteInUse
    /// A volume is given back, deleted, restored and used again.
    case deleteAndRestore
    /// A volume is given back and deleted for good.
    case purge
    /// A volume gets another name.
    case rename

    /// True for acts that change sizes.
    var resizes: Bool { self == .resizeHeld || self == .growElsewhere }
}

extension WorldPlan {
    /// What goes wrong now and then.
    public var rates: [FaultRate] {
        let isUntroubled = metadata.commitMax == .zero && metadata.failsOneIn + metadata.diesOneIn == 0
        return FaultRate.allCases.filter { $0.isIn(faults) }
            + (damagedServers.isEmpty ? [] : [.damage]) + (writeErrorOneIn == 0 ? [] : [.writeErrors])
            + (isUntroubled ? [] : [.metadata])
    }
    /// The plan without what `selection` leaves out.
    public func reduced(to selection: PlanSelection) -> WorldPlan {
        var plan = self
        plan.selection = selection
        for index in volumes.indices {
            let most = max(1, selection.operationsMax / volumes.count)
            plan.volumes[index].load.operations = min(volumes[index].load.operations, most)
        }
        for rate in rates where !selection.includes(.rate(rate)) {
            rate.remove(from: &plan.faults)
            if rate == .damage { plan.damagedServers = [] }
            if rate == .writeErrors { plan.writeErrorOneIn = 0 }
            if rate == .metadata { plan.metadata = .none }
        }
        return plan
    }
}

extension WorldPlan: CustomStringConvertible {
    /// The plan in a few lines, for whoever looks at a failure.
    public var description: String {
        """
        seed \(seed): \(servers) chunkservers of \(storeBytes >> 20) MiB, \(copysets) copysets, sectors of \
        \(sectorBytes), \(hasVolatileCache ? "volatile cache" : "write-through"), \
        journal \(journalBytes >> 10) KiB, \
        \(store.retainedEntriesMax) entries and \(store.retainedBytesMax >> 10) KiB kept, \
        \(damagedServers.isEmpty ? "sound disks" : "disks \(damagedServers.map { $0 + 1 }) damage"), \
        \(writeErrorOneIn == 0 ? "" : "one write in \(writeErrorOneIn) fails, ")\(clientsMax) clients
        volumes: \(volumes.map { "\n    \($0)" }.joined())
        deeds: \(deeds) every \(restMax)
        acts: \(acts) every \(actRestMax)
        metadata: \(metadataServers) servers, \(metadata)
        faults: \(faults)
        """
    }
}
