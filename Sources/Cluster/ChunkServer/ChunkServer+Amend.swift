import BlockTypes
import ChunkStore
import CurveWire
import Environment
import Raft

/// Amendments: changes that depend on what the blocks hold, decided by the leader in the order of its log.
///
/// From the moment one is admitted until its entry is proposed no other change of its blocks enters the log;
/// they wait behind it. It reads once every earlier change of them is committed. So what it read is what its
/// own entry finds, if that commits in the same term.
extension ChunkServer {
    func admitAmendment(
        _ request: BlockRequest, _ amendment: Amendment, _ record: VolumeRecord, _ responder: Responder,
        _ replica: CopysetReplica
    ) {
        guard amendment.tag.session == request.epoch, amendment.payload.count == 1 else {
            return refuse(responder, .badRequest)
        }
        let volume = amendment.run.chunk.volume
        let name = VolumeTag(volume: volume, tag: amendment.tag)
        let missName = VolumeTag(volume: volume, tag: amendment.missTag)
        if joinsPending(name, responder, replica) { return }
        if amendment.compares, joinsPending(missName, responder, replica) { return }
        if let place = replica.amendments.firstIndex(where: { $0.name == name }) {
            return replica.amendments[place].responders.append(responder)
        }
        switch record.admission(of: amendment.tag) {
        case .repeated: return reply(BlockReply(status: .ok), to: responder)
        case .stale: return refuse(responder, .forgotten)
        case .fresh: break
        }
        // Where the difference was is forgotten with the log entry: the client asks anew, by another name.
        if amendment.compares, record.admission(of: amendment.missTag) != .fresh {
            return reply(BlockReply(status: .miscompare), to: responder)
        }
        guard verify(checksums: amendment.checksums, payload: amendment.payload[0]) else {
            environment.log(
                .warning, "\(responder.session.name): \(amendment.run) arrived damaged; refused")
            return refuse(responder, .checksumMismatch)
        }
        if waitsBehindAmendment(request, amendment.run, responder, replica) { return }
        guard replica.amendments.count < limits.amendmentsMax else { return refuse(responder, .overloaded) }
        replica.amendments.append(
            PendingAmendment(
                number: newNumber(), name: name, request: request, amendment: amendment,
                responders: [responder]))
        startAmendments(replica)
    }

    /// Lets a change wait if an amendment of its blocks came before it.
    /// - Returns: true when it waits, or was refused because too many do.
    func waitsBehindAmendment(
        _ request: BlockRequest, _ run: BlockRun, _ responder: Responder, _ replica: CopysetReplica
    ) -> Bool {
        guard !replica.amendments.isEmpty, !isPlanted(.amendUnordered),
            let place = replica.amendments.firstIndex(where: { $0.amendment.run.overlaps(run) })
        else { return false }
        guard replica.amendments[place].waiting.count < limits.requestsBehindFenceMax else {
            refuse(responder, .overloaded)
            return true
        }
        replica.amendments[place].waiting.append(GatedRequest(request: request, responder: responder))
        return true
    }

    /// Reads for each amendment whose blocks are not about to be changed by what is in the log already.
    func startAmendments(_ replica: CopysetReplica) {
        for place in replica.amendments.indices where !replica.amendments[place].isReading {
            guard !replica.isChanging(replica.amendments[place].amendment.run) || isPlanted(.amendUnordered)
            else { continue }
            read(for: place, replica)
        }
    }
    private func read(for place: Int, _ replica: CopysetReplica) {
        replica.amendments[place].isReading = true
        replica.amendments[place].term = replica.raft.term
        let ticket = newNumber()
        tickets[ticket] = .amendment(replica.amendments[place].number, replica.id)
        store.read(ticket, replica.id, replica.amendments[place].amendment.run)
    }
    /// A bad block was mended from a peer: what was waited for can be read now.
    func rereadAmendment(_ number: UInt64, _ replica: CopysetReplica, attempts: Int) {
        guard let place = replica.amendments.firstIndex(where: { $0.number == number }) else { return }
        replica.amendments[place].repairAttempts = attempts
        read(for: place, replica)
    }

