import BlockTypes
import Environment
import Testing
import StoreCrashModel

@testable import ChunkStore

@Suite struct EngineTests {
    @Test("what is written is read back, what is not reads as zeroes")
    func readBack() throws {
        let harness = try StoreHarness()
        harness.prepare()
        harness.write(try harness.run(0, 10, 3), id: 5)
        harness.write(try harness.run(0, 12, 2), id: 6)
        harness.commitAll()
        #expect(try harness.read(try harness.run(0, 9, 6)) == [nil, 5, 5, 6, 6, nil])
        #expect(try harness.read(try harness.run(1, 0, 2)) == [nil, nil])
    }
    @Test("the map says which blocks are stored, trims included, durable here or not")
    func blockStatus() throws {
        let harness = try StoreHarness()
        harness.prepare()
        func map(_ first: Int, _ count: Int) throws -> String? {
            let run = try harness.run(0, first, count)
            return harness.store.blockStatus(harness.copyset, run)?.map { segment in
                if case .stored(let bytes) = segment {
                    "+\(bytes / 4096)"
                } else {
                    "-\(segment.byteCount / 4096)"
                }
            }.joined()
        }
        #expect(try map(0, 4096) == "-4096")
        harness.write(try harness.run(0, 10, 3), id: 5)
        harness.commitAll()
        #expect(try map(9, 6) == "-1+3-2" && map(10, 3) == "+3")
        harness.write(try harness.run(0, 13, 1), id: 6)
        harness.append(.trim(try harness.run(0, 11, 1), SnapshotNumber(0), harness.tag()))
        harness.take()
        #expect(try map(9, 6) == "-1+3-2")
        let last = try #require(harness.store.state(of: harness.copyset)?.last.index)
        harness.store.commit(harness.copyset, through: last)
        #expect(try map(9, 6) == "-1+1-1+2-1")
        harness.commitAll()
        #expect(try map(9, 6) == "-1+1-1+2-1")
        #expect(harness.store.blockStatus(CopysetID(999), try harness.run(0, 0, 1)) == nil)
    }
    @Test("an entry is invisible until it is committed, and visible at once then, durable here or not")
    func overlay() throws {
        let harness = try StoreHarness()
        harness.prepare()
        harness.write(try harness.run(0, 0, 2), id: 1)
        harness.commitAll()
        harness.write(try harness.run(0, 1, 2), id: 2)
        harness.append(.trim(try harness.run(0, 0, 1), SnapshotNumber(0), harness.tag()))
        harness.take()
        #expect(harness.disk.hasWork)
        // Committed by the two others while this device is still writing.
        let last = try #require(harness.store.state(of: harness.copyset)?.last.index)
        harness.store.commit(harness.copyset, through: last)
        harness.store.read(99, harness.copyset, try harness.run(0, 0, 4))
        harness.take()
        var answer: StoreRead?
        for case .readCompleted(99, let result) in harness.effects { answer = try result.get() }
        #expect(answer?.segments.map(\.byteCount) == [4096, 4096, 4096, 4096])
        #expect(answer?.checksums.count == 2)
        #expect(try harness.read(try harness.run(0, 0, 4)) == [nil, 2, 2, nil])
    }
    @Test("a repeated, a stale and an outlying request change nothing")
    func admission() throws {
        let harness = try StoreHarness()
        harness.prepare()
        let run = try harness.run(0, 0, 1)
        let (payload, checksums) = ModelBytes.payload([1])
        let tag = harness.tag()
        harness.append(.write(run, SnapshotNumber(0), tag, checksums: checksums, payload: payload))
        harness.write(run, id: 2)
        harness.append(.write(run, SnapshotNumber(0), tag, checksums: checksums, payload: payload))
        let old = RequestTag(session: Epoch(0), sequence: 9)
        harness.append(.write(run, SnapshotNumber(0), old, checksums: checksums, payload: payload))
        harness.write(try harness.run(64, 0, 1), id: 3)
        harness.commitAll()
        #expect(try harness.read(run) == [2])
        #expect(try harness.read(try harness.run(64, 0, 1)) == [nil])
        harness.tick()
        harness.store.retain(harness.copyset, after: LogIndex(100))
        harness.tick()
        #expect(harness.store.audit() == nil)
    }
    @Test("trimmed and deleted space comes back, also after a restart")
    func space() throws {
        let harness = try StoreHarness()
        harness.prepare()
        for chunk in 0..<UInt32(3) {
            for first in stride(from: 0, to: 2048, by: 64) {
                harness.write(try harness.run(chunk, first, 64), id: UInt64(first))
                harness.commitAll()
            }
        }
        let full = harness.store.usage.freeBytes
        var now = Duration.zero
        func settle() {
            for _ in 1...4 {
                now += .seconds(40)
                harness.store.retain(harness.copyset, after: LogIndex(1_000_000))
                harness.tick(now)
            }
        }
        harness.append(.trim(try harness.run(0, 0, 4096), SnapshotNumber(0), harness.tag()))
        harness.append(
            .fence(
                harness.volume,
                VolumeFence(epoch: Epoch(1), size: ByteCount(bytes: 16 << 20 + 4 << 20), change: 2)))
        // Late copies of the fence before it, which bring nothing back.
        harness.append(
            .fence(harness.volume, VolumeFence(epoch: Epoch(1), size: ByteCount(bytes: 1 << 30), change: 1)))
        harness.commitAll()
        settle()
        let trimmed = harness.store.usage.freeBytes
        #expect(trimmed >= full + 19 << 20)
        #expect(try harness.read(try harness.run(1, 1023, 2)) == [960, nil])
        harness.append(.deleteVolume(harness.volume))
        harness.commitAll()
        settle()
        #expect(harness.store.usage.freeBytes >= trimmed + 3 << 20)
        #expect(harness.store.audit() == nil)
        harness.crash()
        #expect(harness.didOpen && harness.store.audit() == nil)
        #expect(harness.store.volumeRecord(harness.copyset, harness.volume)?.isDeleted == true)
        // History for peers is kept again until somebody says that nobody needs it.
        settle()
        #expect(harness.store.usage.freeBytes >= trimmed + 3 << 20)
    }
    @Test("a clean restart keeps the last entries for peers that lag a little, superseded payload included")
    func history() throws {
        let harness = try StoreHarness()
        harness.prepare()
        for id in 1...UInt64(10) { harness.write(try harness.run(0, 0, 2), id: id) }
        harness.commitAll()
        harness.store.close()
        harness.drain()
        harness.disk.cutPower(&harness.random)
        harness.open()
        let state = try #require(harness.store.state(of: harness.copyset))
        #expect(state.last.index == LogIndex(11) && state.applied == LogIndex(11))
        #expect(state.base.index <= LogIndex(1))
        let entries = harness.loadEntries(from: 2)
        #expect(entries.count == 10)
        for (place, entry) in entries.enumerated() {
            guard case .write(_, _, _, _, let payload) = entry.operation else { continue }
            #expect(ModelBytes.id(of: payload, block: 1) == UInt64(place + 1))
        }
    }
    @Test("beyond the budget the oldest entries go, and the owner is told")
    func budget() throws {
        var settings = StoreSettings()
        settings.retainedEntriesMax = 20
        let harness = try StoreHarness(settings: settings)
        harness.prepare()
        for id in 1...UInt64(60) {
            harness.write(try harness.run(0, Int(id), 1), id: id)
            harness.commitAll()
        }
        let base = try #require(harness.store.state(of: harness.copyset)?.base)
        #expect(base.index >= LogIndex(40))
        var told: LogPosition?
        for case .logStart(_, let position) in harness.effects { told = position }
        #expect(told == base)
        #expect(harness.loadEntries(from: 1).isEmpty)
    }
    @Test("what other copysets keep never stops a copyset's own entries")
    func ownEntries() throws {
        var settings = StoreSettings()
        settings.retainedEntriesMax = 10
        let harness = try StoreHarness(settings: settings)
        harness.prepare()
        for _ in 0..<40 { harness.append(.noop) }
        harness.drain()
        let other = CopysetID(2)
        harness.store.createCopyset(other, members: [ServerID(5)])
        harness.drain()
        let noop = LogEntry(LogPosition(term: Term(1), index: LogIndex(1)), .noop)
        #expect(harness.store.appendableCount(of: [noop], to: other) == 1)
    }
    @Test("a device with a volatile cache is flushed once for all that was written, not once for each entry")
    func groupCommit() throws {
        let harness = try StoreHarness()
        harness.prepare()
        let before = harness.store.usage.traffic
        for id in 0..<UInt64(64) { harness.write(try harness.run(0, Int(id) * 3, 1), id: id) }
        harness.commitAll()
        let after = harness.store.usage.traffic
        #expect(after.flushes - before.flushes <= 2)
        // Side by side on the device, one write; and the journal block.
        #expect(after.writes - before.writes <= 4)
    }
    @Test("the incarnation rises with every opening, and another cluster's store is refused")
    func identity() throws {
        let harness = try StoreHarness()
        #expect(harness.store.identity.incarnation == Incarnation(1))
        harness.crash()
        #expect(harness.store.identity.incarnation == Incarnation(2))
        harness.store = ChunkStore(geometry: harness.disk.geometry, pool: harness.pool)
        harness.store.open(expectedCluster: UniqueID(high: 8, low: 8))
        harness.drain()
        #expect(harness.openError == .otherCluster(found: StoreHarness.cluster))
    }
    @Test("a heard revision of the metadata outlives a power loss, without a root for each of them")
    func metadataRevision() throws {
        let harness = try StoreHarness()
        harness.prepare()
        harness.store.remember(metadataRevision: 1)
        harness.tick(.seconds(6))
        #expect(harness.store.durableMetadataRevision == 1)
        let roots = harness.store.usage.traffic.superblockBytes
        for revision: UInt64 in [3, 9, 5] {
            harness.store.remember(metadataRevision: revision)
            harness.tick(.seconds(7))
        }
        #expect(harness.store.metadataRevision == 9)
        #expect(harness.store.durableMetadataRevision == 1)
        #expect(harness.store.usage.traffic.superblockBytes == roots)
        harness.tick(.seconds(12))
        #expect(harness.store.durableMetadataRevision == 9)
        #expect(harness.store.usage.traffic.superblockBytes == roots + 4 * 4096)
        harness.crash()
        #expect(harness.store.metadataRevision == 9)
        #expect(harness.store.durableMetadataRevision == 9)
    }

