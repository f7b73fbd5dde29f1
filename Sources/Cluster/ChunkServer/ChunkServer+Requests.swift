import BlockTypes
import ChunkStore
import CurveWire
import Environment
import Raft

/// Requests of clients: judged at the door, then put into the log or read from the store.
///
/// A request is answered with success only after its log entry is committed (a fence: applied). What is
/// refused here has changed nothing.
extension ChunkServer {
    func handle(_ request: BlockRequest, requestID: UInt64, from session: ClientSession) {
        let responder = Responder(
            session: session, requestID: requestID, bytesHeld: Self.payloadBytes(of: request))
        session.began(responder, limits: limits)
        guard let replica = replicas[request.copyset] else {
            return refuse(responder, .wrongCopyset)
        }
        guard replica.raft.role == .leader else {
            return refuse(responder, .notLeader, leader: replica.raft.leader)
        }
        guard replica.raft.isReady else { return refuse(responder, .notReady) }
        admit(request, responder, replica)
    }

    /// Judges a request at a ready leader.
    func admit(_ request: BlockRequest, _ responder: Responder, _ replica: CopysetReplica) {
        if case .fence(let volume, let fence) = request.kind {
            return admitFence(request, volume, fence, responder, replica)
        }
        guard let run = Self.run(of: request) else { return refuse(responder, .badRequest) }
        let volume = run.chunk.volume
        if replica.gates[volume] != nil { return waitBehindGate(request, volume, responder, replica) }
        guard let record = store.volumeRecord(replica.id, volume) else {
            return refuse(responder, .needsFence)
        }
        if record.isDeleted { return refuse(responder, .deleted) }
        guard record.fence.accepts(request.epoch) else {
            return refuse(responder, request.epoch > record.fence.epoch ? .needsFence : .staleEpoch)
        }
        guard run.volumeOffsetBytes + UInt64(run.byteCount) <= record.fence.size.bytes else {
            return refuse(responder, .outOfRange)
        }
        switch request.kind {
        case .write, .trim, .zero: admitChange(request, run, record, responder, replica)
        case .amend(let amendment): admitAmendment(request, amendment, record, responder, replica)
        case .read, .blockStatus:
            guard replica.raft.holdsLease(now: environment.now) else { return refuse(responder, .notReady) }
            if case .read = request.kind { return startRead(replica, run, responder, attempts: 0) }
            guard let segments = store.blockStatus(replica.id, run) else {
                return refuse(responder, .notReady)
            }
            reply(BlockReply(status: .ok, segments: segments), to: responder)
        case .fence: refuse(responder, .badRequest)
        }
    }

    private func admitChange(
        _ request: BlockRequest, _ run: BlockRun, _ record: VolumeRecord, _ responder: Responder,
        _ replica: CopysetReplica
    ) {
        guard let operation = Self.operation(of: request), let tag = operation.tag,
            tag.session == request.epoch
        else { return refuse(responder, .badRequest) }
        let name = VolumeTag(volume: run.chunk.volume, tag: tag)
        if joinsPending(name, responder, replica) { return }
        switch record.admission(of: tag) {
        case .repeated: return reply(BlockReply(status: .ok), to: responder)
        case .stale: return refuse(responder, .forgotten)
        case .fresh: break
        }
        if case .write(_, _, _, let checksums, let payload) = operation {
            guard checksums.count == run.blockCount, payload.byteCount == run.byteCount else {
                return refuse(responder, .badRequest)
            }
            guard CRC32C.perBlock(of: payload) == checksums else {
                environment.log(.warning, "\(responder.session.name): \(run) arrived damaged; refused")
                return refuse(responder, .checksumMismatch)
            }
        }
        if waitsBehindAmendment(request, run, responder, replica) { return }
        if let refusal = enter(operation, name, [responder], replica) { refuse(responder, refusal) }
    }

