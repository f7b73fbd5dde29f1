import BlockTypes
import CurveWire
import Environment
import FramedLink
import SwiftProtobuf

/// The client side of the MDS: one request, one response, over one connection that comes back by itself.
///
/// Loop-confined. Connects when there is something to ask; tries the addresses in turn.
public final class ControlChannel {
    /// What the channel is doing.
    public enum State: Sendable {
        /// Nothing to do.
        case idle
        /// Trying this address.
        case connecting(SocketAddress)
        /// Talking to the MDS there.
        case connected(SocketAddress, Hello)
        /// Waiting before it tries again; the message says why.
        case waiting(String)
        /// Closed for good.
        case closed
    }
    /// Calls that are open, against ``pendingMax``.
    package func readGauges(_ read: GaugeReader) { read("calls open", pending.count, Self.pendingMax) }
    /// Told about every change of ``state``.
    public var connectionState: ((State) -> Void)?
    /// What the channel is doing now.
    public private(set) var state = State.idle

    /// Calls open at a time; more fail at once with ``ControlError/overloaded``.
    public static let pendingMax = 256
    /// An address that does not answer is given up after this long.
    public static let connectTimeout = Duration.seconds(3)
    /// A connection on which a call timed out is given up when no word has come for this long.
    public static let silenceMax = Duration.seconds(3)
    /// The pause after all addresses have failed; doubles up to ``pauseMax``, and is shortened by chance so
    /// that a cluster's servers do not come back all at once.
    public static let pauseMin = Duration.milliseconds(100)
    /// See ``pauseMin``.
    public static let pauseMax = Duration.seconds(2)

    private struct Call {
        let body: [UInt8]
        let isIdempotent: Bool
        let completed: (Result<ControlResponse, ControlError>) -> Void
        var timer: TimerID
        var isSent = false
    }
    private let environment: any Environment
    private let addresses: [SocketAddress]
    private let hello: Hello
    private let pool: BufferPool
    private var pending: [UInt64: Call] = [:]  // Sorted by id wherever the order can be seen.
    private var lastID: UInt64 = 0
    private var link: FramedLink?
    /// When the oldest call went out that no word has come after.
    private var silentSince: Duration?
    private var nextAddress = 0
    private var pause = ControlChannel.pauseMin
    private var retryTimer: TimerID?
    private var lastFailure = "not tried yet"

    /// A channel to the MDS at `addresses`; says `hello` on each connection.
    public init(environment: any Environment, addresses: [SocketAddress], hello: Hello, pool: BufferPool) {
        invariant(!addresses.isEmpty, "a control channel needs an address")
        (self.environment, self.addresses, self.hello, self.pool) = (environment, addresses, hello, pool)
    }

    deinit {
        // Nobody is left to answer to; what is pending goes unanswered with its owner.
        if let retryTimer { environment.cancel(retryTimer) }
        link?.close()
    }

    /// Asks the MDS; `completed` runs once, never from inside this call.
    /// - Parameter isIdempotent: asking twice is harmless. Such a call is repeated after a broken connection;
    ///   any other then fails, because nobody knows whether it was done.
    public func call(
        _ request: ControlRequest, timeout: Duration, isIdempotent: Bool = false,
        completed: @escaping (Result<ControlResponse, ControlError>) -> Void
    ) {
        if case .closed = state { return failSoon(.closed, completed) }
        guard pending.count < Self.pendingMax else { return failSoon(.overloaded, completed) }
        guard let body: [UInt8] = try? request.serializedBytes(), body.count <= WireLimits.bodyBytesMax else {
            return failSoon(
                .protocolViolation("the request is longer than \(WireLimits.bodyBytesMax) bytes"), completed)
        }
        lastID += 1
        let id = lastID
        let timer = environment.after(timeout) { [weak self] in self?.timedOut(id, timeout) }
        pending[id] = Call(body: body, isIdempotent: isIdempotent, completed: completed, timer: timer)
        if let link, link.isOpen { transmit(id, over: link) } else { connectIfNeeded() }
    }

    /// Fails every open call with ``ControlError/closed`` and closes the connection.
    public func close() {
        if case .closed = state { return }
        change(.closed)
        connectionState = nil
        if let retryTimer { environment.cancel(retryTimer) }
        retryTimer = nil
        link?.close()
        link = nil
        let ids = pending.keys.sorted()
        environment.after(.zero) { for id in ids { self.complete(id, .failure(.closed)) } }
    }

    private func failSoon(
        _ error: ControlError, _ completed: @escaping (Result<ControlResponse, ControlError>) -> Void
    ) { environment.after(.zero) { completed(.failure(error)) } }

    private func complete(_ id: UInt64, _ result: Result<ControlResponse, ControlError>) {
        guard let call = pending.removeValue(forKey: id) else { return }
        environment.cancel(call.timer)
        call.completed(result)
    }