    @Test("a store says page by page which volumes it knows, with the newest fence of any copyset")
    func volumeKnowledge() throws {
        let harness = try StoreHarness()
        harness.prepare()
        for number: UInt64 in [3, 4, 9] {
            let fence = VolumeFence(epoch: Epoch(2), size: ByteCount(bytes: number << 20), change: 5)
            harness.append(.fence(VolumeID(number), fence))
        }
        harness.append(.deleteVolume(VolumeID(4)))
        harness.commitAll()
        let first = harness.store.volumes(after: VolumeID(0), countMax: 3)
        #expect(first.map(\.volume.rawValue) == [3, 4, 7])
        #expect(first.map(\.isDeleted) == [false, true, false])
        #expect(first[0].fence.size == ByteCount(bytes: 3 << 20) && first[0].fence.change == 5)
        let rest = harness.store.volumes(after: first[2].volume, countMax: 3)
        #expect(rest.map(\.volume.rawValue) == [9])
        #expect(harness.store.volumes(after: VolumeID(9), countMax: 3).isEmpty)
    }

    @Test("what each member of a group has done outlives a root and a crash, and goes when the member does")
    func groups() throws {
        let harness = try StoreHarness()
        harness.prepare()
        let size = ByteCount(bytes: 1 << 30)
        func fence(_ epoch: UInt32, _ group: [UInt32]) -> VolumeFence {
            VolumeFence(epoch: Epoch(epoch), size: size, change: epoch, group: group.map { Epoch($0) })
        }
        func write(_ session: UInt32, _ sequence: UInt64, id: UInt64) throws {
            let (payload, checksums) = ModelBytes.payload([id])
            harness.append(
                .write(
                    try harness.run(0, 0, 1), SnapshotNumber(0),
                    RequestTag(session: Epoch(session), sequence: sequence), checksums: checksums,
                    payload: payload))
            harness.commitAll()
        }
        harness.append(.fence(harness.volume, fence(3, [2, 3])))
        try write(2, 1, id: 21)
        try write(3, 1, id: 31)
        // The same request again, and a comparison that failed: both change nothing.
        try write(2, 1, id: 21)
        harness.append(.void(try harness.run(0, 0, 1), RequestTag(session: Epoch(3), sequence: 2)))
        harness.commitAll()
        try write(3, 2, id: 99)
        #expect(try harness.read(harness.run(0, 0, 1)) == [31])
        for round in 0..<4 {
            // A crash with a root that holds all of it, and one without.
            if round % 2 == 0 { harness.tick(.seconds(100 * (round + 1))) }
            let before = try #require(harness.store.volumeRecord(harness.copyset, harness.volume))
            harness.crash()
            let record = try #require(harness.store.volumeRecord(harness.copyset, harness.volume))
            #expect(record == before && record.fence.group.count == (round < 2 ? 2 : 1))
            #expect(try harness.read(harness.run(0, 0, 1)) == [31])
            #expect(harness.store.audit() == nil)
            guard round == 1 else { continue }
            harness.append(.fence(harness.volume, fence(4, [3])))
            try write(2, 2, id: 22)
        }
        let last = try #require(harness.store.volumeRecord(harness.copyset, harness.volume))
        #expect(last.admission(of: RequestTag(session: Epoch(3), sequence: 2)) == .repeated)
        #expect(last.admission(of: RequestTag(session: Epoch(2), sequence: 2)) == .stale)
    }

