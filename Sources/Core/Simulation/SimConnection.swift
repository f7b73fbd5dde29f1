import BlockTypes
import Environment

/// One end of a simulated stream connection.
final class SimConnection: Connection {
    private enum Phase { case open, closing, closed }

    let number: UInt64
    let host: SimHost
    let peer: String
    private var outgoing: SimPipe?
    private var incoming: SimPipe?
    /// The other end; forgotten when both are closed.
    private var other: SimConnection?
    private var phase = Phase.open
    private var isReceivingPaused = false
    private var isDeliveryScheduled = false
    private var isDelivering = false
    private var wasAboveSoftMax = false
    /// True after power loss: not even the machine remembers this end.
    private(set) var hasVanished = false
    var handler: (any ConnectionHandler)? {
        didSet {
            guard handler != nil else { return }
            if untold == nil { scheduleDelivery() } else { host.schedule { self.tellTheEnd() } }
        }
    }
    /// The connection ended before it had a handler, which hears of it as soon as it is there.
    private var untold: NetworkError?

    private static let lingerMax: Duration = .seconds(5)

    private init(host: SimHost, peer: String) {
        (self.host, self.peer) = (host, peer)
        number = host.world.takeNumber()
    }
    /// Two ends of a new connection, each owned by its host.
    static func pair(
        _ near: SimHost, _ far: SimHost, nearName: String, farName: String
    ) -> (near: SimConnection, far: SimConnection) {
        let a = SimConnection(host: near, peer: nearName)
        let b = SimConnection(host: far, peer: farName)
        let (forth, back) = (SimPipe(a, b), SimPipe(b, a))
        (a.outgoing, a.incoming, a.other) = (forth, back, b)
        (b.outgoing, b.incoming, b.other) = (back, forth, a)
        near.own(a)
        far.own(b)
        return (a, b)
    }

    // MARK: Connection

    var queuedSendBytes: Int { outgoing?.queuedByteCount ?? 0 }

    func send(_ pieces: [SendPiece]) {
        guard phase == .open, let outgoing else { return }
        outgoing.append(pieces)
        if outgoing.queuedByteCount > sendQueueBytesSoftMax { wasAboveSoftMax = true }
    }
    func pauseReceiving() { isReceivingPaused = true }
    func resumeReceiving() {
        guard isReceivingPaused else { return }
        isReceivingPaused = false
        scheduleDelivery()
    }
    func close() {
        guard phase == .open, let outgoing else { return }
        phase = .closing
        outgoing.end()
        if outgoing.everythingTaken {
            host.schedule { self.finishClosing() }
        } else {
            host.after(Self.lingerMax) { self.finishClosing() }
        }
    }

    // MARK: From the pipes

    /// False when nobody reads here any more.
    var takesBytes: Bool { phase == .open && host.isAlive }

    /// Bytes or the end of the stream have come.
    func readable() {
        guard phase == .open, host.isAlive else { return }
        if host.isPaused { scheduleDelivery() } else { deliver() }
    }
    /// The sender's machine took bytes out of the queue.
    func tookSome() {
        guard let outgoing else { return }
        if wasAboveSoftMax, outgoing.queuedByteCount < sendQueueBytesSoftMax / 2 {
            wasAboveSoftMax = false
            host.schedule { [self] in if phase == .open { handler?.connectionDrained() } }
        }
        if phase == .closing, outgoing.everythingTaken { host.schedule { self.finishClosing() } }
    }
    /// Ends the connection for a reason from outside, as soon as this end's process runs.
    func learns(_ reason: NetworkError, afterNanoseconds delay: Int64) {
        guard phase != .closed, host.isAlive else { return }
        host.schedule(afterNanoseconds: delay) { self.closed(reason) }
    }

    // MARK: From the host

    /// Power loss: no word to anybody.
    func vanish() {
        hasVanished = true
        outgoing?.dropQueued()
        forget()
    }
    /// The process died; its machine closes the socket.
    func closedByKernel() {
        guard phase != .closed else { return forget() }
        outgoing?.dropQueued()
        outgoing?.end()
        if incoming?.hasUnread == true { incoming?.resetSender() }
        forget()
    }

    // MARK: Inside

    private func scheduleDelivery(afterNanoseconds delay: Int64 = 0) {
        guard !isDeliveryScheduled, phase == .open else { return }
        isDeliveryScheduled = true
        host.schedule(afterNanoseconds: delay) { [self] in
            isDeliveryScheduled = false
            deliver()
        }
    }
    private func deliver() {
        guard let incoming, !isDelivering else { return }
        isDelivering = true
        defer { isDelivering = false }
        let world = host.world
        let isChopped = world.chance(oneIn: world.faults.network.choppedOneIn)
        while phase == .open, !isReceivingPaused, incoming.hasUnread, let handler {
            if isChopped, world.chance(oneIn: 8) {
                // The rest comes a moment later, so that other things happen in between.
                return scheduleDelivery(afterNanoseconds: world.nanoseconds(upTo: 200_000))
            }
            deliverOnce(incoming, handler, isChopped: isChopped)
        }
        if phase == .open, !isReceivingPaused, handler != nil, incoming.isAtEnd { closed(.closedByPeer) }
    }
    private func deliverOnce(_ incoming: SimPipe, _ handler: any ConnectionHandler, isChopped: Bool) {
        let window = unsafe handler.connectionReceiveWindow()
        let chosen =
            if let window = unsafe window, window.count > 0 { unsafe window } else {
                unsafe UnsafeMutableRawBufferPointer(
                    rebasing: host.world.staging.bytes[..<SimWorld.stagingBytes])
            }
        let most = isChopped ? Int.random(in: 1...min(chosen.count, 5_000), using: &host.world.random) : .max
        let target = unsafe UnsafeMutableRawBufferPointer(rebasing: chosen[..<min(most, chosen.count)])
        let count = unsafe incoming.read(into: target)
        let bytes = unsafe UnsafeRawBufferPointer(rebasing: target[..<count])
        host.world.mix(UInt64(unsafe CRC32C(of: bytes).rawValue))
        unsafe handler.connectionReceived(bytes)
    }
    private func finishClosing() {
        guard phase == .closing else { return }
        let isCutShort = outgoing?.everythingTaken == false
        outgoing?.dropQueued()
        if isCutShort || incoming?.hasUnread == true { incoming?.resetSender() }
        closed(.closedHere)
    }
    private func closed(_ reason: NetworkError) {
        guard phase != .closed else { return }
        let handler = handler
        host.world.note { "\(self): \(reason)" }
        host.disown(self)
        if reason == .closedByPeer {
            // The other direction is of no use either: its peer has closed.
            outgoing?.dropQueued()
            outgoing?.end()
        }
        if handler == nil { untold = reason }
        forget()
        handler?.connectionClosed(reason)
    }
    private func tellTheEnd() {
        guard let told = handler, let reason = untold else { return }
        (handler, untold) = (nil, nil)
        told.connectionClosed(reason)
    }
    /// Bytes that were taken go on without this end; the pipes stay as long as the other end has them.
    private func forget() {
        phase = .closed
        handler = nil
        guard let other, other.phase == .closed else { return }
        other.letGo()
        letGo()
    }
    private func letGo() {
        outgoing?.cut()
        incoming?.cut()
        (outgoing, incoming, other) = (nil, nil, nil)
    }
}

extension SimConnection: CustomStringConvertible {
    var description: String { "\(host)->\(peer)" }
}
