import BlockTypes
import Environment
import Simulation
import Testing

/// A disk with a process, run to the end of each request.
final class Bench {
    let world: SimWorld
    let disk: SimDisk
    var host: SimHost
    private var next: UInt64 = 0
    private var results: [UInt64: Result<Void, DiskError>] = [:]

    init(
        seed: UInt64, sectorBytes: Int = 512, hasVolatileCache: Bool = true, sizeBytes: UInt64 = 1 << 20,
        faults: SimDiskFaults = .none
    ) {
        world = SimWorld(seed: seed)
        disk = SimDisk(
            world, name: "disk",
            geometry: DiskGeometry(
                size: ByteCount(bytes: sizeBytes), sectorBytes: sectorBytes,
                hasVolatileCache: hasVolatileCache),
            faults: faults)
        host = world.startHost(on: "a")
        attach()
    }
    func attach() {
        disk.attach(to: host)
        disk.completed = { [unowned self] token, result in results[token.rawValue] = result }
    }
    func crashAndRestart() {
        host.crash()
        host = world.startHost(on: "a")
        attach()
    }
    /// Submits without waiting.
    @discardableResult func start(_ make: (DiskToken) -> DiskRequest) -> UInt64 {
        next += 1
        disk.submit(make(DiskToken(rawValue: next)))
        return next
    }
    func isDone(_ number: UInt64) -> Bool { results[number] != nil }
    func finish(_ make: (DiskToken) -> DiskRequest) -> Result<Void, DiskError>? {
        let number = start(make)
        _ = world.run(within: .seconds(10)) { results[number] != nil }
        return results[number]
    }
    func write(_ at: UInt64, _ bytes: [UInt8]) -> Result<Void, DiskError>? {
        finish { .write($0, at: ByteOffset(bytes: at), [Payload(copying: bytes)]) }
    }
    func read(_ at: UInt64, _ count: Int) -> (Result<Void, DiskError>?, [UInt8]) {
        let target = Payload(BlockBuffer(byteCount: count), byteCount: count)
        return (finish { .read($0, at: ByteOffset(bytes: at), into: target) }, target.array)
    }
    func flush() -> Result<Void, DiskError>? { finish { .flush($0) } }
    func sectors(_ value: UInt8, _ count: Int) -> [UInt8] { Array(repeating: value, count: count * 512) }
}

extension Result where Success == Void, Failure == DiskError {
    var error: DiskError? { if case .failure(let error) = self { error } else { nil } }
}

