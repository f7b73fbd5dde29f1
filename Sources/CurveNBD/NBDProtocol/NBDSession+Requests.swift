import BlockTypes

extension NBDSession {
    /// Acts on what the stream brought.
    mutating func perform(_ item: RequestStream.Item, effects: inout [Effect]) {
        switch item {
        case .badMagic: end(.violation("a request starts with the wrong magic"), effects: &effects)
        case .header(let header):
            if hasRoom(for: header) { admit(header, effects: &effects) } else { waiting = header }
        case .payload(let payload):
            guard let header = payloadOwner else { return invariant(false, "a payload without its write") }
            payloadOwner = nil
            if header.command == Command.blockStatus {
                return admitFiltered(header, payload, effects: &effects)
            }
            let request = VolumeRequest.write(start: ByteOffset(bytes: header.offset), payloads: [payload])
            submit(header, request, payloadBytes: payload.byteCount, effects: &effects)
        case .skipped:
            guard let header = payloadOwner, let why = skipVerdict else {
                return invariant(false, "a payload was skipped without its write")
            }
            (payloadOwner, skipVerdict) = (nil, nil)
            queue(encoder.failed(header, why.errno, why.text), effects: &effects)
        }
    }
    /// True when the request may join those in flight.
    func hasRoom(for header: NBDRequestHeader) -> Bool {
        guard inFlightRequests < limits.inFlightRequestsMax else { return false }
        let bytes = Self.budgetBytes(of: header)
        return inFlightBytes == 0 || inFlightBytes + bytes <= limits.inFlightBytesMax
    }
    /// Memory that a request will hold; one that is too long holds none, since it is refused.
    private static func budgetBytes(of header: NBDRequestHeader) -> Int {
        switch header.command {
        case Command.blockStatus: NBDLimits.statusBudgetBytes
        case Command.read, Command.write:
            header.length <= NBDLimits.payloadBytesMax ? Int(header.length) : 0
        default: 0
        }
    }
    /// Starts a request for which there is room.
    mutating func admit(_ header: NBDRequestHeader, effects: inout [Effect]) {
        if header.command == Command.blockStatus, header.carriesPayload {
            return receiveFilter(header, effects: &effects)
        }
        let verdict = Verdict.of(header, on: export, replies: encoder.style, contexts: contexts)
        let start = ByteOffset(bytes: header.offset)
        let length = ByteCount(bytes: header.length)
        switch verdict {
        case .refuse(let errno, let text): refuse(header, errno, text, effects: &effects)
        case .nothing: queue(encoder.done(header), effects: &effects)
        case .disconnect: end(.disconnected, effects: &effects)
        case .blockStatus: submitStatus(header, contexts, effects: &effects)
        case .resize: askForSize(header, effects: &effects)
        case .flush: submit(header, .flush, payloadBytes: 0, effects: &effects)
        case .trim: submit(header, .trim(start: start, length: length), payloadBytes: 0, effects: &effects)
        case .read:
            inFlightBytes += Int(header.length)
            let request = VolumeRequest.read(start: start, byteCount: Int(header.length))
            submit(header, request, payloadBytes: Int(header.length), effects: &effects)
        case .write:
            inFlightBytes += Int(header.length)
            payloadOwner = header
            stream.receivePayload(
                into: pool.take(byteCount: Int(header.length)), byteCount: Int(header.length))
        case .writeZeroes:
            if header.flags & CommandFlag.noHole != 0 {
                let slot = occupySlot(header, .zeroes(from: header.offset), payloadBytes: 0)
                submitZeroes(slot, from: header.offset, effects: &effects)
            } else {
                submit(header, .writeZeroes(start: start, length: length), payloadBytes: 0, effects: &effects)
            }
        }
    }
    /// Answers with an error, after the payload of a refused write has passed.
    private mutating func refuse(
        _ header: NBDRequestHeader, _ errno: NBDErrno, _ text: String, effects: inout [Effect]
    ) {
        guard header.carriesPayload, header.length > 0 else {
            return queue(encoder.failed(header, errno, text), effects: &effects)
        }
        guard header.length <= NBDLimits.skippedPayloadBytesMax else {
            return end(.violation("a payload of \(header.length) bytes"), effects: &effects)
        }
        (payloadOwner, skipVerdict) = (header, (errno, text))
        stream.skipPayload(byteCount: Int(header.length))
    }
    private mutating func submit(
        _ header: NBDRequestHeader, _ request: VolumeRequest, payloadBytes: Int, effects: inout [Effect]
    ) {
        // The volume's write is durable when answered. The flush makes FUA true for trims and zeroes, too,
        // and above a layer that caches writes; it costs next to nothing where there is nothing to flush.
        let changes =
            header.command == Command.write || header.command == Command.trim
            || header.command == Command.writeZeroes
        let needsFlush = changes && header.flags & CommandFlag.fua != 0
        if isPlanted(.forcedWriteEarly), needsFlush { queue(encoder.done(header), effects: &effects) }
        let slot = occupySlot(header, needsFlush ? .flush : .answer, payloadBytes: payloadBytes)
        effects.append(.submit(NBDRequestToken(slot: slot), request))
    }
    private mutating func occupySlot(_ header: NBDRequestHeader, _ work: Work, payloadBytes: Int) -> Int {
        let request = InFlight(header: header, work: work, payloadBytes: payloadBytes)
        inFlightRequests += 1
        if let slot = freeSlots.popLast() {
            slots[slot] = request
            return slot
        }
        slots.append(request)
        return slots.count - 1
    }
    /// Submits the next step of zeroes that are written as data.
    private mutating func submitZeroes(_ slot: Int, from offset: UInt64, effects: inout [Effect]) {
        guard let header = slots[slot]?.header else { return invariant(false, "slot \(slot) is free") }
        let end = header.offset + header.length
        var left = Int(min(end - offset, UInt64(Self.zeroStepBytes)))
        let next = offset + UInt64(left)
        let needsFlush = header.flags & CommandFlag.fua != 0
        slots[slot]?.work = next < end ? .zeroes(from: next) : needsFlush ? .flush : .answer
        var payloads: [Payload] = []
        while left > 0 {
            let part = min(left, ReplyEncoder.zeroes.byteCount)
            payloads.append(ReplyEncoder.zeroes.slice(0, part))
            left -= part
        }
        let request = VolumeRequest.write(start: ByteOffset(bytes: offset), payloads: payloads)
        effects.append(.submit(NBDRequestToken(slot: slot), request))
    }
    /// Zeroes written as data go in steps of this size, as a client would write them.
    private static let zeroStepBytes = 16 << 20

