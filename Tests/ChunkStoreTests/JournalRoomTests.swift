import BlockTypes
import Environment
import Testing
import StoreCrashModel

@testable import ChunkStore

/// The ring goes on for those who can go on, whatever the others keep in it.
@Suite struct JournalRoomTests {
    /// Copysets of which each has a log of its own here.
    private final class Logs {
        let harness: StoreHarness
        var last: [UInt64]
        var cut: [UInt32]

        init(copysets: Int, journalBytes: UInt64, sizeBytes: UInt64 = 64 << 20, sectorBytes: Int = 4096)
            throws
        {
            harness = try StoreHarness(
                sizeBytes: sizeBytes, sectorBytes: sectorBytes, journalBytes: journalBytes)
            (last, cut) = (Array(repeating: 0, count: copysets), Array(repeating: 1, count: copysets))
            for number in 0..<copysets { harness.store.createCopyset(id(number), members: [ServerID(5)]) }
            harness.drain()
        }
        func id(_ number: Int) -> CopysetID { CopysetID(UInt32(number + 1)) }
        /// - Returns: false when the store does not take it now.
        @discardableResult func append(_ number: Int) -> Bool {
            let position = LogPosition(term: Term(cut[number]), index: LogIndex(last[number] + 1))
            let entries = [LogEntry(position, .noop)]
            guard harness.store.appendableCount(of: entries, to: id(number)) == entries.count else {
                return false
            }
            harness.store.append(id(number), entries)
            last[number] += 1
            return true
        }
        /// A new leader that knows nothing of the last entries.
        func replace(_ number: Int, from index: UInt64) {
            harness.store.truncate(id(number), from: LogIndex(index))
            last[number] = index - 1
            cut[number] += 1
        }
        func applied(_ number: Int) -> UInt64 {
            harness.store.state(of: id(number))?.applied.rawValue ?? 0
        }
        /// Entries one by one, each committed; ticks in between.
        /// - Returns: how many of them got through.
        func goOn(_ number: Int, entries: Int) -> UInt64 {
            let before = applied(number)
            for step in 0..<entries {
                append(number)
                harness.drain()
                let durable = harness.store.state(of: id(number))?.durable ?? LogIndex(0)
                harness.store.commit(id(number), through: durable)
                if step % 16 == 0 { harness.store.tick(now: .milliseconds(step)) }
                harness.drain()
            }
            return applied(number) - before
        }
    }

    @Test(
        "copysets that lost their quorum leave the ring to the others",
        arguments: [(2, UInt64(128 << 10)), (9, 512 << 10), (20, 1 << 20), (60, 4 << 20)])
    func lostQuorums(_ copysets: Int, _ journalBytes: UInt64) throws {
        let logs = try Logs(copysets: copysets, journalBytes: journalBytes)
        for _ in 0..<400 {
            for number in 1..<copysets { logs.append(number) }
            logs.harness.drain()
        }
        #expect(logs.goOn(0, entries: 2000) >= 1999)
        for number in 1..<copysets { #expect(logs.applied(number) == 0 && logs.last[number] >= 1) }
        // All of it survives a crash, and still nobody is locked up.
        logs.harness.crash()
        #expect(logs.harness.didOpen)
        for number in 0..<copysets {
            logs.last[number] = logs.harness.store.state(of: logs.id(number))?.last.index.rawValue ?? 0
        }
        logs.harness.store.commit(logs.id(0), through: LogIndex(logs.last[0]))
        #expect(logs.goOn(0, entries: 500) >= 499)
        for number in 1..<copysets {
            logs.harness.store.commit(logs.id(number), through: LogIndex(logs.last[number]))
            logs.harness.drain()
            #expect(logs.applied(number) == logs.last[number])
        }
    }
    @Test("leaders that come and go without committing do not lock the ring up", arguments: [512, 4096])
    func deadLeaders(_ sectorBytes: Int) throws {
        let logs = try Logs(copysets: 2, journalBytes: 128 << 10, sectorBytes: sectorBytes)
        for round in 0..<600 {
            for number in 0..<2 {
                for _ in 0...(round % 5) { logs.append(number) }
                if round % 3 == number { logs.replace(number, from: 1 + UInt64(round % 2)) }
                logs.harness.store.storeVote(logs.id(number), Term(UInt32(round + 1)), votedFor: nil)
                // Truncations and votes pile up while the device is slow, one journal block for each else.
                if round % 7 < 5 { logs.harness.drain() } else { logs.harness.take() }
            }
        }
        logs.harness.drain()
        for number in 0..<2 { #expect(logs.goOn(number, entries: 100) >= 99) }
        logs.harness.store.close()
        logs.harness.drain()
        #expect(logs.harness.isClosed)
    }
    @Test("more copysets than the journal serves are refused with the reason")
    func tooMany() throws {
        let most = StoreFormat.copysetsMax(journalBytes: 1 << 20)
        #expect(most == 20 && StoreFormat.copysetsMax(journalBytes: StoreFormat.journalBytesMin) == 2)
        let logs = try Logs(copysets: most + 1, journalBytes: 1 << 20)
        #expect(logs.harness.store.copysets.count == most)
        #expect(logs.harness.refusals.map(\.description).first?.contains("at most 20 copysets") == true)
        // One that is there already is only confirmed.
        logs.harness.store.createCopyset(logs.id(3), members: [ServerID(5)])
        logs.harness.drain()
        #expect(logs.harness.refusals.count == 1)
    }
}
