import BlockTypes
import CurveWire
import RaftModel
import Testing

@testable import Raft

let (one, two, three) = (ServerID(1), ServerID(2), ServerID(3))

func at(_ term: UInt32, _ index: UInt64) -> LogPosition {
    LogPosition(term: Term(term), index: LogIndex(index))
}

/// One replica on the bench, with the world played by the test.
struct Bench {
    var replica: RaftReplica
    var milliseconds = 10_000
    var effects: [RaftReplica.Effect] = []

    /// - Parameter terms: the terms of the log's entries after `base`, all durable.
    init(
        _ server: ServerID = one, members: Int = 3, preferred: Bool = false, term: UInt32 = 0,
        votedFor: ServerID? = nil, base: LogPosition = .zero, terms: [UInt32] = [], applied: UInt64? = nil,
        syncing: Bool = false, floor: LogPosition = .zero, fresh: Bool = false,
        settings: RaftReplica.Settings = .init()
    ) {
        var (starts, last) = ([LogPosition](), base)
        for term in terms {
            last = LogPosition(term: Term(term), index: last.index.next)
            if starts.last?.term != last.term { starts.append(last) }
        }
        replica = RaftReplica(
            server: server, isPreferredLeader: preferred,
            persisted: .init(
                term: Term(term), votedFor: votedFor, members: (1...UInt64(members)).map { ServerID($0) },
                base: base, termStarts: starts, last: last,
                applied: applied.map { LogIndex($0) } ?? base.index, isSyncing: syncing, voteFloor: floor,
                isFresh: fresh),
            settings: settings, seed: 1, now: .milliseconds(10_000))
    }

    var now: Duration { .milliseconds(milliseconds) }
    var nanoseconds: UInt64 { UInt64(milliseconds) * 1_000_000 }

    @discardableResult mutating func step(_ event: RaftReplica.Event) -> [RaftReplica.Effect] {
        effects = []
        replica.step(event, now: now, effects: &effects)
        return effects
    }
    @discardableResult mutating func receive(
        _ message: ReplicaMessage, from sender: ServerID
    ) -> [RaftReplica.Effect] { step(.received(from: sender, message)) }

    /// Ticks every 50 ms. - Returns: all effects on the way.
    @discardableResult mutating func wait(
        _ duration: Int, until isEnough: (RaftReplica.Effect) -> Bool = { _ in false }
    ) -> [RaftReplica.Effect] {
        var all: [RaftReplica.Effect] = []
        for _ in 0..<(duration / 50) {
            milliseconds += 50
            let new = step(.tick)
            all += new
            if new.contains(where: isEnough) { break }
        }
        effects = all
        return all
    }

    // MARK: - Getting somewhere

