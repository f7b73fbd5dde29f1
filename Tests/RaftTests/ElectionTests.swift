import BlockTypes
import CurveWire
import Testing

@testable import Raft

@Suite struct ElectionTests {
    @Test("the preferred leader of a new copyset asks at its first tick, the others wait")
    func freshGroup() {
        var preferred = Bench(preferred: true, fresh: true)
        #expect(preferred.step(.tick).voteRequests.map(\.isPreVote) == [true, true])
        var other = Bench(two, fresh: true)
        #expect(other.wait(900).isEmpty)
        #expect(other.replica.role == .follower)
    }

    @Test("nobody is asked for a vote before our own is durable, and a majority makes a leader")
    func election() {
        var bench = Bench(preferred: true, fresh: true)
        bench.step(.tick)
        #expect(bench.replica.term == Term(0))
        let stood = bench.receive(
            .voteReply(.init(term: Term(1), isPreVote: true, granted: true)), from: two)
        #expect(stood.texts == ["storeVote(1, votedFor: Optional(1))"])
        // Votes that come too early, from an earlier life of ours, are not counted.
        bench.receive(.voteReply(.init(term: Term(1), isPreVote: false, granted: true)), from: two)
        #expect(bench.replica.role == .candidate)
        #expect(bench.step(.voteStored(Term(1))).voteRequests.map(\.term) == [Term(1), Term(1)])
        let won = bench.receive(
            .voteReply(.init(term: Term(1), isPreVote: false, granted: true)), from: two)
        #expect(won.texts.prefix(3) == ["becameLeader(1)", "leaderChanged(Optional(1))", "append 1@1"])
        #expect(won.appends().map(\.entries.count) == [1, 1])
    }

    @Test("a candidate asks again those who have not answered")
    func asksAgain() {
        var bench = Bench(preferred: true, fresh: true)
        bench.step(.tick)
        bench.receive(.voteReply(.init(term: Term(1), isPreVote: true, granted: true)), from: two)
        #expect(bench.wait(300).isEmpty, "our own vote is not durable")
        bench.step(.voteStored(Term(1)))
        bench.receive(.voteReply(.init(term: Term(1), isPreVote: false, granted: false)), from: two)
        #expect(bench.wait(150).isEmpty)
        #expect(bench.wait(50).voteRequests.map(\.isPreVote) == [false, false])
    }

