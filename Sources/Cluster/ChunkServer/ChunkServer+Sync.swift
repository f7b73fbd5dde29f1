import BlockTypes
import ChunkStore
import CurveWire
import Environment
import Raft

/// The full copy of a copyset: offered by the leader, pulled piece by piece by the replica that needs it.
///
/// The replica holds its apply while a piece is on its way, so the piece is never older than what it has
/// applied; the store skips the entries that the piece already contains.
extension ChunkServer {
    // MARK: - Leader

    func offerSync(of replica: CopysetReplica, to server: ServerID) {
        let term = replica.raft.term
        let (base, blocks, volumes) = store.syncState(replica.id)
        guard FrameEncoder.fitsOffer(volumes) else {
            return environment.log(
                .error,
                "copyset \(replica.id): \(volumes.count) volumes do not fit one offer of a full copy to "
                    + "chunkserver \(server); purge volumes or spread them over more copysets")
        }
        guard
            sendFrame(
                .syncOffer(
                    replica.id, term: term, base: base, blocks: UInt64(blocks), volumes: volumes),
                to: server)
        else { return }
        environment.log(
            .info, "copyset \(replica.id): chunkserver \(server) is far behind; full copy from \(base)")
        settleGrowth(replica, of: server, through: base.index)
        post(.syncOffered(to: server, base: base), to: replica)
    }

    func answerPull(
        _ session: ClientSession, _ requestID: UInt64, _ id: CopysetID, _ term: Term,
        _ cursor: SyncCursorWire,
        _ minApplied: LogIndex
    ) {
        guard let replica = replicas[id], replica.raft.role == .leader, replica.raft.term == term,
            replica.applied >= minApplied, peerReadsInFlight < limits.peerReadsInFlightMax
        else { return session.link.send(.syncRefused(id: requestID)) }
        peerReadsInFlight += 1
        let ticket = newNumber()
        tickets[ticket] = .syncPiece(session, requestID: requestID, id)
        store.readSyncPiece(ticket, id, from: SyncCursor(chunk: cursor.chunk, block: cursor.block))
    }

    func syncPieceRead(_ ticket: UInt64, _ piece: SyncPiece?, unreadable: [BlockRun]) {
        guard case .syncPiece(let session, let requestID, let id) = tickets.removeValue(forKey: ticket) else {
            return
        }
        peerReadsInFlight -= 1
        if let bad = unreadable.first { mendForCopy(bad, of: id) }
        guard session.isOpen else { return }
        guard let piece, let replica = replicas[id] else {
            return session.link.send(.syncRefused(id: requestID))
        }
        let wire = SyncPieceWire(
            copyset: id, term: replica.raft.term, from: Self.wire(piece.from),
            next: piece.next.map(Self.wire),
            applied: piece.applied, runs: piece.runs.map { ($0.run, $0.checksums, $0.payload) })
        session.link.send(.syncPiece(id: requestID, wire))
    }

    private static func wire(_ cursor: SyncCursor) -> SyncCursorWire {
        SyncCursorWire(chunk: cursor.chunk, block: cursor.block)
    }

    // MARK: - The replica that copies

    func beginSync(of replica: CopysetReplica, from leader: ServerID, term: Term, base: LogPosition) {
        // Raft has emptied its log already: the store must follow.
        guard let offered = replica.offered, offered.base == base else {
            invariant(false, "copyset \(replica.id): a full copy from \(base) without its offer")
            return
        }
        environment.log(.notice, "copyset \(replica.id): copies everything from chunkserver \(leader)")
        replica.offered = nil
        replica.sync = SyncPull(leader: leader, base: base, cursor: .start)
        store.beginSync(
            replica.id, base: base, sourceTerm: term, voteFloor: replica.raft.voteFloor,
            blocks: offered.blocks, volumes: offered.volumes)
        replica.applied = base.index
    }

    func syncBegun(_ id: CopysetID) {
        // The store tells only of the newest beginning.
        guard let replica = replicas[id], replica.sync != nil else { return }
        replica.sync?.hasBegun = true
        pull(replica)
    }

    /// Asks for the next piece, if this copyset may pull now.
    private func pull(_ replica: CopysetReplica) {
        guard var sync = replica.sync, sync.hasBegun, sync.outstanding == nil, !sync.isInstalling,
            !sync.isLast  // Nothing is left to ask for: the store makes the copy durable.
        else { return }
        let pulling = copysetOrder.filter { replicas[$0]?.sync?.outstanding != nil }.count
        guard pulling < limits.syncsMax else { return }
        store.holdApply(replica.id)
        let id = newNumber()
        let frame = Frame.syncPull(
            id: id, replica.id, term: replica.raft.term, Self.wire(sync.cursor), minApplied: replica.applied)
        guard peers[sync.leader]?.send(frame) == true else { return }
        sync.outstanding = (id, environment.now)
        replica.sync = sync
    }

    /// Each tick: starts pulls that had to wait, and repeats one that was not answered.
    func checkPull(of replica: CopysetReplica) {
        guard let sync = replica.sync else { return }
        if let outstanding = sync.outstanding, environment.now - outstanding.sentAt > limits.pullTimeout {
            replica.sync?.outstanding = nil
        }
        pull(replica)
    }

    func pieceArrived(_ requestID: UInt64, _ piece: SyncPieceWire) {
        guard let replica = replicas[piece.copyset], let sync = replica.sync,
            sync.outstanding?.id == requestID
        else {
            return
        }
        replica.sync?.outstanding = nil  // The next tick asks again if this piece is no good.
        guard Self.wire(sync.cursor) == piece.from,
            piece.runs.allSatisfy({ CRC32C.perBlock(of: $0.payload) == $0.checksums })
        else {
            return environment.log(.warning, "copyset \(piece.copyset): a piece of the full copy is damaged")
        }
        replica.sync?.isInstalling = true
        let next = piece.next.map { SyncCursor(chunk: $0.chunk, block: $0.block) }
        store.installPiece(
            piece.copyset,
            SyncPiece(
                from: sync.cursor, next: next, applied: piece.applied,
                runs: piece.runs.map { SyncRun($0.0, checksums: $0.checksums, payload: $0.payload) }))
        if let next { replica.sync?.cursor = next } else { replica.sync?.isLast = true }
    }

    func pullRefused(_ requestID: UInt64) {
        for id in copysetOrder where replicas[id]?.sync?.outstanding?.id == requestID {
            replicas[id]?.sync?.outstanding = nil  // The next tick asks again.
        }
    }

    func pieceInstalled(_ id: CopysetID) {
        guard let replica = replicas[id], let sync = replica.sync, sync.isInstalling else { return }
        replica.sync?.isInstalling = false
        if sync.isLast { store.finishSync(id) } else { pull(replica) }
    }

    func syncFinished(_ id: CopysetID) {
        // Of a copy that was given up for a newer one it says nothing.
        guard let replica = replicas[id], let sync = replica.sync, sync.isLast, !sync.isInstalling else {
            return
        }
        replica.sync = nil
        environment.log(.notice, "copyset \(id): the full copy is complete")
        post(.syncFinished, to: replica)
    }
}