    /// A repetition of what is in the log, but not applied, shares its answer.
    /// - Returns: true when it was one.
    func joinsPending(_ name: VolumeTag, _ responder: Responder, _ replica: CopysetReplica) -> Bool {
        guard let index = replica.indexByTag[name], let change = replica.pending[index] else { return false }
        if change.isCommitted {
            reply(change.answer, to: responder)
        } else {
            replica.pending[index]?.responders.append(responder)
        }
        return true
    }

    /// Puts a client's change into the log, if there is room for what it stores.
    /// - Returns: why not.
    func enter(
        _ operation: Operation, _ name: VolumeTag, _ responders: [Responder], _ replica: CopysetReplica,
        answer: BlockReply = BlockReply(status: .ok)
    ) -> ReplyStatus? {
        let (room, growthBlocks) = room(for: operation, replica)
        switch room {
        case .enough: break
        case .later: return .overloaded
        case .none: return .noSpace
        }
        reserveGrowth(growthBlocks, replica)
        var change = PendingChange(tag: name, gatedVolume: nil, task: nil, responders: responders)
        (change.growthBlocks, change.run, change.answer) = (growthBlocks, operation.run, answer)
        propose(operation, change, replica)
        return nil
    }

    private func admitFence(
        _ request: BlockRequest, _ volume: VolumeID, _ fence: VolumeFence, _ responder: Responder,
        _ replica: CopysetReplica
    ) {
        if replica.gates[volume] != nil { return waitBehindGate(request, volume, responder, replica) }
        if let record = store.volumeRecord(replica.id, volume) {
            if record.isDeleted { return refuse(responder, .deleted) }
            // In force, or a late copy of what a newer one has replaced: nothing is left to do, for whoever
            // is still accepted.
            guard fence.isNewer(than: record.fence) else {
                let isAccepted = record.fence.accepts(request.epoch)
                return reply(BlockReply(status: isAccepted ? .ok : .staleEpoch), to: responder)
            }
        }
        if !isPlanted(.fenceUngated) { replica.gates[volume] = [] }
        propose(
            .fence(volume, fence),
            PendingChange(tag: nil, gatedVolume: volume, task: nil, responders: [responder]), replica)
    }

    func propose(_ operation: Operation, _ change: PendingChange, _ replica: CopysetReplica) {
        let token = ProposalToken(rawValue: newNumber())
        replica.proposals[token] = change
        post(.propose(token, operation), to: replica)
    }

    private func waitBehindGate(
        _ request: BlockRequest, _ volume: VolumeID, _ responder: Responder, _ replica: CopysetReplica
    ) {
        guard (replica.gates[volume]?.count ?? 0) < limits.requestsBehindFenceMax else {
            return refuse(responder, .overloaded)
        }
        replica.gates[volume]?.append(GatedRequest(request: request, responder: responder))
    }

    /// The fence or deletion is applied: who waited is judged anew, in order.
    func openGate(of volume: VolumeID, in replica: CopysetReplica) {
        guard let waiting = replica.gates.removeValue(forKey: volume) else { return }
        for gated in waiting { admit(gated.request, gated.responder, replica) }
    }

    /// Answers the changes that a majority now holds. Fences wait until they are applied here.
    func answerCommitted(_ replica: CopysetReplica, through index: LogIndex) {
        var position = replica.pendingHead
        while position < replica.pendingOrder.count, replica.pendingOrder[position] <= index {
            let at = replica.pendingOrder[position]
            position += 1
            guard var change = replica.pending[at], !change.isCommitted, change.gatedVolume == nil else {
                continue
            }
            change.isCommitted = true
            let responders = change.responders
            change.responders = []
            replica.pending[at] = change
            for responder in responders { reply(change.answer, to: responder) }
        }
        if !replica.amendments.isEmpty { startAmendments(replica) }
    }

