import BlockTypes

// How a request gets in, and how it is answered.
extension VolumeCore {
    mutating func submit(_ token: Int, _ request: VolumeRequest, now: Duration, effects: inout [Effect]) {
        if let refusal = refusal(of: request) {
            counters.failures += 1
            return effects.append(.complete(token: token, .failure(refusal)))
        }
        let (kind, start, byteCount, source) = Self.taken(apart: request)
        count(request, byteCount)
        // Nothing to do, also for a flush: an answered change is durable.
        guard byteCount > 0 else { return effects.append(.complete(token: token, .success([]))) }
        var expected: WriteSource?
        if case .compareAndWrite(_, let bytes, _) = request { expected = WriteSource(bytes) }
        accept(.frontend(token), kind, start..<(start + byteCount), source, expected: expected, now: now)
        if case .errorAfter(let patience) = configuration.policy {
            arm(at: now + patience, now: now, effects: &effects)
        }
    }

    private func refusal(of request: VolumeRequest) -> VolumeError? {
        if let error = lifecycle.death { return error }
        if lifecycle.isClosing { return .shuttingDown }
        let start: ByteOffset
        let length: UInt64
        var bytesMax = UInt64(limits.requestBytesMax)
        switch request {
        case .flush: return nil
        case .read(let from, let byteCount):
            guard byteCount >= 0 else { return .outOfRange }
            (start, length) = (from, UInt64(byteCount))
        case .write(let from, let payloads):
            var sum: UInt64 = 0
            for payload in payloads { sum += UInt64(payload.byteCount) }
            (start, length) = (from, sum)
        case .compareAndWrite(let from, let expected, let new):
            guard let compared = comparedLength(from, expected, new) else { return .outOfRange }
            (start, length) = (from, compared)
        case .trim(let from, let count), .writeZeroes(let from, let count):
            (start, length, bytesMax) = (from, count.bytes, .max)
        case .blockStatus(let from, let count):
            (start, length, bytesMax) = (from, count.bytes, UInt64(VolumeRequest.statusBytesMax))
        }
        switch request {
        case .read, .blockStatus, .flush: break
        case .write, .compareAndWrite, .trim, .writeZeroes:
            if configuration.isReadOnly { return .readOnly }
        }
        let (end, overflowed) = start.bytes.addingReportingOverflow(length)
        guard length <= bytesMax, !overflowed, end <= lifecycle.acceptEnd.bytes else { return .outOfRange }
        return queuedRequests < limits.requestsMax ? nil : .replicasUnavailable
    }

    /// - Returns: `nil` when the leader of one copyset could not do it in one step.
    private func comparedLength(_ start: ByteOffset, _ expected: [Payload], _ new: [Payload]) -> UInt64? {
        let length = new.reduce(0) { $0 + UInt64($1.byteCount) }
        guard length == expected.reduce(0, { $0 + UInt64($1.byteCount) }),
            length <= UInt64(VolumeRequest.compareBytesMax)
        else { return nil }
        let unit = UInt64(configuration.stripes.stripeUnitBytes)
        return length == 0 || start.bytes % unit + length <= unit ? length : nil
    }

    private static func taken(
        apart request: VolumeRequest
    ) -> (Request.Kind, start: UInt64, byteCount: UInt64, WriteSource?) {
        switch request {
        case .read(let start, let byteCount): return (.read, start.bytes, UInt64(byteCount), nil)
        case .write(let start, let payloads):
            let source = WriteSource(payloads)
            return (.write, start.bytes, UInt64(source.byteCount), source)
        case .compareAndWrite(let start, _, let new):
            let source = WriteSource(new)
            return (.compare, start.bytes, UInt64(source.byteCount), source)
        case .trim(let start, let length): return (.trim, start.bytes, length.bytes, nil)
        case .writeZeroes(let start, let length): return (.zero, start.bytes, length.bytes, nil)
        case .blockStatus(let start, let length): return (.status, start.bytes, length.bytes, nil)
        case .flush: return (.read, 0, 0, nil)
        }
    }

    private mutating func count(_ request: VolumeRequest, _ byteCount: UInt64) {
        switch request {
        case .read:
            counters.reads += 1
            counters.readBytes += Int(byteCount)
        case .write, .compareAndWrite:
            counters.writes += 1
            counters.writtenBytes += Int(byteCount)
        case .trim, .writeZeroes: counters.discards += 1
        case .flush: counters.flushes += 1
        case .blockStatus: break
        }
    }

    mutating func accept(
        _ owner: Request.Owner, _ kind: Request.Kind, _ range: Range<UInt64>, _ source: WriteSource?,
        expected: WriteSource? = nil, now: Duration
    ) {
        let style: Splitter.Style =
            switch kind {
            case .read: .read
            case .write: .write
            case .trim, .zero: .discard
            case .status: .status
            case .compare: .compare
            }
        let request = Request(
            owner: owner, kind: kind, range: range, source: source, expected: expected,
            splitter: Splitter(map: configuration.stripes, range: range, style: style), progressAt: now)
        let index: Int
        if let free = freeRequests.popLast() {
            index = free
            requests[index] = request
        } else {
            index = requests.count
            requests.append(request)
        }
        queuedRequests += 1
        if kind == .read || kind == .status { readQueue.append(index) } else { changeQueue.append(index) }
    }

    /// Takes one finished piece off its request and answers when it was the last.
    mutating func finishPiece(
        of index: Int, failure: VolumeError?, now: Duration, effects: inout [Effect]
    ) {
        progressAt = now
        guard index >= 0 else { return }
        requests[index].outstanding -= 1
        requests[index].progressAt = now
        if let failure, requests[index].failure == nil {
            requests[index].failure = failure
            requests[index].isCut = true
        }
        answerIfDone(index, effects: &effects)
    }

    mutating func answerIfDone(_ index: Int, effects: inout [Effect]) {
        guard requests[index].isCut, requests[index].outstanding == 0, !requests[index].isAnswered else {
            return
        }
        let owner = requests[index].owner
        requests[index].owner = .nobody
        queuedRequests -= 1
        switch owner {
        case .nobody: break
        case .frontend(let token):
            if requests[index].failure != nil { counters.failures += 1 }
            effects.append(.complete(token: token, result(of: index)))
        case .tail: lifecycle.tailIsTrimmed = true
        }
        requests[index].results = []
        (requests[index].source, requests[index].expected) = (nil, nil)
        if !requests[index].isQueued { freeRequests.append(index) }
    }

    private func result(of index: Int) -> VolumeResult {
        let request = requests[index]
        if let failure = request.failure { return .failure(failure) }
        guard request.kind == .read || request.kind == .status else { return .success([]) }
        let blocks = UInt64(Geometry.blockBytes)
        if request.pieces == 1, request.range.lowerBound % blocks == 0, request.range.upperBound % blocks == 0
        {
            return .success(request.results[0])
        }
        return .success(
            configuration.stripes.assemble(
                request.results, range: request.range, style: request.splitter.style))
    }

    /// Answers a request before its pieces are done. What was sent and may still take effect goes on without
    /// it, holding its lock; everything else is dropped.
    mutating func fail(_ index: Int, _ error: VolumeError, now: Duration, effects: inout [Effect]) {
        requests[index].failure = error
        requests[index].isCut = true
        for slot in subs.indices
        where subs[slot].phase != .free && subs[slot].work != .fence && subs[slot].request == index {
            subs[slot].request = -1
            requests[index].outstanding -= 1
            if subs[slot].isReading || !subs[slot].wasSent { drop(slot, now: now, effects: &effects) }
        }
        answerIfDone(index, effects: &effects)
    }
}
