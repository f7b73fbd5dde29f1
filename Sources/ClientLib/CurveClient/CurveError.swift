import BlockTypes
import ControlMessages

/// Why a call of the client library failed.
public struct CurveError: Error, Hashable, Sendable, CustomStringConvertible {
    /// What kind of failure; more kinds may come.
    public struct Code: Hashable, Sendable, CustomStringConvertible {
        private enum Kind: String, Hashable, Sendable {
            case invalidArgument, notFound, held, refused, unreachable, outOfRange, readOnly, noSpace, fenced
            case replicasUnavailable, checksumMismatch, miscompare, deleted, closed, system
        }
        private let kind: Kind
        private init(_ kind: Kind) { self.kind = kind }
        /// The caller asked for something that cannot be.
        public static let invalidArgument = Code(.invalidArgument)
        /// There is no such volume.
        public static let notFound = Code(.notFound)
        /// Another holder has the volume.
        public static let held = Code(.held)
        /// The metadata server will not do it.
        public static let refused = Code(.refused)
        /// The metadata server, or all copysets of the volume, could not be reached in time.
        public static let unreachable = Code(.unreachable)
        /// Not inside the volume, or longer than one request may be.
        public static let outOfRange = Code(.outOfRange)
        /// The volume was opened read-only.
        public static let readOnly = Code(.readOnly)
        /// The pool has no room for new data.
        public static let noSpace = Code(.noSpace)
        /// Another client has taken the volume over.
        public static let fenced = Code(.fenced)
        /// Too many replicas stayed out of reach for longer than the volume's policy allows.
        public static let replicasUnavailable = Code(.replicasUnavailable)
        /// No replica holds an intact copy.
        public static let checksumMismatch = Code(.checksumMismatch)
        /// What is stored is not what was expected; nothing was written.
        public static let miscompare = Code(.miscompare)
        /// The volume was deleted.
        public static let deleted = Code(.deleted)
        /// The volume or the cluster was closed on this side.
        public static let closed = Code(.closed)
        /// This machine lacks something; the message says what.
        public static let system = Code(.system)
        /// The code's name.
        public var description: String { kind.rawValue }
    }
    /// What kind of failure.
    public let code: Code
    /// What happened and what to do, for people.
    public let message: String
    /// Code and message.
    public var description: String { "\(code): \(message)" }

    init(_ code: Code, _ message: String) { (self.code, self.message) = (code, message) }

    init(_ error: VolumeError) {
        switch error {
        case .outOfRange:
            self.init(.outOfRange, "the range is not inside the volume, or longer than one request may be")
        case .readOnly: self.init(.readOnly, "the volume is open read-only")
        case .noSpace:
            self.init(.noSpace, "the pool has no room for new data; add chunkservers, trim or delete")
        case .fenced: self.init(.fenced, "another client has taken the volume over; open it again")
        case .replicasUnavailable:
            self.init(.replicasUnavailable, "too many replicas are out of reach; see \"curve status\"")
        case .checksumMismatch:
            self.init(.checksumMismatch, "no replica holds an intact copy of these blocks")
        case .deleted: self.init(.deleted, "the volume was deleted")
        case .shuttingDown: self.init(.closed, "the volume is closed")
        case .miscompare(let byte):
            self.init(.miscompare, "what is stored differs from what was expected, first at byte \(byte)")
        }
    }

    init(_ error: ControlError) {
        switch error {
        case .refused(let failure):
            let code: Code =
                switch failure.code {
                case .notFound: .notFound
                case .held: .held
                case .fenced: .fenced
                case .noSpace: .noSpace
                case .badRequest: .invalidArgument
                default: .refused
                }
            self.init(code, "\(error)")
        case .unreachable, .timedOut, .overloaded: self.init(.unreachable, "\(error)")
        case .protocolViolation: self.init(.refused, "\(error)")
        case .closed: self.init(.closed, "\(error)")
        }
    }

    init(_ error: AttachError) {
        switch error {
        case .control(let error): self.init(error)
        case .lost(let error): self.init(error)
        case .timedOut: self.init(.unreachable, "\(error)")
        case .badAnswer, .superseded: self.init(.refused, "\(error)")
        case .metadataServers: self.init(.invalidArgument, "\(error)")
        }
    }
}
