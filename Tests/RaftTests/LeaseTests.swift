import BlockTypes
import CurveWire
import Testing

@testable import Raft

@Suite struct LeaseTests {
    @Test("the lease runs from when the acknowledged round was sent, less the drift")
    func leaseLength() {
        var bench = Bench.leader()
        let sent = bench.nanoseconds
        #expect(!bench.replica.holdsLease(now: bench.now), "nobody has answered yet")
        bench.milliseconds += 300
        bench.acknowledge(two, LogIndex(0), echo: sent)
        let start = Duration.nanoseconds(Int64(sent))
        #expect(bench.replica.holdsLease(now: start + .milliseconds(791)))
        #expect(!bench.replica.holdsLease(now: start + .milliseconds(792)))
    }

    @Test("of five, the second-newest answer of the others counts")
    func fiveMembers() {
        var bench = Bench.leader(members: 5)
        let start = bench.milliseconds
        for (peer, echo) in [(2, 100), (3, 300), (4, 200)] {
            bench.milliseconds = start + 400
            bench.acknowledge(ServerID(UInt64(peer)), LogIndex(0), echo: UInt64(start + echo) * 1_000_000)
        }
        #expect(bench.replica.holdsLease(now: .milliseconds(start + 200 + 791)))
        #expect(!bench.replica.holdsLease(now: .milliseconds(start + 200 + 792)))
    }

    @Test("an echo of another term, or of the future, prolongs nothing")
    func wrongEcho() {
        var bench = Bench.leader(term: 3)
        bench.receive(
            .heartbeatReply(
                .init(term: Term(2), syncing: false, durable: LogIndex(0), echo: bench.nanoseconds)),
            from: two)
        bench.receive(
            .heartbeatReply(
                .init(term: Term(3), syncing: false, durable: LogIndex(0), echo: bench.nanoseconds + 1)),
            from: two)
        #expect(!bench.replica.holdsLease(now: bench.now))
    }

    @Test("a leader is ready when an entry of its own term is applied, not before")
    func ready() {
        var bench = Bench.leader(term: 2, terms: [1, 1])
        bench.step(.stored(through: at(2, 3)))
        #expect(bench.acknowledge(two, LogIndex(2)).commits.isEmpty, "entries of earlier terms do not count")
        #expect(bench.acknowledge(two, LogIndex(3)).commits == [LogIndex(3)])
        #expect(bench.step(.applied(through: LogIndex(2))).isEmpty)
        #expect(!bench.replica.isReady)
        #expect(bench.step(.applied(through: LogIndex(3))).texts == ["ready(2)"])
    }

    @Test("a transfer gives the lease up before it asks the target to stand")
    func transfer() {
        var bench = Bench.readyLeader()
        let effects = bench.step(.transferLeadership(to: three))
        #expect(effects.texts == ["leadershipLost(1)", "leaderChanged(nil)", "to 3: timeoutNow t1"])
        #expect(!bench.replica.holdsLease(now: bench.now))
    }

    @Test("proposals wait while the target of a transfer catches up, and go on if it does not")
    func transferWaits() {
        var bench = Bench.readyLeader()
        bench.propose()
        #expect(bench.step(.transferLeadership(to: two)).isEmpty)
        #expect(bench.propose().texts == ["busy(Raft.ProposalToken(rawValue: 1))"])
        var slow = bench
        #expect(
            bench.acknowledge(two, LogIndex(1), received: LogIndex(2)).texts.last == "to 2: timeoutNow t1")
        for _ in 0..<11 {
            slow.wait(100)
            slow.acknowledge(three, LogIndex(2))
        }
        #expect(slow.propose().texts.first?.hasPrefix("accepted") == true)
    }

    @Test("a transfer to nobody in particular goes to the most complete; to one that is silent, nowhere")
    func transferChoice() {
        var bench = Bench.readyLeader()
        bench.propose()
        bench.acknowledge(three, LogIndex(2))
        #expect(bench.step(.transferLeadership(to: nil)).texts.last == "to 3: timeoutNow t1")
        var silent = Bench.leader()
        silent.acknowledge(two, LogIndex(1))
        #expect(silent.step(.transferLeadership(to: three)).isEmpty)
    }

    @Test("asked by its leader a follower stands at once; asked by others, or copying, it does not")
    func timeoutNow() {
        var bench = Bench(two, term: 4)
        bench.receive(Bench.heartbeat(4), from: one)
        #expect(bench.receive(.timeoutNow(term: Term(4)), from: three).isEmpty)
        #expect(bench.receive(.timeoutNow(term: Term(3)), from: one).isEmpty)
        #expect(
            bench.receive(.timeoutNow(term: Term(4)), from: one).texts.contains(
                "storeVote(5, votedFor: Optional(2))"))
        #expect(bench.step(.voteStored(Term(5))).voteRequests.allSatisfy { $0.isTransfer && !$0.isPreVote })
        var copying = Bench(two, term: 4, syncing: true)
        copying.receive(Bench.heartbeat(4), from: one)
        #expect(copying.receive(.timeoutNow(term: Term(4)), from: one).isEmpty)
    }
}