    /// The volume answered: go on with the request, or answer the client.
    mutating func finish(_ token: NBDRequestToken, _ result: VolumeResult, effects: inout [Effect]) {
        guard let request = slots[token.slot] else {
            return invariant(false, "request \(token.slot) was answered twice")
        }
        switch (result, request.work) {
        case _ where phase == .closed: break
        case (.success, .zeroes(let offset)): return submitZeroes(token.slot, from: offset, effects: &effects)
        case (.success, .flush):
            slots[token.slot]?.work = .answer
            return effects.append(.submit(token, .flush))
        case (.success, .answer)
        where isPlanted(.forcedWriteEarly) && request.header.command != Command.read
            && request.header.flags & CommandFlag.fua != 0:
            break
        case (.success(let segments), .status(let contexts)):
            queue(encoder.blockStatus(request.header, segments, contexts: contexts), effects: &effects)
        case (.success(let segments), .answer): answer(request.header, segments, effects: &effects)
        case (.failure(let error), _):
            let (errno, text) = wireError(for: error, command: request.header.command)
            queue(encoder.failed(request.header, errno, text), effects: &effects)
        }
        slots[token.slot] = nil
        freeSlots.append(token.slot)
        inFlightRequests -= 1
        inFlightBytes -= request.payloadBytes
        closeIfIdle(effects: &effects)
    }
    private mutating func answer(
        _ header: NBDRequestHeader, _ segments: [ReadSegment], effects: inout [Effect]
    ) {
        guard header.command == Command.read else { return queue(encoder.done(header), effects: &effects) }
        let first = effects.count
        encoder.read(header, segments, effects: &effects)
        for effect in effects[first...] {
            switch effect {
            case .send(let bytes): queuedReplyBytes += bytes.count
            case .sendPayload(let payload): queuedReplyBytes += payload.byteCount
            case .startTLS, .enter, .submit, .resize, .pauseReceiving, .resumeReceiving, .close: break
            }
        }
    }
}

