import BlockTypes

/// Where a process listens or connects.
public enum SocketAddress: Hashable, Sendable, CustomStringConvertible {
    /// TCP on a numeric IPv4 or IPv6 address or a host name; port 0 lets the system choose when listening.
    case tcp(host: String, port: UInt16)
    /// A Unix stream socket.
    case unix(path: String)
    /// A socket between a virtual machine and its host; `cid` says which machine, `nil`, when listening, any.
    case vsock(cid: UInt32?, port: UInt32)
    /// A listening socket that this process was started with.
    case inherited(descriptor: Int32)

    /// `host:port`, `[v6]:port`, `unix:path`, `vsock:port`, `vsock:cid:port` or `fd:number`.
    public var description: String {
        switch self {
        case .tcp(let host, let port): host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
        case .unix(let path): "unix:\(path)"
        case .vsock(nil, let port): "vsock:\(port)"
        case .vsock(let cid?, let port): "vsock:\(cid):\(port)"
        case .inherited(let descriptor): "fd:\(descriptor)"
        }
    }
    /// Reads what ``description`` writes.
    /// - Returns: `nil` when `text` is none of the forms.
    public init?(_ text: String) {
        if text.hasPrefix("unix:") {
            let path = String(text.dropFirst(5))
            guard !path.isEmpty, path.utf8.count < 108 else { return nil }
            self = .unix(path: path)
            return
        }
        if text.hasPrefix("vsock:") {
            let numbers = text.dropFirst(6).split(separator: ":", omittingEmptySubsequences: false)
            let values = numbers.compactMap { UInt32($0) }
            guard values.count == numbers.count, (1...2).contains(values.count) else { return nil }
            self = .vsock(cid: values.count == 2 ? values[0] : nil, port: values[values.count - 1])
            return
        }
        if text.hasPrefix("fd:") {
            guard let descriptor = Int32(text.dropFirst(3)), descriptor >= 0 else { return nil }
            self = .inherited(descriptor: descriptor)
            return
        }
        guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]) else {
            return nil
        }
        var host = String(text[..<colon])
        if host.hasPrefix("["), host.hasSuffix("]") { host = String(host.dropFirst().dropLast()) }
        guard !host.isEmpty else { return nil }
        self = .tcp(host: host, port: port)
    }
}

/// Why a connection could not be had or did not last.
public enum NetworkError: Error, Hashable, Sendable, CustomStringConvertible {
    /// Nobody listens there. Proof that the process behind it is gone, if the host answers.
    case refused(SocketAddress)
    /// No answer in time.
    case timedOut(SocketAddress)
    /// Somebody else listens there.
    case addressInUse(SocketAddress)
    /// Anything else the system said; `errno` and the call.
    case system(SocketAddress?, errno: Int32, call: String)
    /// The peer closed the connection, between or inside messages.
    case closedByPeer
    /// The peer reset the connection.
    case reset
    /// This side closed it, or the environment is stopping.
    case closedHere

    /// What happened and what to do, in one line.
    public var description: String {
        switch self {
        case .refused(let address): "nobody listens on \(address); start the server or correct the address"
        case .timedOut(let address): "no answer from \(address) in time"
        case .addressInUse(let address): "\(address) is taken; stop its owner or choose another address"
        case .system(let address, let errno, let call):
            "\(call)\(address.map { " \($0)" } ?? "") failed: \(Self.words(errno))"
        case .closedByPeer: "the peer closed the connection"
        case .reset: "the peer reset the connection"
        case .closedHere: "closed by this side"
        }
    }

    /// What people can do something about, by Linux's numbers (errno-base.h, errno.h).
    private static func words(_ errno: Int32) -> String {
        switch errno {
        case 2: "there is no such folder"
        case 13: "permission denied; ports below 1024 and other people's folders need more rights"
        case 99: "no interface of this machine has this address; correct it"
        case 101, 113: "there is no route to it; check the address and the network"
        default: "errno \(errno)"
        }
    }
}

/// A socket that accepts connections until it is closed.
public protocol Listener: AnyObject {
    /// Where it listens, with the port that the system chose.
    var address: SocketAddress { get }
    /// Stops accepting. Connections made before go on.
    func close()
}

/// What a connection tells its owner. The connection keeps its handler alive until ``connectionClosed(_:)``.
public protocol ConnectionHandler: AnyObject {
    /// Memory where the next bytes should land, when the handler is in the middle of a large payload.
    /// `nil`: the connection's own staging buffer. Asked before each receive; the memory stays valid until
    /// ``connectionReceived(_:)`` or ``connectionClosed(_:)``.
    @unsafe func connectionReceiveWindow() -> UnsafeMutableRawBufferPointer?
    /// The next bytes, cut anywhere; in the window if one was given. Not valid after return.
    @unsafe func connectionReceived(_ bytes: UnsafeRawBufferPointer)
    /// The send queue fell below half of ``Connection/sendQueueBytesSoftMax`` after having been above it.
    func connectionDrained()
    /// The last call. Nothing more is received; what was queued may or may not have arrived.
    func connectionClosed(_ reason: NetworkError)
}

/// One piece of what is sent.
public enum SendPiece: Sendable {
    /// A few bytes: headers.
    case bytes([UInt8])
    /// Payload by reference; kept alive until the kernel has taken it.
    case payload(Payload)
    /// Bytes in the piece.
    public var byteCount: Int {
        switch self {
        case .bytes(let bytes): bytes.count
        case .payload(let payload): payload.byteCount
        }
    }
}

/// A stream of bytes to one peer, in order. Loop-confined.
public protocol Connection: AnyObject {
    /// Set once, right after the connection was made or accepted; receiving starts then.
    var handler: (any ConnectionHandler)? { get set }
    /// Who is at the other end, for the log.
    var peer: String { get }
    /// The peer has closed both directions: it waits for no answer, though what it sent may still come. False
    /// where that cannot be known: TCP tells of one direction only.
    var hasPeerLeft: Bool { get }
    /// Bytes given to ``send(_:)`` that the kernel has not taken yet.
    var queuedSendBytes: Int { get }
    /// Queues the pieces, one after the other. Never blocks and never fails: a broken connection says so by
    /// ``ConnectionHandler/connectionClosed(_:)``. The caller holds back above
    /// ``sendQueueBytesSoftMax``.
    func send(_ pieces: [SendPiece])
    /// Stops reading the socket: the peer feels it as a full window.
    func pauseReceiving()
    /// Reads again.
    func resumeReceiving()
    /// Sends what is queued, then closes. `connectionClosed(.closedHere)` follows.
    func close()
}

extension Connection {
    /// See the requirement.
    public var hasPeerLeft: Bool { false }
    /// Who is at the other end without what differs from one connection to the next: a TCP port.
    public var peerHost: String {
        guard !peer.hasPrefix("unix:"), let colon = peer.lastIndex(of: ":") else { return peer }
        return String(peer[..<colon])
    }
    /// Above this many queued bytes a sender should wait for ``ConnectionHandler/connectionDrained()``.
    public var sendQueueBytesSoftMax: Int { 8 << 20 }
}
