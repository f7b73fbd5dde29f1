import BlockTypes

#if canImport(FoundationEssentials)
    import FoundationEssentials
#else
    import Foundation
#endif

/// Why a call to the MDS did not succeed.
public enum ControlError: Error, Sendable, CustomStringConvertible {
    /// No connection, or it broke; the message names the address and says what to do.
    case unreachable(String)
    /// The MDS answered that it will not do it.
    case refused(ControlFailure)
    /// No answer in time; it may or may not have been done.
    case timedOut(String)
    /// What came makes no sense.
    case protocolViolation(String)
    /// ``ControlChannel/close()`` was called.
    case closed
    /// This side has too many calls open already.
    case overloaded

    /// What happened and what to do, in one line.
    public var description: String {
        switch self {
        case .unreachable(let message), .timedOut(let message), .protocolViolation(let message): message
        case .refused(let failure): failure.message.isEmpty ? "refused (\(failure.code))" : failure.message
        case .closed: "this program is closing its connection to the metadata server"
        case .overloaded:
            "\(ControlChannel.pendingMax) calls to the metadata server are waiting already; try again later"
        }
    }
}

extension ControlFailure {
    /// A failure of these fields.
    public init(_ code: ControlFailure.Code, _ message: String, holder: String = "") {
        self.init()
        (self.code, self.message, self.holder) = (code, message, holder)
    }
}

extension ControlResponse {
    /// A response that refuses.
    public init(refusing failure: ControlFailure) {
        self.init()
        self.failure = failure
    }
    /// A response that carries `body`.
    public init(_ body: ControlResponse.OneOf_Body) {
        self.init()
        self.body = body
    }
}

extension ControlRequest {
    /// A request that carries `body`.
    public init(_ body: ControlRequest.OneOf_Body) {
        self.init()
        self.body = body
    }
}

extension UniqueID {
    /// The 16 bytes that control messages carry.
    public var controlBytes: Data {
        var bytes: [UInt8] = []
        for half in [high, low] {
            for shift in stride(from: 56, through: 0, by: -8) {
                bytes.append(UInt8(truncatingIfNeeded: half >> UInt64(shift)))
            }
        }
        return Data(bytes)
    }
    /// - Returns: `nil` when there are not 16 bytes.
    public init?(controlBytes bytes: Data) {
        guard bytes.count == 16 else { return nil }
        let halves = [bytes.prefix(8), bytes.suffix(8)].map { half in
            half.reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        }
        self.init(high: halves[0], low: halves[1])
    }
}
