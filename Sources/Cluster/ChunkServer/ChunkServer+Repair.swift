import BlockTypes
import ChunkStore
import CurveWire
import Environment

/// A read that met a bad block: the block is fetched from a peer, mended here, and the read is done again.
struct Repair {
    /// Who waits for the blocks; `nil` when it is an amendment, or a full copy, which asks again by itself.
    let responder: Responder?
    /// The amendment that waits for them.
    var amendment: UInt64?
    let copyset: CopysetID
    let run: BlockRun
    /// Peers asked so far.
    var attempts: Int
    /// Who was asked last.
    var asked = ServerID(0)
    /// Who said that its own copy is bad.
    var badCopies: [ServerID] = []
}

extension ChunkServer {
    func readFailed(_ error: StoreReadError, _ repair: Repair) {
        environment.log(.warning, "copyset \(repair.copyset): \(repair.run) cannot be read here (\(error))")
        if case .notHere = error { return end(repair, .notReady) }
        askPeer(repair)
    }
    /// A peer's full copy met bad blocks here. One repair at a time for each copyset: the copy comes back to
    /// what is still bad.
    func mendForCopy(_ run: BlockRun, of id: CopysetID) {
        let isRepairing = repairs.values.contains {
            $0.responder == nil && $0.amendment == nil && $0.copyset == id
        }
        guard !isRepairing else { return }
        askPeer(Repair(responder: nil, copyset: id, run: run, attempts: 0))
    }
    private func end(_ repair: Repair, _ status: ReplyStatus) {
        if let responder = repair.responder { refuse(responder, status) }
        if let number = repair.amendment { refuseAmendment(number, of: repair.copyset, status) }
    }

    private func askPeer(_ repair: Repair) {
        var repair = repair
        guard let replica = replicas[repair.copyset] else { return end(repair, .wrongCopyset) }
        let others = replica.members.filter { $0 != store.identity.server }
        while repair.attempts < limits.repairAttemptsMax, !others.isEmpty {
            let server = others[repair.attempts % others.count]
            repair.attempts += 1
            repair.asked = server
            let id = newNumber()
            if peers[server]?.send(.fetch(id: id, repair.copyset, repair.run)) == true {
                repairs[id] = repair
                environment.after(limits.pullTimeout) { [weak self] in
                    guard let self, let late = repairs.removeValue(forKey: id) else { return }
                    askPeer(late)
                    pump()
                }
                return
            }
        }
        guard others.allSatisfy(repair.badCopies.contains) else {
            // Somebody out of reach may have a good copy: the client comes back, by its volume's policy.
            return end(repair, .notReady)
        }
        environment.log(.error, "copyset \(repair.copyset): no peer has a good copy of \(repair.run)")
        end(repair, .checksumMismatch)
    }

    func fetchAnswered(_ requestID: UInt64, _ answer: BlockReply) {
        guard var repair = repairs.removeValue(forKey: requestID) else { return }
        guard let replica = replicas[repair.copyset] else { return end(repair, .wrongCopyset) }
        guard answer.status == .ok else {
            if answer.status == .checksumMismatch { repair.badCopies.append(repair.asked) }
            return askPeer(repair)
        }
        var (block, checksum) = (repair.run.firstBlock, 0)
        for segment in answer.segments {
            let count = segment.byteCount / Geometry.blockBytes
            if case .data(let payload) = segment, checksum + count <= answer.checksums.count,
                let run = BlockRun(chunk: repair.run.chunk, firstBlock: block, blockCount: count)
            {
                let sums = Array(answer.checksums[checksum..<(checksum + count)])
                if CRC32C.perBlock(of: payload) == sums {
                    store.repair(repair.copyset, run, payload: payload, checksums: sums)
                }
                checksum += count
            }
            block += count
        }
        if let number = repair.amendment {
            return rereadAmendment(number, replica, attempts: repair.attempts)
        }
        guard let responder = repair.responder else {
            return environment.log(.notice, "copyset \(repair.copyset): \(repair.run) mended for a full copy")
        }
        startRead(replica, repair.run, responder, attempts: repair.attempts)
    }

    // MARK: - For a peer

    func startFetch(_ session: ClientSession, _ requestID: UInt64, _ id: CopysetID, _ run: BlockRun) {
        guard replicas[id] != nil, peerReadsInFlight < limits.peerReadsInFlightMax else {
            return session.link.send(.fetched(id: requestID, id, BlockReply(status: .overloaded)))
        }
        peerReadsInFlight += 1
        let ticket = newNumber()
        tickets[ticket] = .peerFetch(session, requestID: requestID, id)
        store.read(ticket, id, run)
    }

    func answerFetch(
        _ session: ClientSession, _ requestID: UInt64, _ id: CopysetID,
        _ result: Result<StoreRead, StoreReadError>
    ) {
        guard session.isOpen else { return }
        var answer = BlockReply(status: .checksumMismatch)
        switch result {
        case .success(let read):
            answer = BlockReply(status: .ok)
            (answer.segments, answer.checksums) = (read.segments, read.checksums)
        case .failure(.notHere): answer = BlockReply(status: .notReady)
        case .failure(.corrupt), .failure(.io): break
        }
        session.link.send(.fetched(id: requestID, id, answer))
    }
}
