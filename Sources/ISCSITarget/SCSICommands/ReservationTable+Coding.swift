import BlockTypes

/// The table as bytes, for the keeper: a format number, then big-endian fields.
extension ReservationTable {
    /// Bytes that are no table.
    public struct DecodeError: Error, Hashable, Sendable {
        /// What is wrong.
        public let reason: String
    }
    private static let format: UInt8 = 3
    /// Without a sanitize operation and a medium.
    private static let oldFormat: UInt8 = 2

    /// The bytes.
    public var encoded: [UInt8] {
        var bytes: [UInt8] = [Self.format]
        bytes.append(bigEndian: version)
        bytes.append(bigEndian: generation)
        bytes.append(persistsThroughPowerLoss ? 1 : 0)
        bytes.append(modes.usesDescriptorSense ? 1 : 0)
        bytes.append(modes.isWriteProtected ? 1 : 0)
        appendMedium(to: &bytes)
        bytes.append(bigEndian: UInt16(registrations.count))
        for registration in registrations {
            Self.append(registration.party, to: &bytes)
            bytes.append(bigEndian: registration.key)
        }
        bytes.append(holding?.type.rawValue ?? 0)
        bytes.append(holding?.holder == nil ? 0 : 1)
        if let holder = holding?.holder { Self.append(holder, to: &bytes) }
        bytes.append(simpleHolder == nil ? 0 : 1)
        if let simpleHolder { Self.append(simpleHolder, to: &bytes) }
        bytes.append(bigEndian: UInt16(notices.count))
        for notice in notices {
            bytes.append(bigEndian: notice.version)
            Self.append(notice.party, to: &bytes)
            bytes.append(notice.kind.rawValue)
        }
        return bytes
    }
    private func appendMedium(to bytes: inout [UInt8]) {
        let (kind, port, allowsExit): (UInt8, UInt16, Bool) =
            switch sanitize {
            case .none: (0, 0, false)
            case .running(let port, let allowsExit): (1, port, allowsExit)
            case .failed(let allowsExit): (2, 0, allowsExit)
            }
        bytes.append(kind)
        bytes.append(bigEndian: port)
        bytes += [allowsExit ? 1 : 0, isEjected ? 1 : 0]
        bytes.append(bigEndian: UInt16(preventingPorts.count))
        for port in preventingPorts { bytes.append(bigEndian: port) }
    }
    private static func append(_ party: ReservationParty, to bytes: inout [UInt8]) {
        bytes.append(bigEndian: UInt16(party.initiatorPort.utf8.count))
        bytes += party.initiatorPort.utf8
        bytes.append(bigEndian: party.targetPort)
    }

    /// The table that `bytes` hold.
    public init(decoding bytes: [UInt8]) throws(DecodeError) {
        var reader = Reader(bytes: bytes)
        let format = UInt8(try reader.next(1))
        guard format == Self.format || format == Self.oldFormat else {
            throw DecodeError(reason: "unknown format")
        }
        self.init()
        version = try reader.next(8)
        generation = UInt32(truncatingIfNeeded: try reader.next(4))
        persistsThroughPowerLoss = try reader.flag()
        modes.usesDescriptorSense = try reader.flag()
        modes.isWriteProtected = try reader.flag()
        if format == Self.format { try readMedium(&reader) }
        for _ in 0..<(try reader.next(2)) {
            registrations.append(Registration(party: try reader.party(), key: try reader.next(8)))
        }
        let type = try reader.next(1)
        let holder = try reader.flag() ? try reader.party() : nil
        if type != 0 {
            guard let known = ReservationType(rawValue: UInt8(truncatingIfNeeded: type)) else {
                throw DecodeError(reason: "reservation of type \(type)")
            }
            guard known.isHeldByAll == (holder == nil) else { throw DecodeError(reason: "wrong holder") }
            holding = Holding(type: known, holder: holder)
        }
        simpleHolder = try reader.flag() ? try reader.party() : nil
        let count = try reader.next(2)
        guard count <= UInt64(Self.noticesMax) else { throw DecodeError(reason: "\(count) notices") }
        for _ in 0..<count {
            let (version, party) = (try reader.next(8), try reader.party())
            guard let kind = Notice.Kind(rawValue: UInt8(truncatingIfNeeded: try reader.next(1))) else {
                throw DecodeError(reason: "unknown notice")
            }
            notices.append(Notice(version: version, party: party, kind: kind))
        }
        guard reader.isAtEnd else { throw DecodeError(reason: "bytes behind the end") }
    }

    private mutating func readMedium(_ reader: inout Reader) throws(DecodeError) {
        let (kind, port) = (try reader.next(1), UInt16(try reader.next(2)))
        let allowsExit = try reader.flag()
        switch kind {
        case 0: sanitize = .none
        case 1: sanitize = .running(port: port, allowsExit: allowsExit)
        case 2: sanitize = .failed(allowsExit: allowsExit)
        default: throw DecodeError(reason: "a sanitize operation of kind \(kind)")
        }
        isEjected = try reader.flag()
        for _ in 0..<(try reader.next(2)) { preventingPorts.append(UInt16(try reader.next(2))) }
        for (left, right) in zip(preventingPorts, preventingPorts.dropFirst()) where left >= right {
            throw DecodeError(reason: "ports out of order")
        }
    }

    private struct Reader {
        let bytes: [UInt8]
        var position = 0
        var isAtEnd: Bool { position == bytes.count }

        mutating func next(_ count: Int) throws(DecodeError) -> UInt64 {
            guard bytes.count - position >= count else { throw DecodeError(reason: "too short") }
            defer { position += count }
            return bytes.number(at: position, bytes: count)
        }
        mutating func flag() throws(DecodeError) -> Bool {
            let value = try next(1)
            guard value <= 1 else { throw DecodeError(reason: "a flag of \(value)") }
            return value == 1
        }
        mutating func party() throws(DecodeError) -> ReservationParty {
            let count = Int(try next(2))
            guard bytes.count - position >= count else { throw DecodeError(reason: "too short") }
            guard let name = String(validating: bytes[position..<(position + count)], as: UTF8.self) else {
                throw DecodeError(reason: "a name that is no text")
            }
            position += count
            return ReservationParty(
                initiatorPort: name, targetPort: UInt16(truncatingIfNeeded: try next(2)))
        }
    }
}
