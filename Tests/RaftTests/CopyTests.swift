import BlockTypes
import CurveWire
import Testing

@testable import Raft

@Suite struct CopyTests {
    /// A ready leader of term 3 whose log begins after 10; its own NOOP is 13, and two is behind its log.
    static func leaderWithLaggard() -> Bench {
        var bench = Bench.leader(term: 3, base: at(1, 10), terms: [2, 2], applied: 12)
        bench.step(.stored(through: at(3, 13)))
        bench.acknowledge(three, LogIndex(13))
        bench.acknowledge(two, LogIndex(4), received: LogIndex(4), rejected: true)
        return bench
    }

    @Test("who needs what is no longer kept is offered a copy, one at a time")
    func offer() {
        var bench = Self.leaderWithLaggard()
        #expect(bench.effects.texts == ["offerSync(to: 2)"])
        bench.acknowledge(three, LogIndex(4), received: LogIndex(4), syncing: true)
        #expect(bench.step(.applied(through: LogIndex(13))).texts == ["ready(3)"])
        #expect(!bench.wait(300).texts.contains { $0.hasPrefix("offer") })
        let sent = bench.step(.syncOffered(to: two, base: at(3, 13))).appends()
        #expect(sent.map(\.previous) == [at(3, 13)])
    }

    /// One replica is gone: nothing is committed before the other is complete, so no leader gets ready.
    @Test("a leader that is not ready offers a copy, and is ready once the copy is complete")
    func unready() {
        var bench = Bench.leader(term: 3, base: at(1, 10), terms: [2, 2], applied: 12)
        bench.step(.stored(through: at(3, 13)))
        let asked = bench.acknowledge(two, LogIndex(0), rejected: true, syncing: true)
        #expect(asked.texts == ["offerSync(to: 2)"])
        let sent = bench.step(.syncOffered(to: two, base: at(2, 12))).appends(to: two)
        #expect(sent.map(\.previous) == [at(2, 12)])
        let streamed = bench.acknowledge(two, LogIndex(12), syncing: true).appends(to: two)
        #expect(streamed.flatMap(\.entries).map(\.position) == [at(3, 13)])
        #expect(bench.acknowledge(two, LogIndex(13), syncing: true).commits.isEmpty)
        #expect(bench.acknowledge(two, LogIndex(13)).commits == [LogIndex(13)])
        #expect(bench.step(.applied(through: LogIndex(13))).texts == ["ready(3)"])
    }

    @Test("a copying follower counts when it says that it is complete, not before")
    func counting() {
        var bench = Self.leaderWithLaggard()
        bench.step(.applied(through: LogIndex(13)))
        bench.step(.syncOffered(to: two, base: at(3, 13)))
        bench.acknowledge(two, LogIndex(13), syncing: true)
        for _ in 0..<3 { bench.propose() }
        #expect(bench.replica.last == at(3, 16))
        #expect(bench.acknowledge(two, LogIndex(16), syncing: true).commits.isEmpty)
        bench.step(.stored(through: at(3, 15)))
        #expect(bench.replica.commitIndex == LogIndex(13))
        #expect(bench.replica.membersInStep == 2)
        #expect(bench.acknowledge(two, LogIndex(16)).commits == [LogIndex(15)])
        #expect(bench.replica.membersInStep == 3)
    }

    @Test("the log from a copy's base on is kept until the follower has it")
    func retention() {
        var bench = Self.leaderWithLaggard()
        bench.step(.applied(through: LogIndex(13)))
        bench.step(.syncOffered(to: two, base: at(3, 13)))
        bench.acknowledge(two, LogIndex(13), syncing: true)
        for _ in 0..<3 { bench.propose() }
        bench.step(.stored(through: at(3, 16)))
        bench.acknowledge(three, LogIndex(16))
        #expect(bench.wait(50).retains == [LogIndex(13)])
        bench.acknowledge(two, LogIndex(15), syncing: true)
        #expect(bench.wait(50).retains == [LogIndex(15)])
    }

