import BlockTypes
import Simulation

/// Everything that a run with several iSCSI gateways of one volume depends on, chosen by its seed.
public struct GatewayPlan: Sendable {
    /// Chunkservers and faults as in the scenario about one client; what happens to clients is ours.
    public var base: ScenarioPlan
    /// What happens to gateways.
    public var deeds: [Deed]
    /// Gateways, all of one target.
    public var gateways: Int
    /// Initiators that count by COMPARE AND WRITE.
    public var counters: Int
    /// Initiators that take the volume from each other by PREEMPT AND ABORT.
    public var rivals: Int
    /// Initiators with a path through each gateway.
    public var multipaths: Int
    /// Resets of the logical unit, at most.
    public var resetsMax: Int
    /// SANITIZE commands, at most. Where there are some nobody counts: a counter that is overwritten tells
    /// nothing, and the histories of sectors tell all.
    public var sanitizesMax = 0
    /// Initiators ask for digests: always where the network flips bits, which nothing else would tell them.
    public var hasDigests: Bool

    /// What happens to a gateway.
    public enum Deed: CaseIterable, Sendable {
        /// Its process dies and is started again.
        case dies
        /// It stands still, perhaps past its lease.
        case standsStill
        /// Nothing reaches it from the metadata server, and nothing goes there.
        case losesMetadata
        /// Its machine is cut off.
        case isCutOff
        /// It reaches no chunkserver, and hears of none: what it has begun waits.
        case losesStores
    }
    /// Simulated time that load and nemesis have together: some leases long.
    static let turmoil = Duration.seconds(40)

    /// The plan of run `seed`.
    public init(seed: UInt64) {
        base = ScenarioPlan(seed: seed)
        var random = SeededRandom(seed: seed ^ 0x6A7E_3A75_0000_0000)
        base.nemesis.deeds.removeAll { [.clientDies, .takeOver, .strand].contains($0) }
        base.damagedServer = nil
        deeds = random.oneIn(6) ? [] : Deed.allCases.filter { _ in random.oneIn(2) }
        gateways = Int.random(in: 2...3, using: &random)
        counters = Int.random(in: 1...3, using: &random)
        rivals = Int.random(in: 2...3, using: &random)
        multipaths = Int.random(in: 0...2, using: &random)
        resetsMax = random.oneIn(2) ? Int.random(in: 1...20, using: &random) : 0
        hasDigests = base.faults.network.flippedBitOneIn > 0 || random.oneIn(2)
        guard random.oneIn(3) else { return }
        sanitizesMax = Int.random(in: 1...10, using: &random)
        base.servedBytes = UInt64(Int.random(in: 1...3, using: &random)) << 20
        counters = 0
        multipaths = max(multipaths, 1)
    }
    /// The unit's sectors.
    var servedSectors: Int { Int(base.servedBytes ?? base.volumeBytes) / 512 }
    /// The plan without what `selection` leaves out.
    public func reduced(to selection: PlanSelection) -> GatewayPlan {
        var plan = self
        plan.base = base.reduced(to: selection)
        return plan
    }
}

extension GatewayPlan: CustomStringConvertible {
    /// The plan in a few lines, for whoever looks at a failure.
    public var description: String {
        "\(base)\n\(gateways) gateways, \(counters) counters, \(rivals) rivals, "
            + "\(multipaths) with a path to each, at most \(resetsMax) resets, "
            + "\(sanitizesMax) times SANITIZE, \(deeds)"
    }
}
