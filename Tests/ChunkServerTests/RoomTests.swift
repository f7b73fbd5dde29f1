import BlockTypes
import ChunkStore
import Testing

@testable import ChunkServer

private let (one, two, three) = (ServerID(1), ServerID(2), ServerID(3))

@Suite struct RoomTests {
    private func ledger(_ shares: [ServerID: UInt64]) -> RoomLedger {
        var ledger = RoomLedger()
        for (server, share) in shares { ledger.heard(from: server, shareBlocks: share, at: .zero) }
        return ledger
    }

    @Test("the member with the least room decides")
    func least() {
        let ledger = ledger([one: 1000, two: 10, three: 1000])
        #expect(ledger.room(for: 10, on: [one, two, three], at: .zero) == .enough)
        #expect(ledger.room(for: 11, on: [one, two, three], at: .zero) == .none)
        #expect(ledger.room(for: 11, on: [one, three], at: .zero) == .enough)
    }

    @Test("what was let in counts until the member has it; then comes its next word")
    func outstanding() {
        var ledger = ledger([one: 100])
        ledger.add(95, of: one)
        #expect(ledger.room(for: 5, on: [one], at: .zero) == .enough)
        #expect(ledger.room(for: 6, on: [one], at: .zero) == .later)
        ledger.add(-95, of: one)
        ledger.heard(from: one, shareBlocks: 5, at: .zero)
        #expect(ledger.room(for: 6, on: [one], at: .zero) == .none)
    }

    @Test("a member that is not heard of stops nobody")
    func silence() {
        var ledger = ledger([one: 10, two: 10])
        let late = RoomLedger.wordLifetime + .milliseconds(1)
        #expect(ledger.room(for: 11, on: [one, two, three], at: RoomLedger.wordLifetime) == .none)
        #expect(ledger.room(for: 11, on: [one, two, three], at: late) == .enough)
        ledger.lost(one)
        #expect(ledger.room(for: 11, on: [one], at: .zero) == .enough)
    }

    @Test("before the first word, growth is let in up to a part of what every store keeps free")
    func firstWord() {
        var ledger = RoomLedger()
        ledger.expectWord(from: one, at: .zero)
        let share = ChunkStore.growthReserveBlocksMin / RoomLedger.sharesBeforeFirstWord
        #expect(ledger.room(for: share, on: [one], at: .zero) == .enough)
        #expect(ledger.room(for: share + 1, on: [one], at: .zero) == .later)
        let late = RoomLedger.firstWordPatience + .milliseconds(1)
        #expect(ledger.room(for: share + 1, on: [one], at: late) == .enough)
        // Somebody whose word still holds need not give it again.
        ledger.heard(from: two, shareBlocks: 1 << 20, at: .zero)
        ledger.expectWord(from: two, at: .zero)
        #expect(ledger.room(for: share + 1, on: [two], at: .zero) == .enough)
    }

    @Test("each follower's blocks are settled once, however its answers come")
    func settled() {
        var log = GrowthLog(followers: 2)
        log.placed(10, at: LogIndex(5))
        log.placed(0, at: LogIndex(6))
        log.placed(20, at: LogIndex(7))
        #expect(log.durable(through: LogIndex(4), follower: 0) == 0)
        #expect(log.durable(through: LogIndex(6), follower: 0) == 10)
        #expect(log.durable(through: LogIndex(5), follower: 0) == 0)
        #expect(log.durable(through: LogIndex(9), follower: 0) == 20)
        #expect(log.durable(through: LogIndex(9), follower: 1) == 30)
        log.placed(7, at: LogIndex(10))
        #expect(log.reset() == [7, 7])
        #expect(log.durable(through: LogIndex(10), follower: 0) == 0)
    }

    @Test("a follower far behind is believed to have less, never more")
    func bounded() {
        var log = GrowthLog(followers: 1)
        let count = GrowthLog.marksMax * 3
        for index in 1...count { log.placed(1, at: LogIndex(UInt64(index))) }
        #expect(log.durable(through: LogIndex(10), follower: 0) <= 10)
        let most = log.durable(through: LogIndex(UInt64(count)), follower: 0)
        #expect(most == count, "the newest mark settles everything")
    }

    @Test("a follower that lags needs room for what is left, not for all that came and went")
    func trims() {
        var (log, ledger) = (GrowthLog(followers: 1), ledger([two: 100]))
        for index in UInt64(1)...1000 {
            let blocks = index % 2 == 1 ? 60 : -60
            #expect(ledger.room(for: max(blocks, 0), on: [two], at: .zero) == .enough)
            log.placed(blocks, at: LogIndex(index))
            ledger.add(blocks, of: two)
        }
        log.placed(60, at: LogIndex(1001))
        ledger.add(60, of: two)
        #expect(ledger.room(for: 41, on: [two], at: .zero) == .later)
        // It comes to a place where it has most, then to one where it has least.
        ledger.add(-log.durable(through: LogIndex(501), follower: 0), of: two)
        #expect(ledger.room(for: 100, on: [two], at: .zero) == .enough)
        ledger.add(-log.durable(through: LogIndex(502), follower: 0), of: two)
        #expect(ledger.room(for: 41, on: [two], at: .zero) == .later)
        #expect(log.reset() == [60])
    }

    @Test("room that trims will make counts when the member says so")
    func trimmedLater() {
        var ledger = ledger([two: 100])
        ledger.add(-50, of: two)
        #expect(ledger.room(for: 100, on: [two], at: .zero) == .enough)
        #expect(ledger.room(for: 101, on: [two], at: .zero) == .none)
    }

    @Test("a member whose store cannot grow stops nobody and gets no lead")
    func below() {
        var ledger = ledger([one: .max, two: 0, three: 1])
        #expect(ledger.room(for: 1 << 30, on: [one], at: .zero) == .enough)
        #expect([one, two, three].map { ledger.canGrow($0, at: .zero) } == [false, false, true])
        #expect(!ledger.canGrow(three, at: RoomLedger.wordLifetime + .milliseconds(1)))
        ledger.lost(three)
        #expect(!ledger.canGrow(three, at: .zero))
    }
}