    @Test("an offer that got lost is made again to who answers, never to who is silent")
    func lostOffer() {
        var bench = Self.leaderWithLaggard()
        bench.step(.applied(through: LogIndex(13)))
        bench.step(.syncOffered(to: two, base: at(3, 13)))
        func keepAlive(_ bench: inout Bench) { bench.acknowledge(three, LogIndex(13)) }
        var silent = bench
        for _ in 0..<30 {
            #expect(!silent.wait(100).texts.contains { $0.hasPrefix("offerSync") })
            keepAlive(&silent)
        }
        var offers = 0
        for _ in 0..<15 {
            bench.wait(100)
            keepAlive(&bench)
            let effects = bench.acknowledge(two, LogIndex(4), received: LogIndex(4), rejected: true)
            offers += effects.texts.count { $0 == "offerSync(to: 2)" }
        }
        #expect(offers == 1)
    }

    @Test("a follower that started anew in the middle of a copy is offered another")
    func restartedFollower() {
        var bench = Self.leaderWithLaggard()
        bench.step(.applied(through: LogIndex(13)))
        bench.step(.syncOffered(to: two, base: at(3, 13)))
        bench.milliseconds += 10
        bench.acknowledge(two, LogIndex(13), syncing: true)
        let old = bench.acknowledge(
            two, LogIndex(0), rejected: true, syncing: true, echo: bench.nanoseconds - 5_000_000)
        #expect(old.isEmpty, "it said so before it began")
        bench.milliseconds += 10
        #expect(
            bench.acknowledge(two, LogIndex(0), rejected: true, syncing: true).texts == ["offerSync(to: 2)"])
    }

    @Test("what a follower said before it was offered a copy is not held for the copy's")
    func oldAnswers() {
        var bench = Self.leaderWithLaggard()
        bench.step(.applied(through: LogIndex(13)))
        for _ in 0..<3 { bench.propose() }
        bench.step(.stored(through: at(3, 16)))
        let before = bench.nanoseconds
        bench.milliseconds += 10
        bench.step(.syncOffered(to: two, base: at(3, 13)))
        #expect(bench.acknowledge(two, LogIndex(16), echo: before).commits.isEmpty)
        #expect(bench.acknowledge(two, LogIndex(16), syncing: true, echo: before).commits.isEmpty)
        bench.acknowledge(two, LogIndex(13), syncing: true)
        #expect(bench.acknowledge(two, LogIndex(16), echo: before).commits.isEmpty)
        #expect(bench.acknowledge(two, LogIndex(14)).commits == [LogIndex(14)])
    }

    @Test("a copy whose log is no longer kept is replaced by another")
    func outrun() {
        var bench = Self.leaderWithLaggard()
        bench.step(.applied(through: LogIndex(13)))
        bench.step(.syncOffered(to: two, base: at(3, 13)))
        bench.acknowledge(two, LogIndex(13), syncing: true)
        for _ in 0..<3 { bench.propose() }
        bench.step(.stored(through: at(3, 16)))
        bench.acknowledge(three, LogIndex(16))
        bench.step(.logStart(at(3, 16)))
        var effects: [RaftReplica.Effect] = []
        for _ in 0..<12 {
            effects += bench.wait(100)
            bench.acknowledge(three, LogIndex(16))
            bench.receive(
                .heartbeatReply(
                    .init(term: Term(3), syncing: true, durable: LogIndex(0), echo: bench.nanoseconds)),
                from: two)
            effects += bench.effects
            if effects.texts.contains("offerSync(to: 2)") { break }
        }
        #expect(effects.texts.contains("offerSync(to: 2)"))
    }

    @Test("a store that no longer has what a follower needs leads to a copy")
    func nothingLoaded() {
        var bench = Bench.readyLeader(term: 2, terms: [1, 1, 1])
        bench.step(.disconnected(two, provenDead: false))
        bench.replica.peers[0].durable = LogIndex(0)
        bench.wait(250)
        bench.acknowledge(two, LogIndex(0), received: LogIndex(1), rejected: true)
        #expect(
            bench.acknowledge(two, LogIndex(1)).texts == ["loadEntries(for: 2, from: 2, bytesMax: 1048576)"])
        bench.step(.logStart(at(1, 3)))
        #expect(bench.step(.entriesLoaded(for: two, from: LogIndex(2), [])).texts == ["offerSync(to: 2)"])
    }

    @Test("a follower begins a copy with an empty log and remembers how far it was bound")
    func begin() {
        var bench = Bench(two, term: 2, terms: [1, 1, 2])
        let effects = bench.receive(.syncOffer(term: Term(5), base: at(5, 90)), from: one)
        #expect(effects.texts.contains("beginSync(from: 1, term: 5, base: 90@5)"))
        #expect(effects.appendReplies.map(\.syncing) == [true])
        #expect(bench.replica.isSyncing && bench.replica.voteFloor == at(2, 3))
        #expect(bench.replica.last == at(5, 90) && bench.replica.commitIndex == LogIndex(90))
        bench.receive(Bench.append(5, after: at(5, 90), [5, 5], commit: 91), from: one)
        #expect(bench.effects.commits == [LogIndex(91)])
        let acknowledged = bench.step(.stored(through: at(5, 92))).appendReplies
        #expect(acknowledged.map(\.syncing) == [true] && acknowledged.map(\.durable) == [LogIndex(92)])
        let finished = bench.step(.syncFinished).appendReplies
        #expect(finished.map(\.syncing) == [false] && finished.map(\.durable) == [LogIndex(92)])
    }

    @Test("repeated and needless offers of the same leader change nothing; those of another start anew")
    func repeatedOffers() {
        var bench = Bench(two, term: 2, terms: [1, 1, 2])
        bench.receive(.syncOffer(term: Term(5), base: at(5, 90)), from: one)
        bench.receive(Bench.append(5, after: at(5, 90), [5, 5]), from: one)
        for base in [at(5, 90), at(5, 80), at(5, 91)] {
            let effects = bench.receive(.syncOffer(term: Term(5), base: base), from: one)
            #expect(!effects.texts.contains { $0.hasPrefix("beginSync") }, "\(base)")
            #expect(effects.appendReplies.map(\.received) == [LogIndex(92)])
        }
        #expect(
            bench.receive(.syncOffer(term: Term(5), base: at(5, 99)), from: one).texts.first
                == "beginSync(from: 1, term: 5, base: 99@5)")
        let effects = bench.receive(.syncOffer(term: Term(6), base: at(6, 95)), from: three)
        #expect(effects.texts.contains("beginSync(from: 3, term: 6, base: 95@6)"))
        #expect(bench.replica.voteFloor == at(2, 3), "nothing of an unfinished copy was ever counted")
    }

    @Test("a follower that has the offered place declines")
    func declined() {
        var bench = Bench(two, term: 2, terms: [1, 1, 2])
        let effects = bench.receive(.syncOffer(term: Term(5), base: at(2, 3)), from: one)
        #expect(effects.appendReplies.map(\.syncing) == [false])
        #expect(effects.appendReplies.map(\.durable) == [LogIndex(3)])
    }

    @Test("a copy from before its source's term is bound by the floor until its log reaches that term")
    func olderBase() async {
        var bench = Bench(two, term: 2, terms: [1, 1, 2])
        bench.receive(.syncOffer(term: Term(5), base: at(1, 2)), from: one)
        #expect(!bench.replica.isSyncing, "it has that place")
        bench.receive(.syncOffer(term: Term(5), base: at(4, 3)), from: one)
        bench.receive(Bench.append(5, after: at(4, 3), [5], commit: 3), from: one)
        #expect(bench.replica.isSyncing && bench.replica.voteFloor == at(2, 3))
        bench.step(.stored(through: at(5, 4)))
        #expect(bench.step(.syncFinished).appendReplies.map(\.syncing) == [false])
        await #expect(processExitsWith: .failure, "its log could lack what it once acknowledged") {
            var bench = Bench(two, term: 2, terms: [1, 1, 2])
            bench.receive(.syncOffer(term: Term(5), base: at(4, 3)), from: one)
            bench.step(.syncFinished)
        }
    }

    @Test("a copy whose source is gone claims nothing and takes no entries")
    func lostSource() {
        var bench = Bench(
            two, term: 2, base: at(2, 5), terms: [2, 2], applied: 6, syncing: true, floor: at(1, 4))
        let reply = bench.receive(Bench.append(3, after: at(2, 7), [3]), from: one).appendReplies
        #expect(
            reply == [
                .init(
                    term: Term(3), rejected: true, syncing: true, durable: LogIndex(0), received: LogIndex(0),
                    echo: 7)
            ])
        let beat = bench.receive(Bench.heartbeat(3, commit: 7), from: one).sent()
        guard case .heartbeatReply(let body)? = beat.first else { return #expect(Bool(false)) }
        #expect(body.syncing && body.durable == LogIndex(0) && bench.effects.commits.isEmpty)
    }
}
