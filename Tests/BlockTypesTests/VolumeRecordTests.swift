import Testing

@testable import BlockTypes

@Suite struct VolumeRecordTests {
    let fence = VolumeFence(epoch: Epoch(3), size: ByteCount(bytes: 1 << 30), change: 1)
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
        record.apply(VolumeFence(epoch: Epoch(4), size: fence.size, change: 1))
        #expect(record.admission(of: tag(2)) == .stale)
        #expect(record.admission(of: tag(1, epoch: 4)) == .fresh)
        record.apply(VolumeFence(epoch: Epoch(2), size: ByteCount(bytes: 1 << 20), change: 1))
        #expect(record.fence.epoch == Epoch(4) && record.fence.size == fence.size)
    }
    @Test("a group's attachments have a window each, which others' coming and going leaves alone")
    func groups() {
        var record = VolumeRecord(fence: fence)
        record.apply(tag(1))
        var shared = VolumeFence(epoch: Epoch(5), size: fence.size, change: 2, group: [Epoch(4), Epoch(5)])
        record.apply(shared)
        #expect(record.admission(of: tag(2)) == .stale)
        record.apply(tag(1, epoch: 4))
        record.apply(tag(9, epoch: 5))
        #expect(record.admission(of: tag(1, epoch: 5)) == .fresh)
        (shared.epoch, shared.group) = (Epoch(6), [Epoch(4), Epoch(6)])
        record.apply(shared)
        #expect(record.admission(of: tag(1, epoch: 4)) == .repeated)
        #expect(record.admission(of: tag(10, epoch: 5)) == .stale)
        #expect(record.admission(of: tag(1, epoch: 6)) == .fresh)
        // A member that was removed by the one that stays.
        (shared.epoch, shared.group) = (Epoch(7), [Epoch(4)])
        record.apply(shared)
        #expect(record.fence.accepts(Epoch(4)) && !record.fence.accepts(Epoch(7)))
        #expect(record.admission(of: tag(1, epoch: 6)) == .stale)
        record.apply(VolumeFence(epoch: Epoch(8), size: fence.size, change: 4))
        #expect(record.admission(of: tag(2, epoch: 4)) == .stale)
        #expect(record.admission(of: tag(1, epoch: 8)) == .fresh)
    }
    @Test("a late copy of an older size under the same epoch changes nothing")
    func changes() {
        var record = VolumeRecord(fence: fence)
        record.apply(tag(1))
        let smaller = VolumeFence(epoch: fence.epoch, size: ByteCount(bytes: 1 << 20), change: 2)
        record.apply(smaller)
        #expect(record.fence == smaller && record.admission(of: tag(1)) == .repeated)
        record.apply(fence)
        #expect(record.fence == smaller)
        let late = VolumeFence(epoch: Epoch(2), size: fence.size, change: 9)
        record.apply(late)
        #expect(record.fence == smaller && !smaller.isNewer(than: smaller))
    }
}
