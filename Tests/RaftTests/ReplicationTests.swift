import BlockTypes
import CurveWire
import Testing

@testable import Raft

@Suite struct ReplicationTests {
    @Test("an entry commits on two followers while the leader's own disk is slow")
    func slowLeader() {
        var bench = Bench.readyLeader()
        bench.propose()
        #expect(bench.acknowledge(two, LogIndex(2)).commits.isEmpty)
        #expect(bench.acknowledge(three, LogIndex(2)).commits == [LogIndex(2)])
    }

    @Test("what has only arrived does not count")
    func receivedIsNotDurable() {
        var bench = Bench.readyLeader()
        bench.propose()
        bench.step(.stored(through: at(1, 2)))
        #expect(bench.acknowledge(two, LogIndex(1), received: LogIndex(2)).commits.isEmpty)
        #expect(bench.acknowledge(three, LogIndex(2)).commits == [LogIndex(2)])
    }

    @Test("a follower acknowledges what is durable, and at the next tick what has only arrived")
    func acknowledgements() {
        var bench = Bench(two)
        #expect(bench.receive(Bench.append(1, after: .zero, [1, 1, 1]), from: one).appendReplies.isEmpty)
        let durable = bench.step(.stored(through: at(1, 2))).appendReplies
        #expect(durable.map(\.durable) == [LogIndex(2)] && durable.map(\.received) == [LogIndex(3)])
        bench.receive(Bench.append(1, after: at(1, 3), [1]), from: one)
        #expect(bench.wait(50).appendReplies.map(\.received) == [LogIndex(4)])
        #expect(bench.wait(50).isEmpty, "once is enough")
    }