@Suite("the simulated disk") struct DiskTests {
    @Test("a disk without faults is an array of bytes", arguments: 0..<10)
    func array(seed: UInt64) {
        let bench = Bench(seed: seed)
        defer { bench.world.end() }
        var random = SeededRandom(seed: seed)
        var model = [UInt8](repeating: 0, count: 64 << 10)
        for number in 0..<200 {
            let first = Int.random(in: 0..<120, using: &random)
            let count = Int.random(in: 1...(128 - first), using: &random)
            if random.oneIn(2) {
                let bytes = pattern(count * 512, number * 77)
                _ = bench.write(UInt64(first * 512), bytes)
                model.replaceSubrange((first * 512)..<((first + count) * 512), with: bytes)
            } else {
                let (result, bytes) = bench.read(UInt64(first * 512), count * 512)
                #expect(
                    result?.error == nil && bytes == Array(model[(first * 512)..<((first + count) * 512)]))
            }
        }
        _ = bench.flush()
        bench.crashAndRestart()
        #expect(bench.disk.contents(at: ByteOffset(bytes: 0), byteCount: model.count) == model)
    }
    @Test(
        "flushed bytes survive power loss; each unsynced sector keeps any content it had since",
        arguments: 0..<200)
    func powerLoss(seed: UInt64) {
        let bench = Bench(seed: seed)
        defer { bench.world.end() }
        _ = bench.write(0, bench.sectors(1, 16))
        _ = bench.flush()
        _ = bench.write(0, bench.sectors(2, 8))
        _ = bench.write(0, bench.sectors(3, 8))
        bench.start { .write($0, at: ByteOffset(bytes: 0), [Payload(copying: bench.sectors(4, 8))]) }
        bench.crashAndRestart()
        let kept = bench.disk.contents(at: ByteOffset(bytes: 0), byteCount: 16 * 512)
        for sector in 0..<16 {
            let bytes = Set(kept[(sector * 512)..<(sector * 512 + 512)])
            #expect(bytes.count == 1, "a sector is never torn")
            #expect(bytes.isSubset(of: sector < 8 ? [1, 2, 3, 4] : [1]))
        }
    }
    @Test("over many seeds power loss keeps all, none and mixtures")
    func powerLossVariety() {
        var seen: Set<[UInt8]> = []
        for seed in 0..<200 as Range<UInt64> {
            let bench = Bench(seed: seed)
            _ = bench.write(0, bench.sectors(1, 3))
            bench.crashAndRestart()
            let kept = bench.disk.contents(at: ByteOffset(bytes: 0), byteCount: 3 * 512)
            seen.insert([kept[0], kept[512], kept[1024]])
            bench.world.end()
        }
        #expect(seen.count == 8)
    }
    @Test(
        "a flush covers what completed before it was submitted, not what completed later", arguments: 0..<50)
    func flushCovers(seed: UInt64) {
        let bench = Bench(seed: seed)
        defer { bench.world.end() }
        _ = bench.write(0, bench.sectors(1, 8))
        bench.disk.faultHook = { if case .flush = $0 { .isDelayed(.milliseconds(5)) } else { nil } }
        let flush = bench.start { .flush($0) }
        _ = bench.write(0, bench.sectors(2, 4))
        #expect(!bench.isDone(flush))
        bench.world.run(for: .milliseconds(10))
        bench.crashAndRestart()
        let kept = bench.disk.contents(at: ByteOffset(bytes: 0), byteCount: 8 * 512)
        #expect(
            kept.prefix(4 * 512).allSatisfy { $0 == 1 || $0 == 2 }
                && kept.suffix(4 * 512).allSatisfy { $0 == 1 })
    }
    @Test("what a failed flush should have saved is not saved by the next one")
    func failedFlush() {
        var lost = 0
        for seed in 0..<100 as Range<UInt64> {
            let bench = Bench(seed: seed)
            _ = bench.write(0, bench.sectors(1, 8))
            bench.disk.faultHook = { if case .flush = $0 { .fails(.io(errno: 5)) } else { nil } }
            #expect(bench.flush()?.error == .io(errno: 5))
            bench.disk.faultHook = nil
            #expect(bench.flush()?.error == nil)
            bench.crashAndRestart()
            if bench.disk.contents(at: ByteOffset(bytes: 0), byteCount: 4096).contains(0) { lost += 1 }
            bench.world.end()
        }
        #expect(lost > 50)
    }
    @Test("without a volatile cache a completed write is durable, one in flight may be torn")
    func writeThrough() {
        let bench = Bench(seed: 1, hasVolatileCache: false)
        defer { bench.world.end() }
        _ = bench.write(0, bench.sectors(1, 8))
        bench.start { .write($0, at: ByteOffset(bytes: 4096), [Payload(copying: bench.sectors(2, 8))]) }
        bench.crashAndRestart()
        #expect(bench.disk.contents(at: ByteOffset(bytes: 0), byteCount: 4096).allSatisfy { $0 == 1 })
    }
    @Test("a killed process loses nothing that it had submitted, and hears of no completion")
    func killed() {
        let bench = Bench(seed: 2)
        defer { bench.world.end() }
        let write = bench.start {
            .write($0, at: ByteOffset(bytes: 0), [Payload(copying: bench.sectors(7, 8))])
        }
        bench.host.kill()
        bench.world.run(for: .seconds(1))
        #expect(!bench.isDone(write))
        #expect(bench.disk.contents(at: ByteOffset(bytes: 0), byteCount: 4096).allSatisfy { $0 == 7 })
    }
    @Test("each fault does what its name says")
    func faults() {
        let bench = Bench(seed: 3)
        defer { bench.world.end() }
        _ = bench.write(0, bench.sectors(1, 8))
        func next(_ fault: SimDiskFault) { bench.disk.faultHook = { _ in fault } }
        next(.fails(.io(errno: 5)))
        #expect(bench.read(0, 4096).0?.error == .io(errno: 5))
        next(.isLost)
        #expect(bench.write(0, bench.sectors(2, 8))?.error == nil)
        next(.tears)
        #expect(bench.write(8192, bench.sectors(3, 64))?.error == .io(errno: 5))
        next(.isMisdirected)
        #expect(bench.write(40960, bench.sectors(9, 8))?.error == nil)
        next(.hangs)
        #expect(bench.read(0, 4096).0 == nil && bench.disk.inFlightCount == 1)
        bench.disk.faultHook = nil
        #expect(bench.read(0, 4096).1.allSatisfy { $0 == 1 || $0 == 9 })
        let torn = Set(stride(from: 0, to: 64 * 512, by: 512).map { bench.read(8192, 64 * 512).1[$0] })
        #expect(torn.isSuperset(of: [0, 3]))
        bench.disk.rot(at: ByteOffset(bytes: 5))
        #expect(bench.read(0, 512).1[5].nonzeroBitCount != 1)
        bench.disk.breakSector(at: ByteOffset(bytes: 0))
        #expect(bench.read(0, 512).0?.error == .io(errno: 5))
        _ = bench.write(0, bench.sectors(1, 8))
        #expect(bench.read(0, 512).0?.error == nil)
    }
    @Test("a full file system refuses new pages and takes overwrites")
    func full() {
        var faults = SimDiskFaults.none
        faults.spaceBytesMax = 8192
        let bench = Bench(seed: 4, faults: faults)
        defer { bench.world.end() }
        #expect(bench.write(0, bench.sectors(1, 16))?.error == nil)
        #expect(bench.write(16384, bench.sectors(1, 8))?.error == .full)
        #expect(bench.write(0, bench.sectors(2, 16))?.error == nil)
    }
    @Test("a read past the end is short")
    func short() {
        let bench = Bench(seed: 5)
        defer { bench.world.end() }
        #expect(bench.read((1 << 20) - 512, 4096).0?.error == .short(got: 512))
    }
}
