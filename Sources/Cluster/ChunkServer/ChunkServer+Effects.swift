import BlockTypes
import ChunkStore
import CurveWire
import Environment
import Raft

/// What a ticket given to the store was for.
enum TicketPurpose {
    case clientRead(Responder, CopysetID, BlockRun, attempts: Int)
    case amendment(UInt64, CopysetID)
    case peerFetch(ClientSession, requestID: UInt64, CopysetID)
    case syncPiece(ClientSession, requestID: UInt64, CopysetID)
    case logTail(ServerID, CopysetID, from: LogIndex)
}

extension ChunkServer {
    func perform(_ effect: RaftReplica.Effect, of replica: CopysetReplica) {
        switch effect {
        case .storeVote(let term, let votedFor): store.storeVote(replica.id, term, votedFor: votedFor)
        case .append(let entries): store.append(replica.id, entries)
        case .truncate(let from): store.truncate(replica.id, from: from)
        case .commit(let index):
            store.commit(replica.id, through: index)
            answerCommitted(replica, through: index)
        case .retain(let index): store.retain(replica.id, after: index)
        case .send(let to, let message): send(message, of: replica.id, to: to)
        case .accepted(let token, let position):
            if let change = replica.proposals.removeValue(forKey: token) {
                replica.place(change, at: position.index)
            }
        case .refused(let token, let leader):
            giveUp(replica, token, .notLeader, leader: leader)
        case .busy(let token): giveUp(replica, token, .overloaded, leader: nil)
        case .becameLeader(let term):
            environment.log(.debug, "copyset \(replica.id): leads in term \(term)")
            for server in replica.followers { rooms.expectWord(from: server, at: environment.now) }
        case .ready(let term):
            environment.log(.info, "copyset \(replica.id): serves in term \(term)")
        case .leadershipLost(let term):
            environment.log(.info, "copyset \(replica.id): lost the lead of term \(term)")
            abandonPromises(of: replica)
        case .leaderChanged: break
        case .loadEntries(let peer, let from, let bytesMax):
            let ticket = newNumber()
            tickets[ticket] = .logTail(peer, replica.id, from: from)
            store.loadEntries(ticket, replica.id, from: from, bytesMax: bytesMax)
        case .offerSync(let peer): offerSync(of: replica, to: peer)
        case .beginSync(let leader, let term, let base):
            beginSync(of: replica, from: leader, term: term, base: base)
        }
    }

    func perform(_ effect: StoreEffect) {
        switch effect {
        case .disk(let request): disk.submit(request)
        case .opened: storeOpened()
        case .openFailed(let error): fail(.store(error.description))
        case .copysetCreated(let id): startReplica(id)
        case .copysetRefused(let id, let refusal):
            health = "copyset \(id) has no place here: \(refusal)"
            environment.log(.error, health)
        case .stored(let id, let through): post(.stored(through: through), to: id)
        case .voteStored(let id, let term): post(.voteStored(term), to: id)
        case .truncated(let id, let from): post(.truncated(from: from), to: id)
        case .applied(let id, let through): entriesApplied(id, through: through)
        case .logStart(let id, let base): post(.logStart(base), to: id)
        case .readCompleted(let ticket, let result): readCompleted(ticket, result)
        case .entriesLoaded(let ticket, let entries): logTailLoaded(ticket, entries)
        case .syncBegun(let id): syncBegun(id)
        case .syncPieceRead(let ticket, let piece, let unreadable):
            syncPieceRead(ticket, piece, unreadable: unreadable)
        case .pieceInstalled(let id): pieceInstalled(id)
        case .syncFinished(let id): syncFinished(id)
        case .closed: finishStop()
        case .failStop(let failure):
            fail(.device("the device of this store failed and is not used any more: \(failure)"))
        }
    }

    private func post(_ event: RaftReplica.Event, to id: CopysetID) {
        if let replica = replicas[id] { post(event, to: replica) }
    }

    private func storeOpened() {
        environment.log(.info, "store \(store.identity.device) opened, \(store.copysets.count) copysets")
        register()
    }

    /// Makes the Raft machine of a copyset whose durable state the store holds.
    func startReplica(_ id: CopysetID) {
        guard replicas[id] == nil, let state = store.state(of: id) else { return }
        let persisted = RaftReplica.Persisted(
            term: state.term, votedFor: state.votedFor, members: state.members, base: state.base,
            termStarts: state.termStarts, last: state.last, applied: state.applied,
            isSyncing: state.isSyncing, voteFloor: state.voteFloor, isFresh: state.isFresh)
        let raft = RaftReplica(
            server: store.identity.server, isPreferredLeader: state.members.first == store.identity.server,
            persisted: persisted, settings: RaftReplica.Settings(), seed: environment.random(),
            now: environment.now)
        replicas[id] = CopysetReplica(
            id: id, server: store.identity.server, members: state.members, raft: raft, applied: state.applied)
        copysetOrder = replicas.keys.sorted()
        for member in state.members where member != store.identity.server { ensurePeer(member) }
    }

    private func entriesApplied(_ id: CopysetID, through index: LogIndex) {
        guard let replica = replicas[id] else { return }
        replica.applied = index
        post(.applied(through: index), to: replica)
        for change in replica.takeApplied(through: index) {
            for responder in change.responders { reply(change.answer, to: responder) }
            if let task = change.task { tasks.finished(task) }
            if let volume = change.gatedVolume { openGate(of: volume, in: replica) }
        }
    }

    private func logTailLoaded(_ ticket: UInt64, _ entries: [LogEntry]) {
        guard case .logTail(let peer, let id, let from) = tickets.removeValue(forKey: ticket),
            let replica = replicas[id]
        else { return }
        post(.entriesLoaded(for: peer, from: from, entries), to: replica)
    }
}
