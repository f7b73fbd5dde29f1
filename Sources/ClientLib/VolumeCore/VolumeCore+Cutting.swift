import BlockTypes

// How requests become sub-requests as room allows.
extension VolumeCore {
    private var hasRoom: Bool {
        freeSubs.count > limits.fencesMax && activeBytes + LogEntry.payloadBytesMax <= limits.activeBytesMax
    }

    mutating func pump(now: Duration, effects: inout [Effect]) {
        guard lifecycle.death == nil else { return }
        sendFences(now: now, effects: &effects)
        // Before that there is nothing to do but to free what lies behind the end.
        if !lifecycle.isAttached { guard case .trimming = lifecycle.change else { return } }
        var hasMore = true
        while hasMore {
            hasMore = cutFirstRead(now: now, effects: &effects)
            if cutFirstChange(now: now, effects: &effects) { hasMore = true }
            if bulk >= 0, cutBulk(now: now, effects: &effects) { hasMore = true }
        }
    }

    private mutating func cutFirstRead(now: Duration, effects: inout [Effect]) -> Bool {
        guard let index = readQueue.first else { return false }
        if requests[index].isCut {
            _ = readQueue.popFirst()
            leaveQueue(index)
            return true
        }
        return hasRoom && cut(index, now: now, effects: &effects)
    }

    private mutating func cutFirstChange(now: Duration, effects: inout [Effect]) -> Bool {
        guard let index = changeQueue.first else { return false }
        if requests[index].isCut {
            _ = changeQueue.popFirst()
            leaveQueue(index)
            return true
        }
        if bulk >= 0, !requests[bulk].isCut {
            // What the large trim has yet to cover must be locked by it first.
            let rest = requests[bulk].splitter.doneBefore..<requests[bulk].range.upperBound
            let mine = StripeMap.wholeBlocks(around: requests[index].range)
            if mine.overlaps(StripeMap.wholeBlocks(around: rest)) { return false }
        }
        if isBulk(index) {
            guard bulk < 0 else { return false }
            _ = changeQueue.popFirst()
            bulk = index
            return true
        }
        return hasRoom && cut(index, now: now, effects: &effects)
    }

    private mutating func cutBulk(now: Duration, effects: inout [Effect]) -> Bool {
        if requests[bulk].isCut {
            leaveQueue(bulk)
            bulk = -1
            return true
        }
        return hasRoom && requests[bulk].outstanding < limits.bulkSubRequestsMax
            && cut(bulk, now: now, effects: &effects)
    }

    private func isBulk(_ index: Int) -> Bool {
        let bytes = requests[index].range.upperBound - requests[index].range.lowerBound
        return (requests[index].kind == .trim || requests[index].kind == .zero)
            && bytes > UInt64(limits.bulkSubRequestsMax * Geometry.chunkBytes)
    }

    private mutating func leaveQueue(_ index: Int) {
        requests[index].isQueued = false
        if requests[index].isAnswered { freeRequests.append(index) }
    }

    /// Starts the next piece of a request. There is room for it.
    private mutating func cut(_ index: Int, now: Duration, effects: inout [Effect]) -> Bool {
        guard let piece = requests[index].splitter.next() else {
            requests[index].isCut = true
            answerIfDone(index, effects: &effects)
            return true
        }
        guard let slot = freeSubs.popLast() else { return false }
        subs[slot] = SubRequest()
        subs[slot].request = index
        subs[slot].ordinal = requests[index].pieces
        subs[slot].copyset = Int(piece.chunk) % copysets.count
        subs[slot].piece = piece
        subs[slot].run = BlockRun(
            chunk: ChunkKey(volume: configuration.volume, index: piece.chunk), firstBlock: piece.firstBlock,
            blockCount: piece.blockCount)
        invariant(subs[slot].run != nil, "a piece outside its chunk: \(piece)")
        subs[slot].firstSerial = lastSerial + 1
        requests[index].pieces += 1
        requests[index].outstanding += 1
        subs[slot].work =
            switch requests[index].kind {
            case .read: .read
            case .status: .status
            case .compare: .compare
            case _ where !piece.edge.isEmpty: configuration.group.isEmpty ? .edge : .patch
            case .write: .write
            case .trim: .trim
            case .zero: .zero
            }
        activeBytes += subs[slot].activeBytes
        if subs[slot].isReading, !subs[slot].isChange {
            requests[index].results.append([])
            dispatch(slot, now: now, effects: &effects)
            return true
        }
        if subs[slot].work == .patch || subs[slot].work == .compare {
            prepareAmendment(slot)
        } else if let source = requests[index].source {
            let byteCount = piece.edge.isEmpty ? piece.blockCount * Geometry.blockBytes : piece.edge.count
            subs[slot].payloads = configuration.stripes.slices(
                of: source, range: requests[index].range, piece: piece, byteCount: byteCount)
        }
        subs[slot].phase = .lock
        if isPlanted(.edgeUnordered), subs[slot].work == .edge {
            startChange(slot, now: now, effects: &effects)
        } else if locks.acquire(slot, chunk: piece.chunk, blocks: subs[slot].blocks) {
            startChange(slot, now: now, effects: &effects)
        }
        return true
    }