    /// A leader of `term` whose NOOP is sent and on nobody's disk.
    static func leader(
        members: Int = 3, term: UInt32 = 1, base: LogPosition = .zero, terms: [UInt32] = [],
        applied: UInt64? = nil, settings: RaftReplica.Settings = .init()
    ) -> Bench {
        var bench = Bench(
            members: members, preferred: true, term: term - 1, base: base, terms: terms, applied: applied,
            settings: settings)
        bench.wait(1500) { if case .send = $0 { true } else { false } }
        for voter in bench.replica.members.dropFirst() where bench.replica.role == .preCandidate {
            bench.receive(
                .voteReply(.init(term: Term(term), isPreVote: true, granted: true)), from: voter)
        }
        var all = bench.step(.voteStored(Term(term)))
        for voter in bench.replica.members.dropFirst() where bench.replica.role == .candidate {
            all = bench.receive(
                .voteReply(.init(term: Term(term), isPreVote: false, granted: true)), from: voter)
        }
        #expect(bench.replica.role == .leader)
        bench.effects = all
        return bench
    }
    /// A leader whose NOOP is everywhere and applied.
    static func readyLeader(
        members: Int = 3, term: UInt32 = 1, base: LogPosition = .zero, terms: [UInt32] = [],
        applied: UInt64? = nil, settings: RaftReplica.Settings = .init()
    ) -> Bench {
        var bench = leader(
            members: members, term: term, base: base, terms: terms, applied: applied, settings: settings)
        bench.step(.stored(through: bench.replica.last))
        for peer in bench.replica.members.dropFirst() { bench.acknowledge(peer, bench.replica.last.index) }
        bench.step(.applied(through: bench.replica.last.index))
        #expect(bench.replica.isReady)
        return bench
    }
    @discardableResult mutating func acknowledge(
        _ peer: ServerID, _ durable: LogIndex, received: LogIndex? = nil, rejected: Bool = false,
        syncing: Bool = false, echo: UInt64? = nil
    ) -> [RaftReplica.Effect] {
        receive(
            .appendReply(
                .init(
                    term: replica.term, rejected: rejected, syncing: syncing, durable: durable,
                    received: received ?? durable, echo: echo ?? nanoseconds)), from: peer)
    }
    @discardableResult mutating func propose(_ payloadBytes: Int = 0) -> [RaftReplica.Effect] {
        step(.propose(ProposalToken(rawValue: 1), Bench.operation(payloadBytes)))
    }
    static func operation(_ payloadBytes: Int) -> Operation {
        let chunk = ChunkKey(volume: VolumeID(1), index: 0)
        let tag = RequestTag(session: Epoch(1), sequence: 1)
        guard payloadBytes > 0, let run = BlockRun(chunk: chunk, firstBlock: 0, blockCount: 1) else {
            return .noop
        }
        let payload = Payload(BlockBuffer(byteCount: payloadBytes), byteCount: payloadBytes)
        return .write(run, SnapshotNumber(0), tag, checksums: [], payload: payload)
    }
    static func append(
        _ term: UInt32, after previous: LogPosition, _ terms: [UInt32] = [], commit: UInt64 = 0,
        retain: UInt64 = 0, sentAt: UInt64 = 7
    ) -> ReplicaMessage {
        var entries: [LogEntry] = []
        for (offset, term) in terms.enumerated() {
            entries.append(LogEntry(at(term, previous.index.rawValue &+ UInt64(offset) &+ 1), .noop))
        }
        return .append(
            .init(
                term: Term(term), previous: previous, commit: LogIndex(commit),
                retainAfter: LogIndex(retain), sentAt: sentAt, entries: entries))
    }
    static func voteRequest(
        _ term: UInt32, last: LogPosition, pre: Bool = false, transfer: Bool = false
    ) -> ReplicaMessage {
        .voteRequest(.init(term: Term(term), isPreVote: pre, isTransfer: transfer, last: last))
    }
    static func heartbeat(_ term: UInt32, commit: UInt64 = 0, sentAt: UInt64 = 7) -> ReplicaMessage {
        .heartbeat(
            .init(term: Term(term), commit: LogIndex(commit), retainAfter: LogIndex(0), sentAt: sentAt))
    }
}

extension [RaftReplica.Effect] {
    var texts: [String] { map { describe($0) } }
    func sent(to target: ServerID? = nil) -> [ReplicaMessage] {
        compactMap { effect in
            guard case .send(let to, let message) = effect, target == nil || to == target else { return nil }
            return message
        }
    }
    func appends(to target: ServerID? = nil) -> [ReplicaMessage.Append] {
        sent(to: target).compactMap { if case .append(let body) = $0 { body } else { nil } }
    }
    var appendReplies: [ReplicaMessage.AppendReply] {
        sent().compactMap { if case .appendReply(let body) = $0 { body } else { nil } }
    }
    var voteReplies: [ReplicaMessage.VoteReply] {
        sent().compactMap { if case .voteReply(let body) = $0 { body } else { nil } }
    }
    var voteRequests: [ReplicaMessage.VoteRequest] {
        sent().compactMap { if case .voteRequest(let body) = $0 { body } else { nil } }
    }
    var commits: [LogIndex] {
        compactMap { if case .commit(let index) = $0 { index } else { nil } }
    }
    var retains: [LogIndex] {
        compactMap { if case .retain(let index) = $0 { index } else { nil } }
    }
}
