import BlockTypes
import Environment
import ISCSIProtocol

/// One connection: bytes to the server's portal group, and what that says back.
final class ServerLink: ConnectionHandler {
    let id: ConnectionID
    /// The portal that it came by; `nil`: it was made elsewhere.
    let portal: Int?
    private let link: any Connection
    private let server: ISCSIServer
    private let group: PortalGroup
    private var loginTimer: TimerID?
    /// What the effects of one turn send; one send takes them all.
    private var pieces: [SendPiece] = []
    /// Reply bytes given to the link since the start.
    private var givenBytes = 0
    /// Those that the socket had taken, and those that it had not, when the server last looked.
    private var seen = (takenBytes: 0, queuedBytes: 0)
    private var drainTimer: TimerID?
    private(set) var isOver = false

    /// Where the link tells of no drain, and yet replies are waited for: how soon to look again.
    private static let drainPeriod = Duration.milliseconds(10)

    init(_ id: ConnectionID, _ link: any Connection, _ server: ISCSIServer, portal: Int? = nil) {
        (self.id, self.link, self.server, self.portal) = (id, link, server, portal)
        group = server.group
    }
    var peer: String { link.peer }
    var peerHost: String { link.peerHost }
    var queuedSendBytes: Int { link.queuedSendBytes }

    func open() {
        loginTimer = server.environment.after(server.limits.loginTimeout) { self.loginTimeReached() }
        link.handler = self
    }
    private func loginTimeReached() {
        loginTimer = nil
        if !isOver { server.act { $0.loginTimeReached(self.id, effects: &$1) } }
    }

    // What the server says.

    /// - Returns: true when it is the first piece since the last flush.
    func queue(_ piece: consuming SendPiece) -> Bool {
        pieces.append(piece)
        return pieces.count == 1
    }
    func flush() {
        guard !pieces.isEmpty else { return }
        if !isOver {
            givenBytes += pieces.reduce(0) { $0 + $1.byteCount }
            link.send(pieces)
        }
        pieces.empty()
    }
    func pause() { link.pauseReceiving() }
    func resume() { link.resumeReceiving() }
    /// Sends what there is, then closes.
    func close() {
        guard !isOver else { return }
        flush()
        end()
        link.close()
    }
    /// Gives the connection up for another loop; what breaks before is told as ever.
    /// - Returns: false when it is one that cannot go elsewhere.
    func release(completed: @escaping (any MovedConnection) -> Void) -> Bool {
        guard let movable = link as? any MovableConnection else { return false }
        flush()
        movable.release { moved in
            guard let moved, !self.isOver else { return }
            completed(moved)
            self.end()
        }
        return true
    }
    /// The socket has taken bytes of a full queue since the last call: somebody reads at the other end,
    /// though what it says may wait behind what it has not read.
    func hasMoved() -> Bool {
        let queued = link.queuedSendBytes
        let taken = givenBytes - queued
        defer { seen = (taken, queued) }
        return seen.queuedBytes > 0 && taken > seen.takenBytes
    }
    /// The link tells of a drain only after it was above its mark; several connections of a session may wait
    /// for each other below it.
    func watchDrain() {
        guard drainTimer == nil, !isOver, link.queuedSendBytes > 0,
            link.queuedSendBytes <= link.sendQueueBytesSoftMax
        else { return }
        drainTimer = server.environment.after(Self.drainPeriod) {
            self.drainTimer = nil
            self.connectionDrained()
        }
    }

    // What the link reports.

    @unsafe func connectionReceiveWindow() -> UnsafeMutableRawBufferPointer? {
        unsafe isOver ? nil : group.receiveWindow(of: id)
    }
    @unsafe func connectionReceived(_ bytes: UnsafeRawBufferPointer) {
        guard !isOver else { return }
        unsafe server.received(bytes, on: self)
    }
    func connectionDrained() {
        guard !isOver, !server.hasStoodStill() else { return }
        let queued = link.queuedSendBytes
        server.act { $0.drained(self.id, queuedSendBytes: queued, effects: &$1) }
    }
    func connectionClosed(_ reason: NetworkError) {
        link.handler = nil
        guard !isOver else { return }
        server.environment.log(.debug, "iscsi: \(peer): \(reason)")
        end()
        server.act { $0.lost(self.id, effects: &$1) }
    }
    private func end() {
        isOver = true
        for timer in [loginTimer, drainTimer] {
            if let timer { server.environment.cancel(timer) }
        }
        (loginTimer, drainTimer) = (nil, nil)
        server.forget(self)
    }
}