    private func timedOut(_ id: UInt64, _ timeout: Duration) {
        guard let call = pending[id] else { return }
        guard call.isSent else {
            let message = "no metadata server within \(timeout): \(lastFailure)"
            return complete(id, .failure(.unreachable(message)))
        }
        let message = "the metadata server at \(server) did not answer within \(timeout)"
        // Not a word since: its host may have died without a reset, and a new connection would work.
        if let silentSince, environment.now - silentSince >= Self.silenceMax, let link {
            self.link = nil
            link.close()
            complete(id, .failure(.timedOut(message)))
            linkLost(message, isRefused: false)
        } else {
            complete(id, .failure(.timedOut(message)))
        }
    }

    private var server: String {
        if case .connected(let address, _) = state { return "\(address)" }
        return addresses.map(\.description).joined(separator: ", ")
    }

    private func change(_ new: State) {
        state = new
        connectionState?(new)
    }
}

// MARK: - Connecting

extension ControlChannel {
    private func connectIfNeeded() {
        switch state {
        case .idle: connect()
        case .connecting, .connected, .waiting, .closed: break
        }
    }

    private func connect() {
        let address = addresses[nextAddress]
        nextAddress = (nextAddress + 1) % addresses.count
        change(.connecting(address))
        environment.connect(to: address, timeout: Self.connectTimeout) { [weak self] result in
            switch result {
            case .success(let connection):
                guard let self, case .connecting = self.state else {
                    return FramedLink.refuse(connection, reason: "no longer needed")
                }
                self.greet(connection, at: address)
            case .failure(let error): self?.connectFailed("\(error)")
            }
        }
    }

    private func greet(_ connection: any Connection, at address: SocketAddress) {
        let mine = hello
        let link = FramedLink(
            connection: connection, environment: environment, pool: pool, mine: mine,
            serving: FrameKindSet([.controlReply])
        ) { theirs in
            guard theirs.role == .metadata else {
                return "a metadata server was expected, not a \(theirs.role)"
            }
            guard let mine = mine.cluster, let other = theirs.cluster, mine != other else { return nil }
            return "this program belongs to cluster \(mine), the metadata server at \(address) to \(other)"
        }
        self.link = link
        link.onReady = { [weak self] hello in self?.ready(hello, at: address) }
        link.onFrame = { [weak self] frame in
            if case .controlReply(let id, let body) = frame { self?.answered(id, body) }
        }
        link.onClosed = { [weak self, weak link] reason in
            guard let self, self.link === link else { return }
            self.linkClosed(reason, at: address)
        }
    }

    private func ready(_ hello: Hello, at address: SocketAddress) {
        (pause, silentSince) = (Self.pauseMin, nil)
        change(.connected(address, hello))
        guard let link else { return }
        for id in pending.keys.sorted() { transmit(id, over: link) }
    }

    private func transmit(_ id: UInt64, over link: FramedLink) {
        guard let call = pending[id], !call.isSent else { return }
        pending[id]?.isSent = true
        if silentSince == nil { silentSince = environment.now }
        link.send(.control(id: id, body: call.body))
    }

    private func answered(_ id: UInt64, _ body: [UInt8]) {
        silentSince = nil
        guard pending[id] != nil else { return }  // The answer to a call that was given up.
        guard let response = try? ControlResponse(serializedBytes: body) else {
            return complete(
                id, .failure(.protocolViolation("the answer of the metadata server at \(server) is damaged")))
        }
        complete(id, response.hasFailure ? .failure(.refused(response.failure)) : .success(response))
    }

    private func linkClosed(_ reason: LinkCloseReason, at address: SocketAddress) {
        link = nil
        let isRefused =
            switch reason {
            case .refusedByPeer, .refusedPeer, .protocolViolation: true
            case .network, .handshakeTimedOut, .stalled, .closedHere: false
            }
        linkLost("\(address): \(reason)", isRefused: isRefused)
    }

    private func linkLost(_ message: String, isRefused: Bool) {
        // A peer that will not have us will not soon change its mind: say so at once.
        for id in pending.keys.sorted() {
            if isRefused {
                complete(id, .failure(.unreachable(message)))
            } else if let call = pending[id], call.isSent {
                guard !call.isIdempotent else {
                    pending[id]?.isSent = false
                    continue
                }
                complete(
                    id,
                    .failure(
                        .unreachable("\(message) before it answered; look whether the change was made")))
            }
        }
        connectFailed(message)
    }

    private func connectFailed(_ message: String) {
        if case .closed = state { return }
        lastFailure = message
        guard !pending.isEmpty else { return change(.idle) }
        if nextAddress != 0 { return connect() }
        let share = 0.5 + 0.5 * Double(environment.random() >> 11) / Double(UInt64(1) << 53)
        let delay = pause * share
        pause = min(pause * 2, Self.pauseMax)
        change(.waiting(message))
        retryTimer = environment.after(delay) { [weak self] in
            guard let self, case .waiting = self.state else { return }
            self.retryTimer = nil
            if self.pending.isEmpty { self.change(.idle) } else { self.connect() }
        }
    }
}
