import BlockTypes
import CurveClient
import Testing

@testable import ClusterScenario

@Suite("asking three replicas for the map") struct ClusterMapTests {
    /// Stored and absent blocks of the first 32, as `+3-29`; or the error.
    private func map(_ stage: WorldStage, _ volume: RemoteVolume) -> String {
        var result: VolumeResult?
        let length = ByteCount(bytes: UInt64(32 * Geometry.blockBytes))
        volume.submit(.blockStatus(start: ByteOffset(bytes: 0), length: length)) { result = $0 }
        guard stage.world.run(within: .seconds(60), until: { result != nil }), let result else {
            return "silence"
        }
        switch result {
        case .failure(let error): return "\(error)"
        case .success(let segments):
            return segments.map { segment in
                let blocks = segment.byteCount / Geometry.blockBytes
                if case .stored = segment { return "+\(blocks)" } else { return "-\(blocks)" }
            }.joined()
        }
    }

    @Test("what was written and trimmed shows, to the holder alone: who was taken over gets no map")
    func takeover() throws {
        let stage = try WorldStage()
        defer { stage.world.end() }
        let old = try stage.attach("old")
        #expect(map(stage, old) == "-32")
        try stage.write(old, block: 2, count: 3)
        let middle = ByteOffset(bytes: UInt64(3 * Geometry.blockBytes))
        try stage.submit(
            old, .trim(start: middle, length: ByteCount(bytes: UInt64(Geometry.blockBytes))))
        #expect(map(stage, old) == "-2+1-1+1-27")
        let new = try stage.attach("new", takeOver: true)
        #expect(map(stage, new) == "-2+1-1+1-27")
        #expect(map(stage, old) == "fenced")
    }
}
