import BlockTypes
import Environment
import Testing
import StoreCrashModel

@testable import ChunkStore

@Suite struct FaultTests {
    /// The device block that holds a block of the volume.
    private func location(_ harness: StoreHarness, _ block: Int) throws -> UInt64 {
        let chunk = try #require(
            harness.store.copysetsByID[harness.copyset]?.volumes[harness.volume]?.chunks[0])
        return UInt64(chunk.entry(block).location)
    }
    @Test("a rotten block is not returned; a peer's copy repairs it, and the place is never used again")
    func repair() throws {
        let harness = try StoreHarness()
        harness.prepare()
        harness.write(try harness.run(0, 0, 4), id: 9)
        harness.commitAll()
        let bad = try location(harness, 2)
        harness.disk.flipBit(at: Int(bad) * 4096 + 17)
        let run = try harness.run(0, 0, 4)
        #expect(throws: StoreReadError.corrupt(blocks: [2])) { try harness.readResult(run).get() }
        let (payload, checksums) = ModelBytes.payload([9])
        harness.store.repair(
            harness.copyset, try harness.run(0, 2, 1), payload: payload, checksums: checksums)
        harness.drain()
        #expect(try harness.read(run) == [9, 9, 9, 9])
        #expect(harness.store.usage.badBytes == 4096 && harness.store.usage.mendedBlocks == 1)
        harness.crash()
        #expect(try harness.read(run) == [9, 9, 9, 9])
        #expect(try location(harness, 2) != bad && harness.store.badBlocks == [UInt32(bad)])
        harness.store.close()
        harness.drain()
        harness.open()
        #expect(try harness.read(run) == [9, 9, 9, 9] && harness.store.badBlocks == [UInt32(bad)])
        #expect(harness.store.audit() == nil)
    }
    @Test("a repair with other bytes than the map wants is ignored")
    func wrongRepair() throws {
        let harness = try StoreHarness()
        harness.prepare()
        harness.write(try harness.run(0, 0, 1), id: 9)
        harness.commitAll()
        let (payload, checksums) = ModelBytes.payload([8])
        harness.store.repair(
            harness.copyset, try harness.run(0, 0, 1), payload: payload, checksums: checksums)
        harness.drain()
        #expect(try harness.read(try harness.run(0, 0, 1)) == [9])
    }
    @Test("a data write that fails goes elsewhere and is acknowledged only there")
    func failedWrite() throws {
        let harness = try StoreHarness()
        harness.prepare()
        harness.write(try harness.run(0, 0, 2), id: 1)
        harness.commitAll()
        let next = try location(harness, 1) + 1
        for block in next..<(next + 3) { harness.disk.failing[block] = .io(errno: 5) }
        harness.write(try harness.run(0, 0, 2), id: 2)
        harness.write(try harness.run(0, 4, 1), id: 3)
        harness.commitAll()
        #expect(harness.failure == nil)
        #expect(harness.store.state(of: harness.copyset)?.durable == LogIndex(4))
        let whole = try harness.run(0, 0, 5)
        let found = try harness.read(whole)
        #expect(found == [2, 2, nil, nil, 3])
        #expect(harness.store.usage.badBytes > 0)
        harness.crash()
        harness.store.commit(harness.copyset, through: LogIndex(4))
        #expect(try harness.read(whole) == [2, 2, nil, nil, 3])
        harness.tick()
        #expect(harness.store.audit() == nil)
    }
    /// The file system below is full from here on, and an entry finds that out.
    private func writeWithoutRoom(_ harness: StoreHarness) throws {
        let next = try location(harness, 1) + 1
        for block in next..<(next + 8000) { harness.disk.failing[block] = .full }
        harness.write(try harness.run(0, 0, 1), id: 2)
        harness.drain()
        #expect(harness.store.usage.isOutOfSpaceBelow)
    }
    @Test("a full file system below holds an entry up, not the others, and trims go on")
    func fullBelow() throws {
        let harness = try StoreHarness(isLazilyGrown: true)
        harness.prepare()
        let other = CopysetID(2)
        harness.store.createCopyset(other, members: [ServerID(5)])
        harness.write(try harness.run(0, 0, 2), id: 1)
        harness.commitAll()
        try writeWithoutRoom(harness)
        #expect(harness.store.state(of: harness.copyset)?.durable == LogIndex(2))
        harness.store.append(other, [LogEntry(LogPosition(term: Term(1), index: LogIndex(1)), .noop)])
        harness.drain()
        #expect(harness.store.state(of: other)?.durable == LogIndex(1))
        let (payload, checksums) = ModelBytes.payload([1])
        let write = Operation.write(
            try harness.run(0, 9, 1), SnapshotNumber(0), harness.tag(), checksums: checksums, payload: payload
        )
        #expect(harness.store.room(for: write, in: harness.copyset) == .none)
        let trim = Operation.trim(try harness.run(0, 9, 1), SnapshotNumber(0), harness.tag())
        #expect(harness.store.room(for: trim, in: harness.copyset) == .enough)
        harness.tick()
        harness.disk.failing = [:]
        harness.tick(.seconds(2))
        harness.commitAll()
        #expect(harness.failure == nil && !harness.store.usage.isOutOfSpaceBelow)
        #expect(try harness.read(try harness.run(0, 0, 2)) == [2, 1])
    }
    @Test("a leader that found no room, and lost the entry that asked for it, finds room again")
    func roomAgain() throws {
        let harness = try StoreHarness(isLazilyGrown: true)
        harness.prepare()
        harness.write(try harness.run(0, 0, 2), id: 1)
        harness.commitAll()
        try writeWithoutRoom(harness)
        harness.store.truncate(harness.copyset, from: LogIndex(3))
        harness.disk.failing = [:]
        for second in 1...5 { harness.tick(.seconds(second)) }
        let (payload, checksums) = ModelBytes.payload([1])
        let write = Operation.write(
            try harness.run(0, 0, 1), SnapshotNumber(0), harness.tag(), checksums: checksums, payload: payload
        )
        #expect(harness.store.room(for: write, in: harness.copyset) == .enough)
    }
    @Test("what is written again, because it found no room, counts again")
    func trafficOfRetries() throws {
        let harness = try StoreHarness(isLazilyGrown: true)
        let before = Int(harness.store.usage.traffic.writtenBytes) - harness.writtenBytes
        harness.prepare()
        harness.write(try harness.run(0, 0, 2), id: 1)
        harness.commitAll()
        let next = try location(harness, 1) + 1
        for block in next..<(next + 8000) { harness.disk.failing[block] = .full }
        // A checkpoint is due, and its pages find no room for some ticks.
        for second in 100...104 { harness.tick(.seconds(second)) }
        harness.disk.failing = [:]
        for second in 105...107 { harness.tick(.seconds(second)) }
        #expect(harness.failure == nil && harness.store.usage.traffic.checkpointBytes > 0)
        #expect(Int(harness.store.usage.traffic.writtenBytes) - harness.writtenBytes == before)
    }
    @Test("a journal that can not be written stops the store for good")
    func journalFails() throws {
        let harness = try StoreHarness()
        harness.prepare()
        for block in UInt64(257)..<4000 { harness.disk.failing[block] = .io(errno: 5) }
        harness.append(.noop)
        harness.drain()
        #expect(harness.failure == .journal(.io(errno: 5)))
        // It is not full: who asks it must not be told so.
        let (payload, checksums) = ModelBytes.payload([1])
        let write = Operation.write(
            try harness.run(0, 0, 1), SnapshotNumber(0), RequestTag(session: Epoch(1), sequence: 1),
            checksums: checksums, payload: payload)
        #expect(harness.store.room(for: write, in: harness.copyset) == .later)
    }
    @Test("bad places for map pages are passed over")
    func badPages() throws {
        let harness = try StoreHarness()
        harness.prepare()
        let usable = UInt64(harness.store.layout.firstDataBlock)..<UInt64(harness.store.layout.endBlock)
        let roots = harness.store.layout.superblockBlocks.map { UInt64($0) }
        for block in usable where block % 7 == 0 && !roots.contains(block) {
            harness.disk.failing[block] = .io(errno: 5)
        }
        for chunk in 0..<UInt32(4) {
            for leaf in 0..<8 { harness.write(try harness.run(chunk, leaf * 512, 1), id: UInt64(chunk)) }
        }
        harness.commitAll()
        harness.store.close()
        harness.drain()
        #expect(harness.failure == nil)
        harness.open()
        #expect(harness.didOpen)
        #expect(try harness.read(try harness.run(3, 3584, 1)) == [3])
        #expect(harness.store.audit() == nil)
    }
    @Test("payload that was durable and is gone makes the copyset faulty, not shorter (rule R4)")
    func lostDurable() throws {
        let harness = try StoreHarness()
        harness.prepare()
        harness.write(try harness.run(0, 0, 1), id: 1)
        harness.drain()
        harness.store.storeVote(harness.copyset, Term(3), votedFor: nil)
        harness.drain()
        let slot = try #require(harness.store.copysetsByID[harness.copyset]?.log[LogIndex(2)])
        harness.disk.flipBit(at: Int(slot.spans.block(0)) * 4096)
        harness.crash()
        let state = try #require(harness.store.state(of: harness.copyset))
        #expect(state.isFaulty && state.isSyncing && state.voteFloor.index == LogIndex(2))
        #expect(state.term == Term(3))
        #expect(throws: StoreReadError.notHere) {
            try harness.readResult(try harness.run(0, 0, 1)).get()
        }
        harness.crash()
        #expect(harness.store.state(of: harness.copyset)?.isSyncing == true)
    }
    @Test("a rotten leaf makes its copyset faulty and leaves the store usable")
    func rottenLeaf() throws {
        let harness = try StoreHarness()
        harness.prepare()
        harness.write(try harness.run(0, 0, 1), id: 1)
        harness.commitAll()
        harness.store.close()
        harness.drain()
        let chunk = try #require(
            harness.store.copysetsByID[harness.copyset]?.volumes[harness.volume]?.chunks[0])
        harness.disk.flipBit(at: Int(chunk.pages[0].location) * 4096 + 8)
        harness.open()
        #expect(harness.didOpen && harness.store.state(of: harness.copyset)?.isFaulty == true)
        harness.tick()
        #expect(harness.store.audit() == nil)
    }
    @Test("a rotten table page, journal or superblock is named when the store is opened")
    func rottenRoots() throws {
        let harness = try StoreHarness()
        harness.prepare()
        for id in 1...UInt64(5) {
            harness.write(try harness.run(0, 0, 1), id: id)
            harness.commitAll()
        }
        harness.store.close()
        harness.drain()
        let table = Int(harness.store.tables[1].pages[0].location) * 4096
        harness.disk.flipBit(at: table)
        harness.open()
        guard case .damaged? = harness.openError else { return #expect(Bool(false), "\(harness.effects)") }
        harness.disk.flipBit(at: table)
        harness.disk.flipBit(at: Int(StoreLayout.journalStart) + 4096 + 20)
        harness.open()
        guard case .damaged? = harness.openError else { return #expect(Bool(false), "\(harness.effects)") }
        harness.disk.flipBit(at: Int(StoreLayout.journalStart) + 4096 + 20)
        for copy in [0, 2] {
            harness.disk.flipBit(at: Int(harness.store.layout.superblockBlocks[copy]) * 4096 + 60)
        }
        harness.open()
        #expect(harness.didOpen)
        for copy in [0, 1, 3] {
            harness.disk.flipBit(at: Int(harness.store.layout.superblockBlocks[copy]) * 4096 + 60)
        }
        harness.open()
        guard case .damaged? = harness.openError else { return #expect(Bool(false), "\(harness.effects)") }
    }
    @Test("an empty device is not a store, and a device that shrank says so")
    func notAStore() throws {
        let harness = try StoreHarness()
        let empty = CrashDisk(harness.disk.geometry)
        #expect(ChunkStore.probe(Payload(copying: empty.block(0))) == nil)
        #expect(ChunkStore.probe(Payload(copying: harness.disk.block(0)))?.server == ServerID(5))
        let smaller = DiskGeometry(
            size: ByteCount(bytes: 40 << 20), sectorBytes: 4096, hasVolatileCache: true)
        harness.store = ChunkStore(geometry: smaller, pool: harness.pool)
        harness.store.open(expectedCluster: nil)
        harness.drain()
        #expect(
            harness.openError
                == .truncated(expected: ByteCount(bytes: 64 << 20), found: ByteCount(bytes: 40 << 20)))
    }
    @Test("a piece of a full copy names the blocks that can not be read, and comes once they are mended")
    func badPiece() throws {
        let harness = try StoreHarness()
        harness.prepare()
        harness.write(try harness.run(0, 7, 5), id: 1)
        harness.commitAll()
        for block in [8, 9, 11] { harness.disk.flipBit(at: Int(try location(harness, block)) * 4096) }
        func piece() -> (SyncPiece?, [BlockRun])? {
            harness.store.readSyncPiece(1, harness.copyset, from: .start)
            harness.drain()
            for case .syncPieceRead(1, let piece, let bad) in harness.effects.reversed() {
                return (piece, bad)
            }
            return nil
        }
        let failed = try #require(piece())
        #expect(failed.0 == nil)
        #expect(try failed.1 == [harness.run(0, 8, 2), harness.run(0, 11, 1)])
        for run in failed.1 {
            let (payload, checksums) = ModelBytes.payload(Array(repeating: 1, count: run.blockCount))
            harness.store.repair(harness.copyset, run, payload: payload, checksums: checksums)
            harness.drain()
        }
        #expect(try piece()?.0?.runs.map(\.run) == [harness.run(0, 7, 5)])
    }
    @Test(
        "a copy is complete only once the log is durable up to its source's term and what was given up for it"
    )
    func copyGate() throws {
        let harness = try StoreHarness()
        harness.prepare()
        var ticks = 0
        func copyEverything(floor: LogPosition) {
            let base = LogPosition(term: Term(3), index: LogIndex(10))
            harness.store.beginSync(
                harness.copyset, base: base, sourceTerm: Term(5),
                voteFloor: floor, blocks: 0, volumes: [])
            harness.drain()
            harness.store.installPiece(
                harness.copyset, SyncPiece(from: .start, next: nil, applied: base.index, runs: []))
            harness.drain()
            harness.store.finishSync(harness.copyset)
            tick()
        }
        func tick() {
            ticks += 1
            harness.tick(.seconds(ticks))
        }
        func append(_ term: UInt32, _ index: UInt64) {
            let position = LogPosition(term: Term(term), index: LogIndex(index))
            harness.store.append(harness.copyset, [LogEntry(position, .noop)])
            harness.drain()
            tick()
        }
        func isFinished() -> Bool {
            harness.effects.contains { if case .syncFinished = $0 { true } else { false } }
        }
        copyEverything(floor: LogPosition(term: Term(1), index: LogIndex(1)))
        append(4, 11)
        #expect(!isFinished())
        harness.crash()
        let unfinished = try #require(harness.store.state(of: harness.copyset))
        #expect(unfinished.isSyncing && unfinished.voteFloor.index == LogIndex(1))
        copyEverything(floor: LogPosition(term: Term(5), index: LogIndex(13)))
        append(4, 11)
        append(5, 12)
        #expect(!isFinished())
        append(5, 13)
        #expect(isFinished())
        harness.crash()
        let finished = try #require(harness.store.state(of: harness.copyset))
        #expect(!finished.isSyncing && finished.last == LogPosition(term: Term(5), index: LogIndex(13)))
    }
    @Test("a read that fails is tried again, then reported block by block")
    func readErrors() throws {
        let harness = try StoreHarness()
        harness.prepare()
        harness.write(try harness.run(0, 0, 3), id: 1)
        harness.commitAll()
        harness.disk.failing[try location(harness, 1) | 1 << 63] = .io(errno: 5)
        #expect(throws: StoreReadError.io(blocks: [1], .io(errno: 5))) {
            try harness.readResult(try harness.run(0, 0, 3)).get()
        }
    }
}