    /// Puts an amendment's bytes at their places in blocks of their own.
    private mutating func prepareAmendment(_ slot: Int) {
        let (sub, request) = (subs[slot], requests[subs[slot].request])
        let start = sub.piece.byte - sub.piece.firstBlock * Geometry.blockBytes
        let isEdge = sub.work == .patch
        let count = isEdge ? sub.piece.edge.count : Int(request.range.upperBound - request.range.lowerBound)
        let runBytes = sub.piece.blockCount * Geometry.blockBytes
        let sources = [request.source] + (isEdge ? [] : [request.expected])
        let byteCount = sources.count * runBytes
        let payload = Payload(pool.take(byteCount: byteCount), byteCount: byteCount)
        unsafe payload.buffer.bytes.initializeMemory(as: UInt8.self, repeating: 0)
        for (place, source) in sources.enumerated() {
            guard let source else { continue }
            let slices = configuration.stripes.slices(
                of: source, range: request.range, piece: sub.piece, byteCount: count)
            ScatteredBlocks.copy(slices, into: payload, at: place * runBytes + start)
        }
        subs[slot].bytes = start..<(start + count)
        subs[slot].payloads = [payload]
    }

    /// Goes on with a change that holds its lock.
    mutating func startChange(_ slot: Int, now: Duration, effects: inout [Effect]) {
        if !subs[slot].isReading, subs[slot].sequence == 0 {
            guard windowWaiters.isEmpty, let sequence = takeTags(slot) else {
                subs[slot].phase = .window
                windowWaiters.append(slot)
                // The oldest change may be parked behind this one's search for a leader.
                return leaveProbing(slot, of: subs[slot].copyset, now: now, effects: &effects)
            }
            subs[slot].sequence = sequence
        }
        if !subs[slot].isReading, !subs[slot].payloads.isEmpty, subs[slot].checksums.isEmpty {
            subs[slot].checksums = ScatteredBlocks.checksums(of: subs[slot].payloads)
        }
        dispatch(slot, now: now, effects: &effects)
    }

    /// Frees a sub-request whose outcome is known, or that never left; lets go what waited for it.
    mutating func drop(_ slot: Int, now: Duration, effects: inout [Effect]) {
        let sub = subs[slot]
        activeBytes -= sub.activeBytes
        subs[slot] = SubRequest()
        freeSubs.append(slot)
        finishTags(sub)
        var freed: [Int] = []
        swap(&freed, &ready)
        if sub.isChange, !(isPlanted(.edgeUnordered) && sub.work == .edge) {
            locks.release(slot, chunk: sub.piece.chunk, blocks: sub.blocks, ready: &freed)
        }
        leaveProbing(slot, of: sub.copyset, now: now, effects: &effects)
        for next in freed { startChange(next, now: now, effects: &effects) }
        freed.removeAll(keepingCapacity: true)
        swap(&freed, &ready)
        if sub.sequence > 0 { giveTags(now: now, effects: &effects) }
    }

    /// The numbers of a change: a comparison has two.
    private mutating func takeTags(_ slot: Int) -> UInt64? {
        subs[slot].work == .compare ? tags.takeTwo() : tags.take()
    }
    private mutating func finishTags(_ sub: SubRequest) {
        guard sub.sequence > 0 else { return }
        if sub.work == .compare { tags.finish(sub.sequence - 1) }
        tags.finish(sub.sequence)
    }
    /// A comparison found a difference, nobody knows any more where: it changed nothing and never will, so
    /// another one in its place, by a new name, is as good.
    mutating func compareAgain(_ slot: Int, now: Duration, effects: inout [Effect]) {
        finishTags(subs[slot])
        (subs[slot].sequence, subs[slot].wasSent) = (0, false)
        subs[slot].firstSerial = lastSerial + 1
        startChange(slot, now: now, effects: &effects)
        giveTags(now: now, effects: &effects)
    }

    private mutating func giveTags(now: Duration, effects: inout [Effect]) {
        while let slot = windowWaiters.first {
            if subs[slot].phase == .window, subs[slot].sequence == 0 {
                guard let sequence = takeTags(slot) else { return }
                subs[slot].sequence = sequence
                _ = windowWaiters.popFirst()
                startChange(slot, now: now, effects: &effects)
            } else {
                _ = windowWaiters.popFirst()
            }
        }
    }
}

extension StripeMap {
    /// The run widened to whole blocks: what a change of it locks.
    static func wholeBlocks(around range: Range<UInt64>) -> Range<UInt64> {
        let block = UInt64(Geometry.blockBytes)
        return (range.lowerBound / block * block)..<((range.upperBound + block - 1) / block * block)
    }
}
