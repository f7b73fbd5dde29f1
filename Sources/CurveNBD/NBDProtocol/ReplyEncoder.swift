import BlockTypes

/// What the client negotiated: which headers its replies have, and its requests.
enum ReplyStyle: Hashable, Sendable { case simple, structured, extended }

/// Writes replies as effects: headers as bytes, payload by reference.
struct ReplyEncoder {
    /// Structured: reads, block statuses and errors come in chunks. Extended: everything does.
    var style: ReplyStyle

    /// Zero bytes for clients that cannot be told of a hole, and for WRITE_ZEROES without one.
    static let zeroes: Payload = {
        let buffer = BlockBuffer(byteCount: 1 << 20)
        unsafe buffer.bytes.initializeMemory(as: UInt8.self, repeating: 0)
        return Payload(buffer, byteCount: buffer.capacityBytes)
    }()

    /// The answer to anything that succeeded and returns no bytes.
    func done(_ header: NBDRequestHeader) -> NBDSession.Effect {
        if style == .extended || style == .structured && header.command == Command.read {
            return .send(chunk(header, ReplyChunk.none, isLast: true, payloadBytes: 0))
        }
        return .send(simple(header.cookie, errno: 0))
    }
    /// The answer to a request that failed.
    func failed(_ header: NBDRequestHeader, _ errno: NBDErrno, _ text: String) -> NBDSession.Effect {
        guard style != .simple else { return .send(simple(header.cookie, errno: errno.rawValue)) }
        let message = text.utf8.prefix(NBDLimits.stringBytesMax)
        var bytes = chunk(header, ReplyChunk.error, isLast: true, payloadBytes: 6 + message.count)
        bytes.append(bigEndian: errno.rawValue)
        bytes.append(bigEndian: UInt16(message.count))
        bytes.append(contentsOf: message)
        return .send(bytes)
    }
    /// The answer to a read: `segments` add up to the length asked for.
    func read(_ header: NBDRequestHeader, _ segments: [ReadSegment], effects: inout [NBDSession.Effect]) {
        let total = segments.reduce(0) { $0 + $1.byteCount }
        invariant(total == Int(header.length), "a read of \(header.length) bytes returned \(total)")
        if style == .simple {
            effects.append(.send(simple(header.cookie, errno: 0)))
            for segment in segments { Self.content(of: segment, effects: &effects) }
        } else if header.flags & CommandFlag.dontFragment != 0, segments.contains(where: \.isData) {
            effects.append(.send(dataChunk(header, header.offset, total, isLast: true)))
            for segment in segments { Self.content(of: segment, effects: &effects) }
        } else {
            chunks(header, segments, effects: &effects)
        }
    }
    /// One chunk for each stretch of data and of zeroes. All bytes are at hand: the last chunk says "done".
    private func chunks(
        _ header: NBDRequestHeader, _ segments: [ReadSegment], effects: inout [NBDSession.Effect]
    ) {
        var (index, offset) = (0, header.offset)
        while index < segments.count {
            let isData = segments[index].isData
            var (end, byteCount) = (index, 0)
            while end < segments.count, segments[end].isData == isData {
                byteCount += segments[end].byteCount
                end += 1
            }
            let isLast = end == segments.count
            if isData {
                effects.append(.send(dataChunk(header, offset, byteCount, isLast: isLast)))
                for segment in segments[index..<end] { Self.content(of: segment, effects: &effects) }
            } else {
                var bytes = chunk(header, ReplyChunk.offsetHole, isLast: isLast, payloadBytes: 12)
                bytes.append(bigEndian: offset)
                bytes.append(bigEndian: UInt32(byteCount))
                effects.append(.send(bytes))
            }
            (index, offset) = (end, offset + UInt64(byteCount))
        }
    }
    private static func content(of segment: ReadSegment, effects: inout [NBDSession.Effect]) {
        switch segment {
        case .data(let payload): effects.append(.sendPayload(payload))
        case .zeroes(var left):
            while left > 0 {
                let step = min(left, zeroes.byteCount)
                effects.append(.sendPayload(zeroes.slice(0, step)))
                left -= step
            }
        case .stored: invariant(false, "a read was answered without its bytes")
        }
    }
    /// The answer to a block status: one chunk for each context.
    func blockStatus(
        _ header: NBDRequestHeader, _ segments: [ReadSegment], contexts: MetaContexts
    ) -> NBDSession.Effect {
        let onlyOne = header.flags & CommandFlag.onlyOne != 0
        let extents = StatusExtent.list(segments, countMax: onlyOne ? 1 : NBDLimits.extentsMax)
        let chosen = MetaContexts.all.filter { contexts.contains($0) }
        var bytes: [UInt8] = []
        bytes.reserveCapacity(chosen.count * (40 + extents.count * (style == .extended ? 16 : 8)))
        for (index, context) in chosen.enumerated() {
            let isLast = index == chosen.count - 1
            if style == .extended {
                bytes += chunk(
                    header, ReplyChunk.blockStatusExtended, isLast: isLast,
                    payloadBytes: 8 + extents.count * 16)
                bytes.append(bigEndian: context.identifier)
                bytes.append(bigEndian: UInt32(extents.count))
                for extent in extents {
                    bytes.append(bigEndian: extent.byteCount)
                    bytes.append(bigEndian: UInt64(context.state(isStored: extent.isStored)))
                }
            } else {
                bytes += chunk(
                    header, ReplyChunk.blockStatus, isLast: isLast, payloadBytes: 4 + extents.count * 8)
                bytes.append(bigEndian: context.identifier)
                for extent in extents {
                    bytes.append(bigEndian: UInt32(extent.byteCount))
                    bytes.append(bigEndian: context.state(isStored: extent.isStored))
                }
            }
        }
        return .send(bytes)
    }

    private func dataChunk(
        _ header: NBDRequestHeader, _ offset: UInt64, _ byteCount: Int, isLast: Bool
    ) -> [UInt8] {
        var bytes = chunk(header, ReplyChunk.offsetData, isLast: isLast, payloadBytes: 8 + byteCount)
        bytes.append(bigEndian: offset)
        return bytes
    }
    private func chunk(
        _ header: NBDRequestHeader, _ type: UInt16, isLast: Bool, payloadBytes: Int
    ) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(48)
        bytes.append(
            bigEndian: style == .extended ? Wire.extendedReplyMagic : Wire.structuredReplyMagic)
        bytes.append(bigEndian: isLast ? ReplyChunk.doneFlag : 0)
        bytes.append(bigEndian: type)
        bytes.append(bigEndian: header.cookie)
        if style == .extended {
            bytes.append(bigEndian: header.offset)
            bytes.append(bigEndian: UInt64(payloadBytes))
        } else {
            bytes.append(bigEndian: UInt32(payloadBytes))
        }
        return bytes
    }
    private func simple(_ cookie: UInt64, errno: UInt32) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(16)
        bytes.append(bigEndian: Wire.simpleReplyMagic)
        bytes.append(bigEndian: errno)
        bytes.append(bigEndian: cookie)
        return bytes
    }
}

extension ReadSegment {
    var isData: Bool { if case .data = self { true } else { false } }
}
