import BlockTypes

/// What a server told a client about an export.
public struct NBDExportInfo: Hashable, Sendable {
    /// Size in bytes.
    public var size: ByteCount
    /// What the client may do.
    public var flags: NBDTransmissionFlags
    /// Smallest unit of a request.
    public var minimumBlockBytes: UInt32
    /// Best unit of a request.
    public var preferredBlockBytes: UInt32
    /// Largest payload.
    public var maximumPayloadBytes: UInt32
}

/// Why a server was not usable. Closed on purpose: the caller explains each case to a person.
public enum NBDClientError: Error, Hashable, Sendable, CustomStringConvertible {
    /// It does not speak fixed newstyle NBD.
    case notNBD
    /// It has no export of this name.
    case unknownExport(String)
    /// It refused, with this reply type and message.
    case refused(UInt32, String)
    /// It broke the protocol.
    case violation(String)

    /// What happened, in one line.
    public var description: String {
        switch self {
        case .notNBD: "the server does not speak fixed newstyle NBD"
        case .unknownExport(let name): "the server has no export named '\(name)'"
        case .refused(let type, let message): "the server refused with reply \(type): \(message)"
        case .violation(let what): "the server broke the protocol: \(what)"
        }
    }
}

/// The client's side of the handshake, up to the first request; simple replies only, as the kernel wants.
///
/// Feed it exactly ``wantedBytes`` at a time: what follows the handshake stays in the socket for the kernel.
public struct ClientHandshake {
    private enum Phase { case greeting, replyHeader, replyData(type: UInt32), over }
    private var phase = Phase.greeting
    private let exportName: String
    private var info = NBDExportInfo(
        size: .zero, flags: [], minimumBlockBytes: 1, preferredBlockBytes: 4096,
        maximumPayloadBytes: NBDLimits.advertisedPayloadBytesMax)
    private var sawExport = false
    private var replies = 0
    /// Bytes to read before the next call of ``received(_:)``.
    public private(set) var wantedBytes = 18

    /// What to do after some bytes.
    public enum Progress: Hashable, Sendable {
        /// Send the bytes, which may be none, then read ``wantedBytes`` more.
        case send([UInt8])
        /// The export is ready for requests.
        case ready(NBDExportInfo)
    }
    /// Longest reply that is believed.
    private static let replyBytesMax: UInt32 = 64 << 10
    /// Replies to one GO; a server has four kinds of information.
    private static let repliesMax = 64

    /// A handshake for the export of this name.
    public init(exportName: String) { self.exportName = exportName }

    /// Takes the ``wantedBytes`` that the server sent.
    /// - Throws: ``NBDClientError``; close the connection.
    public mutating func received(_ bytes: [UInt8]) throws(NBDClientError) -> Progress {
        invariant(bytes.count == wantedBytes, "\(bytes.count) bytes instead of \(wantedBytes)")
        var reader = WireReader(bytes[...])
        switch phase {
        case .greeting:
            guard reader.next(UInt64.self) == Wire.serverMagic, reader.next(UInt64.self) == Wire.optionMagic,
                let flags = reader.next(UInt16.self), flags & HandshakeFlag.fixedNewstyle != 0
            else { throw .notNBD }
            (phase, wantedBytes) = (.replyHeader, Wire.optionReplyHeaderBytes)
            return .send(opening(echoing: flags))
        case .replyHeader:
            guard reader.next(UInt64.self) == Wire.optionReplyMagic,
                reader.next(UInt32.self) == OptionNumber.go,
                let type = reader.next(UInt32.self), let length = reader.next(UInt32.self)
            else { throw .violation("an answer to something that was not asked") }
            replies += 1
            guard length <= Self.replyBytesMax, replies <= Self.repliesMax else {
                throw .violation("reply \(replies) has \(length) bytes")
            }
            if length > 0 {
                (phase, wantedBytes) = (.replyData(type: type), Int(length))
                return .send([])
            }
            return try take(type, [])
        case .replyData(let type):
            (phase, wantedBytes) = (.replyHeader, Wire.optionReplyHeaderBytes)
            return try take(type, bytes)
        case .over: throw .violation("bytes after the handshake")
        }
    }
    private func opening(echoing flags: UInt16) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.append(bigEndian: UInt32(flags & (HandshakeFlag.fixedNewstyle | HandshakeFlag.noZeroes)))
        bytes.append(bigEndian: Wire.optionMagic)
        bytes.append(bigEndian: OptionNumber.go)
        let name = Array(exportName.utf8)
        bytes.append(bigEndian: UInt32(4 + name.count + 2 + 2))
        bytes.append(bigEndian: UInt32(name.count))
        bytes += name
        bytes.append(bigEndian: UInt16(1))
        bytes.append(bigEndian: InfoType.blockSize)
        return bytes
    }
    private mutating func take(_ type: UInt32, _ data: [UInt8]) throws(NBDClientError) -> Progress {
        switch type {
        case OptionReply.ack:
            guard sawExport else { throw .violation("GO was accepted without the export's size") }
            phase = .over
            wantedBytes = 0
            return .ready(info)
        case OptionReply.info:
            try takeInfo(data)
            return .send([])
        case OptionReply.unknownExport: throw .unknownExport(exportName)
        default: throw .refused(type, String(decoding: data.prefix(NBDLimits.stringBytesMax), as: UTF8.self))
        }
    }
    private mutating func takeInfo(_ data: [UInt8]) throws(NBDClientError) {
        var reader = WireReader(data[...])
        switch reader.next(UInt16.self) {
        case InfoType.export:
            guard let size = reader.next(UInt64.self), let flags = reader.next(UInt16.self),
                reader.remainingBytes == 0, size <= UInt64(Int64.max)
            else { throw .violation("malformed export information") }
            (info.size, info.flags, sawExport) = (
                ByteCount(bytes: size), NBDTransmissionFlags(rawValue: flags), true
            )
        case InfoType.blockSize:
            guard let least = reader.next(UInt32.self), let best = reader.next(UInt32.self),
                let most = reader.next(UInt32.self), reader.remainingBytes == 0,
                least > 0, least.nonzeroBitCount == 1, best >= least, best.nonzeroBitCount == 1
            else { throw .violation("malformed block sizes") }
            (info.minimumBlockBytes, info.preferredBlockBytes) = (least, best)
            info.maximumPayloadBytes = most
        case nil: throw .violation("empty information")
        default: break
        }
    }
}
