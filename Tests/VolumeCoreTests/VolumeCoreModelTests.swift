import BlockTypes
import Testing

@testable import VolumeCore

/// Random load over faulty links, by seed; `VolumeModel` says what is right.
@Suite struct VolumeCoreModelTests {
    private static func model(
        _ seed: UInt64, policy: UnavailablePolicy = .queue, limits: VolumeLimits = VolumeLimits(),
        group: [Epoch] = []
    ) throws -> VolumeModel {
        var random = SeededRandom(seed: seed)
        let shapes: [(Int, Int)] = [(0, 1), (4096, 3), (65536, 4), (1 << 20, 2), (16384, 7)]
        let (unit, count) = shapes[Int(seed % UInt64(shapes.count))]
        let size = UInt64.random(in: 256..<12_000, using: &random) * 4096
        let stripes = try #require(StripeMap(stripeUnitBytes: unit, stripeCount: count))
        return try VolumeModel(
            seed: seed, size: size, stripes: stripes, policy: policy, limits: limits, group: group)
    }

    /// A run near one of a few places, so that requests meet; lengths small, sometimes large.
    private static func run(in model: inout VolumeModel) -> Range<Int> {
        let total = Int(model.core.size.bytes) / 512
        let spot = [0, 128, 1024, total - 200, total / 2][Int.random(in: 0..<5, using: &model.random)]
        let start = min(max(spot + Int.random(in: -40..<80, using: &model.random), 0), total - 1)
        let lengths = [1, 3, 8, 16, 24, 64, 200, model.random.oneIn(12) ? 2500 : 8]
        let length = lengths[Int.random(in: 0..<8, using: &model.random)]
        let aligned = Bool.random(using: &model.random)
        let first = aligned ? start / 8 * 8 : start
        return first..<min(first + (aligned ? (length + 7) / 8 * 8 : length), total)
    }
    private static func submitOne(to model: inout VolumeModel) {
        let sectors = run(in: &model)
        switch Int.random(in: 0..<10, using: &model.random) {
        case 0...3: model.read(sectors)
        case 4...7:
            let cuts = model.random.oneIn(3) ? [Int.random(in: 0...sectors.count, using: &model.random)] : []
            model.write(sectors, cuts: cuts)
        case 8: model.clear(sectors, trim: true)
        default: model.clear(sectors, trim: false)
        }
    }

    @Test(arguments: 1...24)
    func queuedRequestsAllSucceedInOrder(_ number: Int) throws {
        let seed = UInt64(number)
        var model = try Self.model(seed)
        var faults = SeededRandom(seed: seed &* 77)
        model.cluster.faults = Faults.random(&faults)
        model.feed(.start)
        let depth = Int.random(in: 1...40, using: &model.random)
        for _ in 0..<400 {
            Self.submitOne(to: &model)
            while model.pending.count >= depth, model.turn() {}
        }
        model.expectNewestEverywhere()
        #expect(model.hasAttached)
        let errors = model.outcomes.filter { $0.key != .checksumMismatch }
        #expect(errors.isEmpty, "seed \(seed): \(errors)")
    }

    @Test(
        "a group's member compares and patches exactly, whatever is lost, late or repeated",
        arguments: 101...124)
    func comparisons(_ number: Int) throws {
        let seed = UInt64(number)
        // Alone a volume has its edges patched at the client, comparisons come in between all the same.
        var model = try Self.model(seed, group: seed % 3 == 0 ? [] : [Epoch(2), Epoch(4)])
        var faults = SeededRandom(seed: seed &* 77)
        model.cluster.faults = Faults.random(&faults)
        model.cluster.faults.damages = 0
        model.feed(.start)
        let depth = Int.random(in: 1...40, using: &model.random)
        for _ in 0..<400 {
            if model.random.oneIn(3) {
                let isRight = !model.random.oneIn(3)
                model.compare(Self.run(in: &model), isRight: isRight)
            } else {
                Self.submitOne(to: &model)
            }
            while model.pending.count >= depth, model.turn() {}
        }
        model.expectNewestEverywhere()
        #expect(model.hasAttached && model.outcomes.isEmpty, "seed \(seed): \(model.outcomes)")
    }

    @Test(arguments: 41...52)
    func tightBoundsChangeNothingButSpeed(_ number: Int) throws {
        let seed = UInt64(number)
        var limits = VolumeLimits()
        (limits.subRequestsMax, limits.fencesMax, limits.activeBytesMax) = (3, 1, 512 << 10)
        limits.bulkSubRequestsMax = 1
        var model = try Self.model(seed, limits: limits)
        var faults = SeededRandom(seed: seed &* 77)
        model.cluster.faults = Faults.random(&faults)
        model.cluster.faults.damages = 0
        model.feed(.start)
        for _ in 0..<200 {
            Self.submitOne(to: &model)
            if model.random.oneIn(6) {
                let total = Int(model.core.size.bytes) / 512
                model.clear(0..<total, trim: true)
            }
            while model.pending.count >= 20, model.turn() {}
        }
        model.expectNewestEverywhere()
        #expect(model.outcomes.isEmpty)
    }

    @Test(arguments: 61...72)
    func impatientRequestsFailButNeverComeBackToOverwrite(_ number: Int) throws {
        let seed = UInt64(number)
        var model = try Self.model(seed, policy: .errorAfter(.milliseconds(700)))
        var faults = SeededRandom(seed: seed &* 77)
        model.cluster.faults = Faults.random(&faults)
        (model.cluster.faults.requestLost, model.cluster.faults.lateCopy) = (8, 4)
        model.cluster.faults.damages = 0
        model.feed(.start)
        for _ in 0..<300 {
            Self.submitOne(to: &model)
            while model.pending.count >= 24, model.turn() {}
        }
        let answered = model.answered
        model.cluster.faults = .none
        model.settle()
        // A change that failed may have happened; what was answered must not be older than that.
        for sector in answered.indices {
            model.answered[sector] = max(model.answered[sector], answered[sector])
        }
        for start in stride(from: 0, to: answered.count, by: 8192) {
            model.read(start..<min(start + 8192, answered.count))
            model.settle()
        }
        #expect(
            Set(model.outcomes.keys).isSubset(of: [.replicasUnavailable]), "seed \(seed): \(model.outcomes)")
    }

    @Test(arguments: 81...96)
    func resizingKeepsWhatIsInsideAndForgetsWhatIsNot(_ number: Int) throws {
        let seed = UInt64(number)
        var model = try Self.model(seed)
        model.feed(.start)
        for change in 2..<UInt32(10) {
            for _ in 0..<40 {
                Self.submitOne(to: &model)
                while model.pending.count >= 16, model.turn() {}
            }
            // News that was old before it came.
            model.feed(.resize(ByteCount(bytes: 1 << 20), change: change - 1))
            let size = UInt64.random(in: 256..<14_000, using: &model.random) * 4096
            let wasSize = model.core.size.bytes
            model.feed(.resize(ByteCount(bytes: size), change: change))
            if size < wasSize, wasSize - size > 8192 {
                let token = model.nextToken
                model.read((Int(wasSize) / 512 - 4)..<(Int(wasSize) / 512))
                guard case .failure(.outOfRange) = model.results[token] else {
                    Issue.record("seed \(seed): read past the end of a shrinking volume")
                    continue
                }
            }
            while model.core.size.bytes != size, model.turn() {}
            #expect(model.core.size.bytes == size, "seed \(seed)")
        }
        model.expectNewestEverywhere()
        #expect(Set(model.outcomes.keys).isSubset(of: [.outOfRange]), "seed \(seed): \(model.outcomes)")
    }
}
