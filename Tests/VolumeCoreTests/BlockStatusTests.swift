import BlockTypes
import Testing

@testable import VolumeCore

@Suite("asking for the map") struct BlockStatusTests {
    /// One flag per sector: stored or not.
    private static func flags(_ segments: [ReadSegment]) -> [Bool] {
        segments.flatMap { segment -> [Bool] in
            let sectors = segment.byteCount / 512
            if case .zeroes = segment { return Array(repeating: false, count: sectors) }
            return Array(repeating: true, count: sectors)
        }
    }

    @Test(
        "the map of any run is what reading it shows, striped or plain",
        arguments: [StripeMap.plain, StripeMap(stripeUnitBytes: 16384, stripeCount: 4)], [UInt64(1), 2])
    func sameAsReading(stripes: StripeMap?, seed: UInt64) throws {
        var model = try VolumeModel(seed: seed, size: 72 << 20, stripes: try #require(stripes))
        model.feed(.start)
        let sectors = (72 << 20) / 512
        var random = SeededRandom(seed: seed)
        for _ in 0..<60 {
            let start = Int.random(in: 0..<(sectors - 4096), using: &random)
            let run = start..<(start + Int.random(in: 1..<4096, using: &random))
            if Bool.random(using: &random) { model.write(run) } else { model.clear(run, trim: true) }
        }
        model.settle()
        func ask(_ request: VolumeRequest) throws -> [ReadSegment] {
            model.ask(request)
            model.settle()
            return try #require(model.lastResult).get()
        }
        for _ in 0..<40 {
            let start = Int.random(in: 0..<(sectors - 20000), using: &random)
            let count = Int.random(in: 1..<20000, using: &random)
            let from = ByteOffset(bytes: UInt64(start) * 512)
            let map = try ask(.blockStatus(start: from, length: ByteCount(bytes: UInt64(count) * 512)))
            let read = try ask(.read(start: from, byteCount: count * 512))
            #expect(Self.flags(map) == Self.flags(read), "seed \(seed), \(start)+\(count)")
            for segment in map { if case .data = segment { Issue.record("bytes in a map") } }
        }
    }

    @Test(
        "a map longer than its bound, or past the end, is refused; a server that sends bytes is passed over")
    func bounds() throws {
        var model = try VolumeModel(seed: 3, size: 1 << 30, stripes: .plain)
        model.feed(.start)
        model.settle()
        for (start, length) in [(UInt64(0), UInt64(VolumeRequest.statusBytesMax) + 512), (1 << 30, 512)] {
            model.ask(.blockStatus(start: ByteOffset(bytes: start), length: ByteCount(bytes: length)))
            guard case .failure(.outOfRange)? = model.lastResult else {
                Issue.record("\(length) bytes at \(start) were accepted")
                return
            }
        }
        model.cluster.sendsBytesForMaps = 2
        model.ask(.blockStatus(start: ByteOffset(bytes: 0), length: ByteCount(bytes: 1 << 20)))
        model.settle()
        #expect(model.cluster.sendsBytesForMaps == 0)
        #expect(try model.lastResult?.get().reduce(0) { $0 + $1.byteCount } == 1 << 20)
    }
}