    func giveUp(_ replica: CopysetReplica, _ token: ProposalToken, _ status: ReplyStatus, leader: ServerID?) {
        guard let change = replica.proposals.removeValue(forKey: token) else { return }
        releaseGrowth(change.growthBlocks, replica)
        for responder in change.responders { refuse(responder, status, leader: leader) }
        if let task = change.task { tasks.abandoned(task) }
        if let volume = change.gatedVolume {
            for gated in replica.gates.removeValue(forKey: volume) ?? [] {
                refuse(gated.responder, status, leader: leader)
            }
        }
        // One of the changes that they wait for may have been this one.
        if !replica.amendments.isEmpty { startAmendments(replica) }
    }

    /// This server does not lead any more: whether its last changes happened is the next leader's to say.
    /// Clients ask there with the same tags.
    func abandonPromises(of replica: CopysetReplica) {
        resetGrowth(replica)
        let (changes, amendments, gated) = replica.takeEverything()
        for amendment in amendments {
            for responder in amendment.responders {
                refuse(responder, .notLeader, leader: replica.raft.leader)
            }
        }
        for change in changes {
            for responder in change.responders {
                refuse(responder, .notLeader, leader: replica.raft.leader)
            }
            if let task = change.task { tasks.abandoned(task) }
        }
        for request in gated { refuse(request.responder, .notLeader, leader: replica.raft.leader) }
    }

    // MARK: - Reads

    func startRead(_ replica: CopysetReplica, _ run: BlockRun, _ responder: Responder, attempts: Int) {
        let ticket = newNumber()
        tickets[ticket] = .clientRead(responder, replica.id, run, attempts: attempts)
        store.read(ticket, replica.id, run)
    }

    func readCompleted(_ ticket: UInt64, _ result: Result<StoreRead, StoreReadError>) {
        switch tickets.removeValue(forKey: ticket) {
        case .clientRead(let responder, let id, let run, let attempts):
            switch result {
            case .success(let read):
                var answer = BlockReply(status: .ok)
                (answer.segments, answer.checksums) = (read.segments, read.checksums)
                reply(answer, to: responder)
            case .failure(let error):
                readFailed(error, Repair(responder: responder, copyset: id, run: run, attempts: attempts))
            }
        case .amendment(let number, let id): amendmentRead(number, of: id, result)
        case .peerFetch(let session, let requestID, let id):
            peerReadsInFlight -= 1
            answerFetch(session, requestID, id, result)
        case .syncPiece, .logTail, nil:
            break
        }
    }

    // MARK: - Answers

    func refuse(_ responder: Responder, _ status: ReplyStatus, leader: ServerID? = nil) {
        var answer = BlockReply(status: status)
        answer.leader = leader
        reply(answer, to: responder)
    }

    func reply(_ answer: BlockReply, to responder: Responder) {
        responder.session.finished(responder, limits: limits)
        guard responder.session.isOpen else { return }
        responder.session.link.send(.reply(id: responder.requestID, answer))
    }

    private static func payloadBytes(of request: BlockRequest) -> Int {
        switch request.kind {
        case .write(let run, _, _, _, _): run.byteCount
        case .amend(let amendment): amendment.checksums.count * Geometry.blockBytes
        case .read, .trim, .zero, .fence, .blockStatus: 0
        }
    }
    private static func run(of request: BlockRequest) -> BlockRun? {
        switch request.kind {
        case .read(let run), .write(let run, _, _, _, _), .trim(let run, _, _), .zero(let run, _, _),
            .blockStatus(let run):
            run
        case .amend(let amendment): amendment.run
        case .fence: nil
        }
    }
    private static func operation(of request: BlockRequest) -> Operation? {
        switch request.kind {
        case .write(let run, let sn, let tag, let checksums, let payload):
            payload.count == 1 ? .write(run, sn, tag, checksums: checksums, payload: payload[0]) : nil
        case .trim(let run, let sn, let tag): .trim(run, sn, tag)
        case .zero(let run, let sn, let tag): .zero(run, sn, tag)
        case .read, .fence, .blockStatus, .amend: nil
        }
    }
}