// Questions about the map, and wishes for another size.
extension NBDSession {
    /// Takes the payload of a BLOCK_STATUS that names contexts: the length that is meant, then their numbers.
    private mutating func receiveFilter(_ header: NBDRequestHeader, effects: inout [Effect]) {
        let idBytes = 4
        let most = 8 + MetaContexts.all.count * idBytes
        guard header.length > 8, header.length <= most, (header.length - 8) % UInt64(idBytes) == 0 else {
            return refuse(
                header, .invalid, "a filter of \(header.length) bytes does not fit", effects: &effects)
        }
        payloadOwner = header
        stream.receivePayload(
            into: pool.take(byteCount: Int(header.length)), byteCount: Int(header.length))
    }
    private mutating func admitFiltered(
        _ header: NBDRequestHeader, _ payload: Payload, effects: inout [Effect]
    ) {
        let bytes = payload.array
        var reader = WireReader(bytes[...])
        var asked = header
        asked.length = reader.next(UInt64.self) ?? 0
        var wanted = MetaContexts()
        while let id = reader.next(UInt32.self) {
            let context = MetaContexts(rawValue: id)
            guard id.nonzeroBitCount == 1, contexts.isSuperset(of: context), wanted.isDisjoint(with: context)
            else {
                return queue(
                    encoder.failed(header, .invalid, "context \(id) was not negotiated, or comes twice"),
                    effects: &effects)
            }
            wanted.formUnion(context)
        }
        let verdict = Verdict.of(asked, on: export, replies: encoder.style, contexts: contexts)
        switch verdict {
        case .refuse(let errno, let text):
            queue(encoder.failed(header, errno, text), effects: &effects)
        case .blockStatus: submitStatus(asked, wanted, effects: &effects)
        case .read, .write, .trim, .writeZeroes, .flush, .nothing, .disconnect, .resize:
            invariant(false, "\(verdict) for a block status")
        }
    }
    /// Asks for as much of the run as one answer tells: clients ask on behind it.
    private mutating func submitStatus(
        _ header: NBDRequestHeader, _ contexts: MetaContexts, effects: inout [Effect]
    ) {
        inFlightBytes += NBDLimits.statusBudgetBytes
        let length = min(header.length, UInt64(VolumeRequest.statusBytesMax))
        let slot = occupySlot(
            header, .status(contexts), payloadBytes: NBDLimits.statusBudgetBytes)
        let request = VolumeRequest.blockStatus(
            start: ByteOffset(bytes: header.offset), length: ByteCount(bytes: length))
        effects.append(.submit(NBDRequestToken(slot: slot), request))
    }
    private mutating func askForSize(_ header: NBDRequestHeader, effects: inout [Effect]) {
        let slot = occupySlot(header, .answer, payloadBytes: 0)
        effects.append(.resize(NBDRequestToken(slot: slot), ByteCount(bytes: header.offset)))
    }
}

extension NBDRequestHeader {
    /// What follows the header on the wire is payload.
    var carriesPayload: Bool {
        command == Command.write || isExtended && flags & CommandFlag.payloadLength != 0
    }
}