    @Test("a copyset comes back with its votes, members and uncommitted entries")
    func restart() throws {
        let harness = try StoreHarness()
        harness.prepare()
        harness.store.storeVote(harness.copyset, Term(4), votedFor: ServerID(6))
        harness.write(try harness.run(0, 0, 1), id: 1)
        harness.drain()
        #expect(harness.store.state(of: harness.copyset)?.isFresh == true)
        harness.crash()
        let state = try #require(harness.store.state(of: harness.copyset))
        #expect(state.term == Term(4) && state.votedFor == ServerID(6) && state.members.count == 3)
        #expect(state.last.index == LogIndex(2) && state.durable == LogIndex(2) && !state.isFresh)
        #expect(state.termStarts.last?.term == Term(1))
        harness.store.commit(harness.copyset, through: LogIndex(2))
        #expect(try harness.read(try harness.run(0, 0, 1)) == [1])
    }
    @Test("a device that is behind makes writers wait, it is not full")
    func deviceBehind() throws {
        let harness = try StoreHarness(sizeBytes: 192 << 20, journalBytes: 1 << 20)
        harness.prepare()
        let (payload, checksums) = ModelBytes.payload(Array(repeating: 3, count: 64))
        func write(_ place: Int) throws -> Operation {
            let run = try harness.run(UInt32(place / 64), place % 64 * 64, 64)
            return .write(run, SnapshotNumber(0), harness.tag(), checksums: checksums, payload: payload)
        }
        var place = 0
        while place < 1000, harness.store.room(for: try write(place), in: harness.copyset) == .enough {
            harness.append(try write(place))
            place += 1
        }
        #expect(place == 256)
        #expect(harness.store.room(for: try write(place), in: harness.copyset) == .later)
        harness.commitAll()
        #expect(harness.store.room(for: try write(place), in: harness.copyset) == .enough)
    }
    @Test("a follower whose room is all history lets it go for the entries that come")
    func historyGoesFirst() throws {
        let harness = try StoreHarness(sizeBytes: 32 << 20, journalBytes: 2 << 20)
        harness.prepare()
        let (payload, checksums) = ModelBytes.payload(Array(repeating: 3, count: 64))
        func entry() throws -> LogEntry {
            let write = Operation.write(
                try harness.run(0, 0, 64), SnapshotNumber(0), harness.tag(), checksums: checksums,
                payload: payload)
            return LogEntry(LogPosition(term: Term(1), index: LogIndex(UInt64(rounds) + 2)), write)
        }
        // A member is gone for good, so nobody says that what it has not seen may go.
        var rounds = 0
        while rounds < 1000 {
            let next = try entry()
            guard harness.store.appendableCount(of: [next], to: harness.copyset) == 1 else { break }
            harness.append(next.operation)
            harness.commitAll()
            rounds += 1
        }
        #expect((50..<1000).contains(rounds), "it is full of what was overwritten")
        // Once to let it go, once more when that is durable.
        for _ in 0..<2 { harness.tick() }
        #expect(harness.store.appendableCount(of: [try entry()], to: harness.copyset) == 1)
    }
    @Test("growth stops while there is a reserve, a quarter of a small store; overwrites go on, trims always")
    func room() throws {
        let harness = try StoreHarness(sizeBytes: 24 << 20, journalBytes: 1 << 20)
        harness.prepare()
        var first = 0
        func operation(_ run: BlockRun) -> Operation {
            let (payload, checksums) = ModelBytes.payload(Array(repeating: 3, count: run.blockCount))
            return .write(run, SnapshotNumber(0), harness.tag(), checksums: checksums, payload: payload)
        }
        while first < 16000 {
            let next = operation(try harness.run(UInt32(first / 4096), first % 4096, 16))
            guard harness.store.room(for: next, in: harness.copyset) == .enough else { break }
            harness.append(next)
            harness.commitAll()
            first += 16
            harness.tick()
        }
        let usage = harness.store.usage
        #expect(first > 3000)
        #expect((usage.capacityBytes / 5..<usage.capacityBytes * 3 / 10).contains(usage.freeBytes))
        #expect(harness.store.growthBlocks(of: try harness.run(0, 0, 16), in: harness.copyset) == 0)
        let room = try #require(harness.store.growthRoomBlocks)
        #expect(room < 16 + ChunkStore.mapBlocksPerRun)
        for _ in 0..<200 {
            let again = operation(try harness.run(0, Int.random(in: 0..<100, using: &harness.random), 4))
            #expect(harness.store.room(for: again, in: harness.copyset) == .enough)
            harness.append(again)
            harness.commitAll()
            harness.tick()
            harness.store.retain(harness.copyset, after: LogIndex(1 << 40))
        }
        harness.append(.trim(try harness.run(0, 0, 4096), SnapshotNumber(0), harness.tag()))
        harness.commitAll()
        harness.tick()
        #expect(
            harness.store.room(for: operation(try harness.run(3, 4000, 16)), in: harness.copyset) == .enough)
        #expect(harness.store.audit() == nil)
    }
}
