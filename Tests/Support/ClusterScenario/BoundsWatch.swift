import BlockTypes
import ChunkServer
import Simulation

/// Looks at every gauge of a run again and again: nothing may outgrow its named bound (invariant I18). More
/// often all replicas are compared (``StandingWatch``).
final class BoundsWatch {
    /// The first thing that was above its bound.
    private var excess: String?
    private var standings = StandingWatch()
    /// The first thing that was wrong.
    var complaint: String? { excess ?? standings.complaint }
    /// What was ever as full as it may be: shows that runs reach the bounds.
    private(set) var reached: Set<String> = []  // Sorted where it is shown.
    /// Much happens between two looks in turmoil, little in calm.
    var isCalm = false
    /// What fills up stays full for a while; two leaders at one time may not: gauges are read at every so
    /// many looks.
    private static let looksPerReading = 3
    private var looks = 0
    private let world: SimWorld
    private let readAll: (GaugeReader) -> Void
    private let compareAll: (inout StandingWatch) -> Void

    /// - Parameters:
    ///   - readAll: reads the gauges of whoever is alive.
    ///   - compareAll: notes where each replica stands.
    init(
        _ world: SimWorld, _ readAll: @escaping (GaugeReader) -> Void,
        compareAll: @escaping (inout StandingWatch) -> Void
    ) {
        (self.world, self.readAll, self.compareAll) = (world, readAll, compareAll)
    }
    func start() {
        look()
        world.after(isCalm ? .milliseconds(250) : .milliseconds(20)) { [weak self] in self?.start() }
    }
    private func look() {
        standings.begin()
        compareAll(&standings)
        looks += 1
        guard isCalm || looks % Self.looksPerReading == 0 else { return }
        readAll { what, count, bound in
            guard count >= bound else { return }
            reached.insert("\(what)")
            guard count > bound, excess == nil else { return }
            excess = "\(count) \(what), at most \(bound) are allowed"
        }
    }
}

extension ChunkServerLimits {
    /// In half of the runs the usual ones, in the others so small that a few clients reach them.
    static func swarm(_ random: inout SeededRandom) -> ChunkServerLimits {
        var limits = ChunkServerLimits()
        func small(_ least: Int, _ usual: Int) -> Int {
            random.oneIn(2) ? usual : Int.random(in: least...(least + 6), using: &random)
        }
        guard random.oneIn(2) else { return limits }
        limits.clientRequestsInFlightMax = small(2, limits.clientRequestsInFlightMax)
        limits.clientBytesInFlightMax = small(1, 64) << 20
        limits.requestsBehindFenceMax = small(1, limits.requestsBehindFenceMax)
        limits.peerReadsInFlightMax = small(1, limits.peerReadsInFlightMax)
        limits.syncsMax = small(1, limits.syncsMax)
        limits.peerQueueBytesMax = small(2, 96) << 20
        return limits
    }
}