    func amendmentRead(
        _ number: UInt64, of id: CopysetID, _ result: Result<StoreRead, StoreReadError>
    ) {
        guard let replica = replicas[id],
            let place = replica.amendments.firstIndex(where: { $0.number == number })
        else { return }
        let pending = replica.amendments[place]
        switch result {
        case .failure(let error):
            var repair = Repair(
                responder: nil, copyset: id, run: pending.amendment.run, attempts: pending.repairAttempts)
            repair.amendment = number
            readFailed(error, repair)
        case .success(let found):
            // A fence or another reign came in between: judged anew, like a request that has just come.
            guard isStillAdmissible(pending, replica) else {
                return release(place, replica, judgedAnew: true)
            }
            decide(place, found, replica)
        }
    }
    private func isStillAdmissible(_ pending: PendingAmendment, _ replica: CopysetReplica) -> Bool {
        let run = pending.amendment.run
        guard replica.raft.role == .leader, replica.raft.isReady, replica.raft.term == pending.term,
            replica.gates[run.chunk.volume] == nil,
            let record = store.volumeRecord(replica.id, run.chunk.volume)
        else { return false }
        return !record.isDeleted && record.fence.accepts(pending.request.epoch)
            && run.volumeOffsetBytes + UInt64(run.byteCount) <= record.fence.size.bytes
    }
    /// Compares, and puts what follows from it into the log.
    private func decide(_ place: Int, _ found: StoreRead, _ replica: CopysetReplica) {
        let pending = replica.amendments[place]
        let amendment = pending.amendment
        let refusal: ReplyStatus?
        if let byte = amendment.firstDifference(from: found.segments) {
            var answer = BlockReply(status: .miscompare)
            answer.differsAtByte = byte
            if isPlanted(.missUnrecorded) {
                for responder in pending.responders { reply(answer, to: responder) }
                return release(place, replica, judgedAnew: false)
            }
            let missName = VolumeTag(volume: pending.name.volume, tag: amendment.missTag)
            refusal = enter(
                .void(amendment.run, amendment.missTag), missName, pending.responders, replica,
                answer: answer)
        } else {
            let blocks = amendment.blocks(over: found.segments, pool: pool)
            let write = Operation.write(
                amendment.run, amendment.snapshot, amendment.tag, checksums: CRC32C.perBlock(of: blocks),
                payload: blocks)
            refusal = enter(write, pending.name, pending.responders, replica)
        }
        if let refusal { for responder in pending.responders { refuse(responder, refusal) } }
        release(place, replica, judgedAnew: false)
    }
    /// Ends an amendment that has entered the log, or can not.
    func refuseAmendment(_ number: UInt64, of id: CopysetID, _ status: ReplyStatus) {
        guard let replica = replicas[id],
            let place = replica.amendments.firstIndex(where: { $0.number == number })
        else { return }
        for responder in replica.amendments[place].responders { refuse(responder, status) }
        release(place, replica, judgedAnew: false)
    }
    /// Lets its blocks go: who waited is judged anew, in order.
    private func release(_ place: Int, _ replica: CopysetReplica, judgedAnew: Bool) {
        let done = replica.amendments.remove(at: place)
        var next = done.waiting
        if judgedAnew {
            next = done.responders.map { GatedRequest(request: done.request, responder: $0) } + next
        }
        for gated in next { judge(gated, replica) }
    }
    private func judge(_ gated: GatedRequest, _ replica: CopysetReplica) {
        guard replica.raft.role == .leader else {
            return refuse(gated.responder, .notLeader, leader: replica.raft.leader)
        }
        guard replica.raft.isReady else { return refuse(gated.responder, .notReady) }
        admit(gated.request, gated.responder, replica)
    }
}

extension CopysetReplica {
    /// True while a change of some of these blocks is on its way into the log, or in it and not committed.
    func isChanging(_ run: BlockRun) -> Bool {
        if proposals.values.contains(where: { $0.run?.overlaps(run) == true }) { return true }
        return pendingOrder[pendingHead...].contains { index in
            guard let change = pending[index], !change.isCommitted else { return false }
            return change.run?.overlaps(run) == true
        }
    }
}

extension Amendment {
    /// The first byte of the run that is not as expected; `nil`: all are, or nothing is expected.
    func firstDifference(from found: [ReadSegment]) -> Int? {
        guard compares else { return nil }
        var position = 0
        for segment in found {
            let end = position + segment.byteCount
            let part = max(position, bytes.lowerBound)..<min(max(end, bytes.lowerBound), bytes.upperBound)
            if part.lowerBound < part.upperBound {
                let expected = payload[0].slice(run.byteCount + part.lowerBound, part.count)
                let difference = segment.firstDifference(from: expected, at: part.lowerBound - position)
                if let difference { return part.lowerBound + difference }
            }
            position = end
        }
        return nil
    }

    /// What is found, with the new bytes in it.
    func blocks(over found: [ReadSegment], pool: BufferPool) -> Payload {
        let whole = Payload(pool.take(byteCount: run.byteCount), byteCount: run.byteCount)
        let target = unsafe UnsafeMutableRawBufferPointer(rebasing: whole.buffer.bytes[..<run.byteCount])
        var position = 0
        for segment in found {
            let place = unsafe UnsafeMutableRawBufferPointer(
                rebasing: target[position..<(position + segment.byteCount)])
            switch segment {
            case .data(let payload): unsafe payload.withBytes { unsafe place.copyMemory(from: $0) }
            case .zeroes, .stored: unsafe place.initializeMemory(as: UInt8.self, repeating: 0)
            }
            position += segment.byteCount
        }
        let place = unsafe UnsafeMutableRawBufferPointer(rebasing: target[bytes])
        unsafe payload[0].slice(bytes.lowerBound, bytes.count).withBytes {
            unsafe place.copyMemory(from: $0)
        }
        return whole
    }
}

extension ReadSegment {
    /// The first byte of `expected` that is not the segment's, from the segment's byte `start` on.
    fileprivate func firstDifference(from expected: Payload, at start: Int) -> Int? {
        unsafe expected.withBytes { wanted in
            guard case .data(let payload) = self else { return unsafe Self.difference(wanted, nil) }
            return unsafe payload.slice(start, expected.byteCount).withBytes {
                unsafe Self.difference(wanted, $0)
            }
        }
    }
    /// Where two runs of the same length differ first; nothing stands for zeroes.
    private static func difference(
        _ wanted: UnsafeRawBufferPointer, _ found: UnsafeRawBufferPointer?
    ) -> Int? {
        // SAFETY: both have `wanted.count` bytes, and no word is read past them.
        var index = 0
        while index + 8 <= wanted.count {
            let word = unsafe found?.loadUnaligned(fromByteOffset: index, as: UInt64.self) ?? 0
            if unsafe wanted.loadUnaligned(fromByteOffset: index, as: UInt64.self) != word { break }
            index += 8
        }
        while index < wanted.count {
            if unsafe wanted[index] != found?[index] ?? 0 { return index }
            index += 1
        }
        return nil
    }
}