    @Test("a vote leaves only when it is durable, whatever was stored of the same term before")
    func voteIsDurable() {
        var bench = Bench(two)
        bench.milliseconds += 900
        // An unpromising candidate makes us store the term alone.
        #expect(bench.receive(Bench.voteRequest(1, last: .zero), from: three).texts.count == 1)
        var late = Bench(two, terms: [1, 1])
        late.milliseconds += 900
        let refused = late.receive(Bench.voteRequest(2, last: at(1, 1)), from: three)
        #expect(refused.texts.first == "storeVote(2, votedFor: nil)")
        #expect(late.receive(Bench.voteRequest(2, last: at(1, 2)), from: one).sent().isEmpty)
        #expect(late.step(.voteStored(Term(2))).isEmpty, "that was only the term")
        #expect(late.receive(Bench.voteRequest(2, last: at(1, 2)), from: one).isEmpty, "still not durable")
        #expect(late.step(.voteStored(Term(2))).voteReplies.map(\.granted) == [true])
        #expect(
            late.receive(Bench.voteRequest(2, last: at(1, 2)), from: one).voteReplies.map(\.granted) == [true]
        )
        #expect(
            late.receive(Bench.voteRequest(2, last: at(1, 2)), from: three).voteReplies.map(\.granted) == [
                false
            ])
    }

    @Test("a candidate whose log is behind gets no vote", arguments: [true, false])
    func logMatters(pre: Bool) {
        var bench = Bench(two, terms: [1, 1, 2])
        bench.milliseconds += 900
        for last in [at(1, 9), at(2, 2)] {
            let reply = bench.receive(Bench.voteRequest(5, last: last, pre: pre), from: one).voteReplies
            #expect(reply.map(\.granted) == [false], "\(last)")
        }
        bench.receive(Bench.voteRequest(6, last: at(2, 3), pre: pre), from: one)
        if !pre { bench.step(.voteStored(Term(6))) }
        #expect(bench.effects.voteReplies.map(\.granted) == [true])
    }

    @Test("a pre-vote raises nobody's term")
    func preVoteIsHarmless() {
        var bench = Bench(two)
        bench.milliseconds += 900
        let effects = bench.receive(Bench.voteRequest(9, last: .zero, pre: true), from: one)
        #expect(effects.voteReplies == [.init(term: Term(9), isPreVote: true, granted: true)])
        #expect(effects.count == 1 && bench.replica.term == Term(0))
    }

    @Test("inside its promise a follower refuses, and does not even learn the term")
    func promise() {
        var bench = Bench(two, term: 1)
        bench.receive(Bench.heartbeat(1), from: one)
        bench.milliseconds += 807
        for pre in [true, false] {
            let reply = bench.receive(Bench.voteRequest(2, last: at(9, 9), pre: pre), from: three)
            #expect(reply.voteReplies.map(\.granted) == [false])
        }
        #expect(bench.replica.term == Term(1) && bench.replica.leader == one)
        bench.milliseconds += 1
        #expect(
            bench.receive(Bench.voteRequest(2, last: at(9, 9), pre: true), from: three).voteReplies.map(
                \.granted)
                == [true])
        #expect(
            bench.receive(Bench.voteRequest(2, last: at(9, 9)), from: three).texts.contains(
                "storeVote(2, votedFor: Optional(3))"))
    }

    @Test("a restarted replica keeps the promise it may have given")
    func promiseAfterRestart() {
        var bench = Bench(two, term: 1)
        bench.milliseconds += 807
        #expect(
            bench.receive(Bench.voteRequest(2, last: .zero), from: three).voteReplies.map(\.granted) == [
                false
            ])
        bench.milliseconds += 1
        #expect(bench.receive(Bench.voteRequest(2, last: .zero), from: three).voteReplies.isEmpty)
        #expect(bench.step(.voteStored(Term(2))).voteReplies.map(\.granted) == [true])
    }

    @Test("a planned transfer passes promises to the leader that asked for it, and to no later one")
    func transferVotes() {
        var bench = Bench(two, term: 1)
        bench.receive(Bench.heartbeat(1), from: one)
        bench.receive(Bench.voteRequest(2, last: .zero, transfer: true), from: three)
        #expect(bench.effects.texts.contains("storeVote(2, votedFor: Optional(3))"))
        var other = Bench(two, term: 1)
        other.receive(Bench.heartbeat(2), from: one)
        let reply = other.receive(Bench.voteRequest(2, last: .zero, transfer: true), from: three)
        #expect(reply.voteReplies.map(\.granted) == [false])
    }

    @Test("a promise does not bind against the one it was given to")
    func promiseToTheCandidate() {
        var bench = Bench(two, term: 1)
        bench.receive(Bench.heartbeat(1), from: one)
        let reply = bench.receive(Bench.voteRequest(3, last: .zero, pre: true), from: one)
        #expect(reply.voteReplies.map(\.granted) == [true])
        #expect(
            bench.receive(Bench.voteRequest(3, last: .zero, pre: true), from: three).voteReplies.map(
                \.granted)
                == [false])
    }

    @Test("proof of the leader's death shortens the wait, not the promise", arguments: [true, false])
    func provenDead(preferred: Bool) {
        var bench = Bench(two, preferred: preferred, term: 1)
        bench.receive(Bench.heartbeat(1), from: one)
        bench.step(.disconnected(one, provenDead: true))
        #expect(bench.wait(800).isEmpty)
        #expect(bench.wait(150).voteRequests.first?.isPreVote == true)
        var other = Bench(two, preferred: preferred, term: 1)
        other.receive(Bench.heartbeat(1), from: one)
        other.step(.disconnected(one, provenDead: false))
        #expect(other.wait(950).isEmpty)
    }

    @Test("a leader that is dead beyond doubt is promised nothing, its successor of the same name is")
    func deadLeader() {
        var bench = Bench(two, preferred: true, term: 1)
        bench.milliseconds += 1000
        bench.receive(Bench.heartbeat(1), from: one)
        bench.step(.died(one, asOf: .milliseconds(bench.milliseconds)))
        #expect(bench.wait(50).voteRequests.first?.isPreVote == true)
        var voter = Bench(two, term: 1)
        voter.milliseconds += 1000
        voter.receive(Bench.heartbeat(1), from: one)
        let asked = Bench.voteRequest(2, last: .zero, pre: true)
        voter.step(.died(one, asOf: .milliseconds(voter.milliseconds - 1)))
        #expect(voter.receive(asked, from: three).voteReplies.map(\.granted) == [false])
        voter.step(.died(three, asOf: .milliseconds(voter.milliseconds)))
        #expect(voter.receive(asked, from: three).voteReplies.map(\.granted) == [false])
        voter.step(.died(one, asOf: .milliseconds(voter.milliseconds)))
        #expect(voter.receive(asked, from: three).voteReplies.map(\.granted) == [true])
    }

    @Test("a replica that copies never campaigns, and votes by what it acknowledged before")
    func syncing() {
        var bench = Bench(two, term: 3, base: at(3, 8), terms: [3, 3, 3], syncing: true, floor: at(2, 5))
        #expect(bench.wait(5000).isEmpty)
        #expect(
            bench.receive(Bench.voteRequest(4, last: at(2, 4), pre: true), from: one).voteReplies.map(
                \.granted)
                == [false])
        #expect(
            bench.receive(Bench.voteRequest(4, last: at(2, 5), pre: true), from: one).voteReplies.map(
                \.granted)
                == [true])
    }

    @Test("a group of one leads itself and commits on its own disk")
    func single() {
        var bench = Bench(members: 1, fresh: true)
        bench.wait(1500)
        #expect(bench.replica.role == .candidate)
        bench.step(.voteStored(Term(1)))
        #expect(bench.replica.role == .leader)
        #expect(bench.step(.stored(through: at(1, 1))).commits == [LogIndex(1)])
        #expect(bench.step(.applied(through: LogIndex(1))).texts == ["ready(1)"])
        #expect(bench.replica.holdsLease(now: bench.now) && bench.replica.membersInStep == 1)
    }

    @Test("cut off, a replica asks for ever and its term stays")
    func cutOff() {
        var bench = Bench(term: 4)
        let effects = bench.wait(60_000)
        #expect(effects.voteRequests.allSatisfy { $0.isPreVote && $0.term == Term(5) })
        #expect(bench.replica.term == Term(4))
        #expect(effects.sent().count < 1000, "\(effects.sent().count) messages in a minute")
    }

    @Test("a leader that reaches no majority for an election timeout steps down")
    func quorumLost() {
        var bench = Bench.readyLeader()
        #expect(!bench.wait(950).texts.contains("leadershipLost(1)"))
        #expect(bench.wait(100).texts == ["leadershipLost(1)", "leaderChanged(nil)"])
        #expect(bench.replica.role == .follower && !bench.replica.isReady && bench.replica.term == Term(1))
    }

    @Test("a leader that hears of a later term stands again at once")
    func laterTerm() {
        var bench = Bench.readyLeader()
        let effects = bench.receive(
            .heartbeatReply(.init(term: Term(7), syncing: false, durable: LogIndex(0), echo: 0)), from: three)
        #expect(effects.texts == ["leadershipLost(1)", "leaderChanged(nil)", "storeVote(7, votedFor: nil)"])
        #expect(bench.step(.tick).voteRequests.map(\.term) == [Term(8), Term(8)])
    }

    @Test("an old leader is told that it is one")
    func staleLeader() {
        var bench = Bench(two, term: 5)
        let reply = bench.receive(Bench.append(4, after: .zero, [4]), from: one)
        #expect(reply.appendReplies.map(\.rejected) == [true] && bench.replica.term == Term(5))
        #expect(reply.appendReplies.map(\.term) == [Term(5)])
    }

    @Test("a leader under its lease gives no vote away; when it has run out, it does")
    func leaderAsVoter() {
        var bench = Bench.readyLeader()
        let request = Bench.voteRequest(2, last: at(1, 1))
        #expect(bench.receive(request, from: two).voteReplies.map(\.granted) == [false])
        bench.milliseconds += 800
        #expect(bench.receive(request, from: two).texts.first == "leadershipLost(1)")
        #expect(bench.step(.voteStored(Term(2))).voteReplies.map(\.granted) == [true])
    }

    @Test("no number a peer may send stops the process")
    func extremes() {
        var bench = Bench(two, terms: [1, 1])
        bench.milliseconds += 5000
        bench.receive(Bench.voteRequest(.max, last: at(.max, .max)), from: one)
        bench.wait(5000)
        let far = LogPosition(term: Term(.max), index: LogIndex(.max))
        for message: ReplicaMessage in [
            Bench.append(.max, after: far, [.max]), .syncOffer(term: Term(.max), base: far),
            .timeoutNow(term: Term(.max)),
            .appendReply(
                .init(
                    term: Term(.max), rejected: false, syncing: true, durable: LogIndex(.max),
                    received: LogIndex(.max), echo: .max)),
            Bench.heartbeat(.max, commit: .max, sentAt: .max),
        ] { bench.receive(message, from: one) }
        bench.wait(5000)
        var leader = Bench.readyLeader()
        leader.acknowledge(two, LogIndex(.max))
        leader.acknowledge(two, LogIndex(0), received: LogIndex(.max), rejected: true)
        leader.acknowledge(two, LogIndex(0), rejected: true, echo: .max)
        #expect(leader.replica.commitIndex == LogIndex(1))
    }

    @Test("strangers are not listened to")
    func strangers() {
        var bench = Bench(two)
        bench.milliseconds += 5000
        #expect(bench.receive(Bench.voteRequest(3, last: at(3, 3)), from: ServerID(9)).isEmpty)
        #expect(bench.receive(Bench.heartbeat(3), from: two).isEmpty)
    }
}
