import BlockTypes
import ChunkServer
import Simulation

/// Everything that a run with one volume and several members of a group depends on, chosen by its seed.
public struct SharedPlan: Sendable {
    /// Chunkservers, faults and load as in the scenario about one client; what happens to clients is ours.
    public var base: ScenarioPlan
    /// What happens to members; none twice named happens more often.
    public var deeds: [Deed]
    /// Members at the same time, at most.
    public var membersMax: Int
    /// Increments of counters in all.
    public var incrementsMax: Int
    /// What the volume grows by, each time.
    public var growthBytes: [UInt64] = []
    /// The block at which the counters begin: nothing else is written to it or the one after it.
    public var counterBlock: Int

    /// What happens to a member.
    public enum Deed: CaseIterable, Sendable {
        /// Its process dies; another member removes it.
        case dies
        /// It stands still, is removed by another one, and goes on as if nothing had happened.
        case standsStill
        /// It lives, and another one removes it by force.
        case isRemoved
        /// It lets go in order.
        case leaves
        /// A further one joins.
        case joins
        /// Somebody makes the volume larger; members hear of it when they renew their leases.
        case grows
    }

    /// The plan of run `seed`.
    public init(seed: UInt64) {
        base = ScenarioPlan(seed: seed)
        var random = SeededRandom(seed: seed ^ 0x5AFE_C0DE_0000_0000)
        base.nemesis.deeds.removeAll { [.clientDies, .takeOver].contains($0) }
        base.load.operations = Int.random(in: 200...1500, using: &random)
        // Many writers of a block that can also write zeroes make histories that nobody can judge in time.
        if random.oneIn(2) { (base.load.trims, base.load.zeroes) = (0, 0) }
        base.load.inFlightMax = min(base.load.inFlightMax, 4)
        deeds = Deed.allCases.filter { $0 != .grows && random.oneIn(2) }
        membersMax = Int.random(in: 2...4, using: &random)
        incrementsMax = Int.random(in: 50...400, using: &random)
        let blocks = Int(base.volumeBytes) / Geometry.blockBytes
        let spots = base.load.hotSpots
        // A comparison must stay inside a stripe unit.
        let units = stride(from: blocks - 16, through: 0, by: -16)
        counterBlock = units.first { unit in !spots.contains { $0.overlaps(unit..<(unit + 2)) } } ?? 0
        if random.oneIn(3) { planGrowth(from: blocks, &random) }
    }
    /// Some new ends lie in chunks that no copyset has heard of.
    private mutating func planGrowth(from blocks: Int, _ random: inout SeededRandom) {
        deeds.append(.grows)
        growthBytes = (0..<Int.random(in: 1...4, using: &random)).map { _ in
            random.oneIn(3)
                ? UInt64(Geometry.chunkBytes)
                : UInt64(Int.random(in: 1...512, using: &random) * Geometry.blockBytes)
        }
        let end = blocks + Int(growthBytes.reduce(0, +)) / Geometry.blockBytes
        let spots = [blocks..<min(end, blocks + 32), max(blocks, end - 32)..<end]
        base.load.hotSpots += spots[0].overlaps(spots[1]) ? [blocks..<end] : spots
    }
    /// The plan without what `selection` leaves out.
    public func reduced(to selection: PlanSelection) -> SharedPlan {
        var plan = self
        plan.base = base.reduced(to: selection)
        plan.incrementsMax = min(incrementsMax, selection.operationsMax)
        return plan
    }
}

extension SharedPlan: CustomStringConvertible {
    /// The plan in a few lines, for whoever looks at a failure.
    public var description: String {
        "\(base)\nmembers: at most \(membersMax), \(incrementsMax) increments from block \(counterBlock) on, "
            + "\(deeds), grows by \(growthBytes)"
    }
}