    @Test("a follower commits no further than its log is known to be the leader's")
    func matched() {
        var bench = Bench(two, term: 1, terms: [1, 1, 1])
        #expect(bench.receive(Bench.heartbeat(2, commit: 3), from: one).commits.isEmpty)
        #expect(
            bench.receive(Bench.append(2, after: at(1, 2), commit: 3), from: one).commits == [LogIndex(2)])
    }

    @Test("what may not be the leader's is not claimed, however durable it is")
    func unmatchedIsNotClaimed() {
        var bench = Bench(two, term: 1, terms: [1, 1, 1])
        let replies = bench.receive(Bench.heartbeat(2), from: one).sent()
        guard case .heartbeatReply(let beat)? = replies.first else { return #expect(Bool(false)) }
        #expect(beat.durable == LogIndex(0))
        let refused = bench.receive(Bench.append(2, after: at(2, 9)), from: one).appendReplies
        #expect(refused.map(\.durable) == [LogIndex(0)] && refused.map(\.received) == [LogIndex(3)])
        let matched = bench.receive(Bench.append(2, after: at(1, 2)), from: one).appendReplies
        #expect(matched.map(\.durable) == [LogIndex(2)])
    }

    @Test("a store that is nearly full takes the first entries, and drops what contradicts the others")
    func nearlyFull() throws {
        var bench = Bench(two, term: 1, terms: [1, 1, 1, 1])
        guard case .append(let append) = Bench.append(2, after: at(1, 2), [2, 2, 2]) else { return }
        let first = bench.step(.receivedTooMuch(from: one, append, addable: LogIndex(2)))
        #expect(first.texts.contains("truncate(from: 3)"))
        #expect(first.texts.allSatisfy { !$0.hasPrefix("append") })
        #expect(bench.wait(50).appendReplies.map(\.received) == [LogIndex(2)])
        bench.step(.truncated(from: LogIndex(3)))
        let second = bench.step(.receivedTooMuch(from: one, append, addable: LogIndex(4)))
        #expect(second.texts.contains("append 3@2 4@2"))
        #expect(bench.wait(50).appendReplies.map(\.received) == [LogIndex(4)])
        #expect(bench.receive(.append(append), from: one).texts.contains("append 5@2"))
    }

    @Test("half is no majority", arguments: [(2, 1), (3, 1), (4, 2), (5, 2), (6, 3), (7, 3)])
    func majorities(members: Int, others: Int) {
        var bench = Bench.leader(members: members)
        bench.step(.stored(through: at(1, 1)))
        for peer in bench.replica.members.dropFirst().prefix(others - 1) {
            #expect(bench.acknowledge(peer, LogIndex(1)).commits.isEmpty)
        }
        #expect(!bench.replica.holdsLease(now: bench.now))
        #expect(bench.acknowledge(ServerID(UInt64(others + 1)), LogIndex(1)).commits == [LogIndex(1)])
        #expect(bench.replica.holdsLease(now: bench.now))
    }

    @Test("what contradicts the leader is cut off, and late news of its storage is ignored")
    func conflict() {
        var bench = Bench(two, terms: [1, 1])
        bench.receive(Bench.append(1, after: at(1, 2), [1, 1]), from: three)
        let effects = bench.receive(Bench.append(2, after: at(1, 2), [2]), from: one)
        #expect(effects.texts.suffix(2) == ["truncate(from: 3)", "append 3@2"])
        #expect(bench.step(.stored(through: at(1, 4))).isEmpty)
        #expect(bench.step(.stored(through: at(2, 3))).appendReplies.map(\.durable) == [LogIndex(3)])
    }

    @Test("a second truncate waits for the first")
    func oneTruncateAtATime() {
        var bench = Bench(two, terms: [1, 1])
        bench.receive(Bench.append(2, after: at(1, 1), [2]), from: one)
        #expect(
            !bench.receive(Bench.append(3, after: .zero, [3]), from: three).texts.contains(
                "truncate(from: 1)"))
        bench.step(.truncated(from: LogIndex(2)))
        #expect(
            bench.receive(Bench.append(3, after: .zero, [3]), from: three).texts.contains("truncate(from: 1)")
        )
    }

    @Test("what is committed is never cut off, whoever asks")
    func committedStays() {
        var bench = Bench(two, term: 1, terms: [1, 1, 1], applied: 2)
        let effects = bench.receive(Bench.append(9, after: at(1, 1), [9]), from: one)
        #expect(!effects.texts.contains { $0.hasPrefix("truncate") || $0.hasPrefix("append") })
        #expect(bench.replica.last == at(1, 3))
    }

    @Test("entries that do not follow each other are not taken")
    func malformed() {
        var bench = Bench(two)
        for (previous, terms) in [(at(0, 0), [2, 1]), (at(0, 0), [3]), (at(5, 0), [UInt32(1)])] {
            let effects = bench.receive(Bench.append(2, after: previous, terms.map { UInt32($0) }), from: one)
            #expect(!effects.texts.contains { $0.hasPrefix("append") })
        }
        var append = ReplicaMessage.Append(
            term: Term(2), previous: .zero, commit: LogIndex(0), retainAfter: LogIndex(0), sentAt: 0,
            entries: [])
        append.entries = [LogEntry(at(1, 1), .noop), LogEntry(at(1, 3), .noop)]
        #expect(!bench.receive(.append(append), from: one).texts.contains { $0.hasPrefix("append") })
    }

    @Test("refused, a leader asks where the follower says it may match, then sends the rest")
    func probing() {
        var bench = Bench.readyLeader(term: 3, terms: [1, 1, 2, 2])
        bench.step(.disconnected(two, provenDead: false))
        #expect(bench.wait(200).appends(to: two).map(\.previous) == [at(3, 5)])
        bench.replica.peers[0].durable = LogIndex(0)  // As if it had been new to this leader.
        let probe = bench.acknowledge(two, LogIndex(0), received: LogIndex(2), rejected: true).appends()
        #expect(probe.map(\.previous) == [at(1, 2)] && probe.map(\.entries.count) == [0])
        let copy = bench.acknowledge(
            two, LogIndex(0), received: LogIndex(2), rejected: true, echo: bench.nanoseconds - 1)
        #expect(copy.appends().isEmpty, "an answer to an older question")
        let rest = bench.acknowledge(two, LogIndex(2))
        #expect(rest.texts == ["loadEntries(for: 2, from: 3, bytesMax: 1048576)"], "no longer in memory")
    }

    @Test("a follower hints at its last entry that is not too new")
    func hints() {
        var bench = Bench(two, terms: [1, 1, 2, 2, 4, 4])
        func hint(_ previous: LogPosition) -> LogIndex? {
            let reply = bench.receive(Bench.append(9, after: previous), from: one).appendReplies.first
            return reply?.rejected == true ? reply?.received : nil
        }
        #expect(hint(at(5, 9)) == LogIndex(6))
        #expect(hint(at(3, 6)) == LogIndex(4))
        #expect(hint(at(1, 5)) == LogIndex(2))
        #expect(hint(at(5, 6)) == LogIndex(5))
        #expect(hint(at(4, 6)) == nil)
    }

    @Test("refused again and again, a leader steps back faster and faster, and never past its own beginning")
    func stepsBack() {
        var bench = Bench.leader(term: 9, base: at(1, 10), terms: Array(repeating: 8, count: 100))
        var (asked, hint) = ([UInt64](), UInt64(109))
        for _ in 0..<20 {
            let probes = bench.acknowledge(
                two, LogIndex(0), received: LogIndex(hint), rejected: true
            ).appends(to: two)
            guard let probe = probes.first else { break }
            asked.append(probe.previous.index.rawValue)
            if probe.previous.index.rawValue <= 10 { break }
            hint = probe.previous.index.rawValue - 1
        }
        #expect(asked == [109, 107, 103, 95, 79, 47, 10])
    }

    @Test("entries that get lost are sent again after some silence, one question first")
    func resend() {
        var bench = Bench.readyLeader()
        #expect(bench.propose().appends(to: two).map(\.entries.count) == [1])
        bench.acknowledge(three, LogIndex(2))
        var probes: [ReplicaMessage.Append] = []
        for _ in 0..<5 {
            probes += bench.wait(100).appends(to: two)
            bench.receive(
                .heartbeatReply(
                    .init(term: Term(1), syncing: false, durable: LogIndex(1), echo: bench.nanoseconds)),
                from: two)
        }
        #expect(probes.map(\.previous) == [at(1, 2)] && probes.map(\.entries.count) == [0])
        bench.acknowledge(two, LogIndex(1), received: LogIndex(1), rejected: true)
        #expect(bench.acknowledge(two, LogIndex(1)).appends(to: two).map(\.entries.count) == [1])
    }

    @Test("a proposal beyond the window is told to wait; followers are told by the message")
    func windows() {
        var settings = RaftReplica.Settings()
        (settings.inFlightEntriesMax, settings.messageEntriesMax) = (10, 4)
        var bench = Bench.readyLeader(settings: settings)
        bench.step(.disconnected(two, provenDead: false))
        for _ in 0..<10 { #expect(bench.propose().texts.first?.hasPrefix("accepted") == true) }
        #expect(bench.propose().texts == ["busy(Raft.ProposalToken(rawValue: 1))"])
        bench.acknowledge(three, LogIndex(11))
        #expect(bench.propose().texts == ["busy(Raft.ProposalToken(rawValue: 1))"], "own disk is behind")
        bench.step(.stored(through: at(1, 11)))
        #expect(bench.replica.commitIndex == LogIndex(11))
        #expect(bench.propose().texts.first?.hasPrefix("accepted") == true)
    }

    @Test("bytes fill the window, too")
    func byteWindow() {
        var settings = RaftReplica.Settings()
        settings.inFlightBytesMax = 8192
        var bench = Bench.readyLeader(settings: settings)
        bench.propose(4096)
        bench.propose(4096)
        #expect(bench.propose(4096).texts == ["busy(Raft.ProposalToken(rawValue: 1))"])
        bench.step(.stored(through: bench.replica.last))
        bench.acknowledge(two, bench.replica.last.index)
        #expect(bench.propose(4096).texts.first?.hasPrefix("accepted") == true)
    }

    @Test("a message carries at most its entries and its bytes, but always one entry")
    func messageSizes() {
        var settings = RaftReplica.Settings()
        (settings.messageEntriesMax, settings.messageBytesMax) = (3, 10_000)
        settings.inFlightMessagesMax = 1
        var bench = Bench.readyLeader(settings: settings)
        bench.propose()
        for _ in 0..<5 { #expect(bench.propose().appends(to: two).isEmpty) }
        #expect(bench.acknowledge(two, LogIndex(2)).appends(to: two).map(\.entries.count) == [3])
        for _ in 0..<3 { bench.propose(8192) }
        #expect(bench.acknowledge(two, LogIndex(5)).appends(to: two).map(\.entries.count) == [3])
        #expect(bench.acknowledge(two, LogIndex(8)).appends(to: two).map(\.entries.count) == [1])
        #expect(bench.acknowledge(two, LogIndex(9)).appends(to: two).map(\.entries.count) == [1])
    }

    @Test("old entries come from the store, one question at a time")
    func loading() {
        var bench = Bench.leader(term: 2, terms: [1, 1, 1])
        bench.acknowledge(two, LogIndex(0), received: LogIndex(0), rejected: true)
        #expect(
            bench.acknowledge(two, LogIndex(0)).texts == ["loadEntries(for: 2, from: 1, bytesMax: 1048576)"])
        #expect(bench.acknowledge(two, LogIndex(0)).isEmpty)
        #expect(bench.propose().appends(to: two).isEmpty)
        let entries = (1...3).map { LogEntry(at(1, UInt64($0)), .noop) }
        let wrong = [LogEntry(at(7, 1), .noop)]
        var other = bench
        #expect(other.step(.entriesLoaded(for: two, from: LogIndex(1), wrong)).sent().isEmpty)
        #expect(
            bench.step(.entriesLoaded(for: two, from: LogIndex(2), entries)).isEmpty, "not what was asked")
        let sent = bench.step(.entriesLoaded(for: two, from: LogIndex(1), entries)).appends(to: two)
        #expect(sent.map(\.entries.count) == [3, 2] || sent.map(\.entries.count) == [3])
        #expect(sent.first?.previous == .zero)
    }

    @Test("memory holds what is not durable, and for the others only up to its bound")
    func cache() {
        var settings = RaftReplica.Settings()
        settings.cachedBytesMax = 10_000
        var bench = Bench.readyLeader(settings: settings)
        for _ in 0..<8 { bench.propose(4096) }
        #expect(bench.replica.log.cachedBytes > 8 * 4096, "nothing is durable")
        bench.step(.stored(through: bench.replica.last))
        #expect(bench.replica.log.cachedBytes <= 10_000)
        bench.acknowledge(two, bench.replica.last.index)
        bench.acknowledge(three, bench.replica.last.index)
        bench.wait(50)
        #expect(bench.replica.log.cachedBytes == 0, "nobody needs it")
    }

    @Test("an old leader keeps nothing in memory for those it led")
    func cacheOfOldLeader() {
        var bench = Bench.readyLeader()
        for _ in 0..<8 { bench.propose(4096) }
        bench.step(.stored(through: at(1, 6)))
        bench.step(.transferLeadership(to: two))
        bench.acknowledge(two, LogIndex(9))
        #expect(bench.replica.role == .follower && bench.replica.log.cacheStart == LogIndex(7))
    }

    @Test("the log is kept for whoever lacks it, dead or alive")
    func retention() {
        var bench = Bench.readyLeader()
        for _ in 0..<5 { bench.propose() }
        bench.step(.stored(through: at(1, 6)))
        bench.acknowledge(two, LogIndex(6))
        #expect(bench.wait(50).retains == [LogIndex(1)], "of the third only the first entry is known")
        bench.acknowledge(three, LogIndex(4))
        #expect(bench.wait(50).retains == [LogIndex(4)])
        #expect(bench.propose().appends(to: two).map(\.retainAfter) == [LogIndex(4)])
        var follower = Bench(two)
        follower.receive(Bench.append(1, after: .zero, [1, 1, 1, 1], commit: 3, retain: 4), from: one)
        #expect(follower.effects.retains.isEmpty, "not durable here")
        follower.step(.stored(through: at(1, 4)))
        let effects = follower.receive(Bench.append(1, after: at(1, 4), commit: 3, retain: 4), from: one)
        #expect(effects.retains == [LogIndex(3)], "no further than it is committed")
    }

    @Test("members in step are those that answer and lack little")
    func membersInStep() {
        var settings = RaftReplica.Settings()
        settings.inFlightEntriesMax = 5
        var bench = Bench.leader(settings: settings)
        #expect(bench.replica.membersInStep == 1)
        bench.acknowledge(two, LogIndex(1))
        #expect(bench.replica.membersInStep == 2)
        bench.acknowledge(three, LogIndex(1), syncing: true)
        #expect(bench.replica.membersInStep == 2 && Bench(two).replica.membersInStep == 0)
    }
}
