import BlockTypes
import Testing

@testable import ChunkStore

/// Device bytes for each user byte, journal and checkpoints included (ENGINE 4.4).
@Suite struct WriteAmplificationTests {
    /// Writes of `blocks` blocks at random places of a volume, `batch` at a time, with checkpoints as they
    /// come.
    private func amplification(sectorBytes: Int, batch: Int, blocks: Int, rounds: Int) throws -> Double {
        var settings = StoreSettings()
        settings.checkpointEvery = .seconds(3600)
        let harness = try StoreHarness(
            sizeBytes: 96 << 20, sectorBytes: sectorBytes, hasVolatileCache: false, settings: settings)
        harness.prepare()
        var random = SeededRandom(seed: 3)
        // The whole volume is mapped before anything is counted.
        for chunk in 0..<UInt32(2) {
            for first in stride(from: 0, to: 4096, by: 64) {
                harness.write(try harness.run(chunk, first, 64), id: 1)
                harness.commitAll()
            }
        }
        let before = harness.store.usage.traffic
        let deviceBefore = harness.disk.writtenBytes
        for round in 0..<rounds {
            for _ in 0..<batch {
                let first = Int.random(in: 0..<(4096 / blocks), using: &random) * blocks
                let chunk = UInt32.random(in: 0..<2, using: &random)
                harness.write(try harness.run(chunk, first, blocks), id: UInt64(round))
            }
            harness.commitAll()
            harness.store.retain(
                harness.copyset, after: harness.store.state(of: harness.copyset)?.applied ?? LogIndex(0))
            harness.tick(.milliseconds(round * 50))
        }
        harness.settings.checkpointEvery = .zero
        harness.store.close()
        harness.drain()
        let after = harness.store.usage.traffic
        #expect(harness.failure == nil)
        // I19: what the store counts is what the device saw.
        #expect(after.writtenBytes - before.writtenBytes == UInt64(harness.disk.writtenBytes - deviceBefore))
        return Double(after.writtenBytes - before.writtenBytes) / Double(after.userBytes - before.userBytes)
    }
    @Test("4 KiB random writes cost at most 1.20 with sectors of 4096 bytes and batches of 8")
    func sector4096() throws {
        #expect(try amplification(sectorBytes: 4096, batch: 8, blocks: 1, rounds: 300) <= 1.20)
    }
    @Test("4 KiB random writes cost at most 1.08 with sectors of 512 bytes and batches of 8")
    func sector512() throws {
        #expect(try amplification(sectorBytes: 512, batch: 8, blocks: 1, rounds: 300) <= 1.08)
    }
    @Test("1 MiB writes cost at most 1.02")
    func large() throws {
        #expect(try amplification(sectorBytes: 4096, batch: 4, blocks: 64, rounds: 50) <= 1.02)
    }
}
