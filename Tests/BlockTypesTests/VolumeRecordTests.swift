import Testing

@testable import BlockTypes

@Suite struct VolumeRecordTests {
    let fence = VolumeFence(epoch: Epoch(3), size: ByteCount(bytes: 1 << 30))
    func tag(_ sequence: UInt64, epoch: UInt32 = 3) -> RequestTag {
        RequestTag(session: Epoch(epoch), sequence: sequence)
    }

    @Test("a request is fresh once, repeated inside the window, stale beyond it, as a plain set would say")
    func window() {
        var record = VolumeRecord(fence: fence)
        var done: Set<UInt64> = []
        var random = SeededRandom(seed: 7)
        var highest: UInt64 = 0
        for _ in 0..<20_000 {
            let jump = random.oneIn(200) ? UInt64(5000) : 40
            let sequence = UInt64.random(in: 1...(highest + jump), using: &random)
            let wanted: VolumeRecord.Admission =
                sequence + RequestTag.windowRequests <= highest
                ? .stale : done.contains(sequence) ? .repeated : .fresh
            #expect(record.admission(of: tag(sequence)) == wanted)
            if wanted == .fresh {
                record.apply(tag(sequence))
                done.insert(sequence)
                highest = max(highest, sequence)
            }
        }
    }
    @Test("a new epoch forgets the old attachment's requests and refuses them from then on")
    func epochs() {
        var record = VolumeRecord(fence: fence)
        record.apply(tag(1))
        record.apply(VolumeFence(epoch: Epoch(4), size: fence.size))
        #expect(record.admission(of: tag(2)) == .stale)
        #expect(record.admission(of: tag(1, epoch: 4)) == .fresh)
        record.apply(VolumeFence(epoch: Epoch(2), size: ByteCount(bytes: 1 << 20)))
        #expect(record.fence.epoch == Epoch(4) && record.fence.size == fence.size)
    }
}
