import BlockTypes

/// What clients do to a volume, chosen by seed.
public struct LoadPlan: Sendable {
    /// Where requests go: a few hot runs of blocks, so that they meet.
    public var hotSpots: [Range<Int>]
    /// Requests start and end at multiples of this: a block, or a sector.
    public var unitBytes: Int
    /// Requests in flight of each client.
    public var inFlightMax: Int
    /// Requests in all.
    public var operations: Int
    /// After one answer in four a client rests for up to so long, so that the load lasts as long as the
    /// turmoil and still comes in bursts.
    public var restMax: Duration
    /// Weights of the kinds of requests.
    public var reads: Int, writes: Int, trims: Int, zeroes: Int, flushes: Int
    /// Largest request, in blocks.
    public var blocksMax: Int

    /// Only so many first requests may write zeroes: long histories full of them cannot be judged in
    /// reasonable time.
    public static let operationsWithZeroesMax = 1000

    /// A load on a volume of `volumeBlocks` blocks.
    public init(volumeBlocks: Int, operations: Int, random: inout SeededRandom) {
        unitBytes = random.oneIn(2) ? Geometry.sectorBytes : Geometry.blockBytes
        inFlightMax = 1 << Int.random(in: 0...5, using: &random)
        // Zero can be written again and again, which makes judging harder: half of the loads do without.
        let writesZero = random.oneIn(2)
        self.operations = operations
        let each = ScenarioPlan.turmoil.milliseconds * Int64(inFlightMax) / Int64(operations)
        restMax = random.oneIn(5) ? .zero : .milliseconds(8 * each)
        reads = Int.random(in: 1...10, using: &random)
        writes = Int.random(in: 2...10, using: &random)
        trims = writesZero ? Int.random(in: 0...3, using: &random) : 0
        zeroes = writesZero ? Int.random(in: 0...3, using: &random) : 0
        flushes = random.oneIn(3) ? 1 : 0
        // Large requests cost much and meet fewer others: a quarter of the loads has them.
        blocksMax = [1, 1, 4, 4, 16, 16, 64, 300][Int.random(in: 0..<8, using: &random)]
        let spotCount = Int.random(in: 1...4, using: &random)
        // With zeroes about, few requests may be open on one block at the same time.
        let least = writesZero ? max(4, 4 * inFlightMax) : 2
        hotSpots = (0..<spotCount).map { _ in
            let count = min(volumeBlocks, Int.random(in: least...(least + 60), using: &random))
            let first = Int.random(in: 0...(volumeBlocks - count), using: &random)
            return first..<(first + count)
        }
        if blocksMax > 64 { hotSpots = Array(hotSpots.prefix(1)) }
        // The end of a volume is where sums of sizes go wrong.
        if random.oneIn(4) {
            let count = hotSpots[0].count
            hotSpots[0] = (volumeBlocks - count)..<volumeBlocks
        }
    }
}
