import BlockTypes
import CurveWire
import Environment
import FramedLink
import SwiftProtobuf

/// The client side of the MDS: one request, one response, over one connection that comes back by itself.
///
/// Loop-confined. Connects when there is something to ask. Of several metadata servers one leads: the channel
/// goes round them until one answers, beginning with the one that answered last. One that stands by names
/// the one that leads.
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
    /// False: a metadata server that stands by is believed, and its refusal is the answer.
    public var looksForLeader = true

    /// Calls open at a time; more fail at once with ``ControlError/overloaded``.
    public static let pendingMax = 256
    /// An address that does not answer is given up after this long.
    public static let connectTimeout = Duration.seconds(3)
    /// A connection on which a call timed out is given up when no word has come for this long.
    public static let silenceMax = Duration.seconds(3)
    /// Where there is another address to try, a connection with open calls is given up when no word has come
    /// for this long, whatever the calls' own time. A metadata server may think about a call for some
    /// 4 s after its start, until chunkservers have spoken.
    public static let hangMax = Duration.seconds(5)
    /// The pause after all addresses have failed; doubles up to ``pauseMax``, and is shortened by chance so
    /// that a cluster's servers do not come back all at once.
    public static let pauseMin = Duration.milliseconds(100)
    /// See ``pauseMin``.
    public static let pauseMax = Duration.seconds(2)
    /// Addresses that are not in the list and are tried between two pauses, because somebody said that the
    /// metadata server there leads.
    public static let hintsPerRoundMax = 2

    private struct Call {
        let body: [UInt8]
        let isIdempotent: Bool
        let endsWhenRefused: Bool
        let completed: (Result<ControlResponse, ControlError>) -> Void
        var timer: TimerID
        var isSent = false
    }
    /// One attempt at each address.
    private struct Round {
        var untried: [SocketAddress] = []
        var tried: [SocketAddress] = []
        var hintsLeft = ControlChannel.hintsPerRoundMax
        var failures: [String] = []
        /// Nobody listens at any address tried.
        var areAllRefused = true
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
    private var hangTimer: TimerID?
    /// The address that answered last.
    private var preferred: SocketAddress?
    private var round = Round()
    private var pause = ControlChannel.pauseMin
    private var retryTimer: TimerID?
    /// What happened at the addresses that were tried last, for people.
    public private(set) var lastFailure = "not tried yet"

    /// A channel to the metadata servers at `addresses`; says `hello` on each connection.
    public init(environment: any Environment, addresses: [SocketAddress], hello: Hello, pool: BufferPool) {
        invariant(!addresses.isEmpty, "a control channel needs an address")
        (self.environment, self.addresses, self.hello, self.pool) = (environment, addresses, hello, pool)
    }

    deinit {
        // Nobody is left to answer to; what is pending goes unanswered with its owner.
        if let retryTimer { environment.cancel(retryTimer) }
        if let hangTimer { environment.cancel(hangTimer) }
        link?.close()
    }

    /// Asks the MDS; `completed` runs once, never from inside this call.
    /// - Parameters:
    ///   - isIdempotent: asking twice is harmless. Such a call is repeated after a broken connection;
    ///     any other then fails, because nobody knows whether it was done.
    ///   - endsWhenRefused: not worth waiting for a metadata server that is not there: the call fails as soon
    ///     as every address has refused a connection.
    public func call(
        _ request: ControlRequest, timeout: Duration, isIdempotent: Bool = false,
        endsWhenRefused: Bool = false,
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
        pending[id] = Call(
            body: body, isIdempotent: isIdempotent, endsWhenRefused: endsWhenRefused, completed: completed,
            timer: timer)
        if let link, link.isOpen {
            transmit(id, over: link)
        } else {
            connectIfNeeded(atOnce: endsWhenRefused)
        }
    }

    /// Forgets every open call. For processes of a simulated world that are gone: whoever asked and the call
    /// refer to each other until it ends.
    package func abandon() { pending = [:] }
    /// Fails every open call with ``ControlError/closed`` and closes the connection.
    public func close() {
        if case .closed = state { return }
        change(.closed)
        connectionState = nil
        if let retryTimer { environment.cancel(retryTimer) }
        retryTimer = nil
        leave()
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

    /// Whole seconds, for people: what is left of a deadline has nine digits behind the point.
    private static func told(_ timeout: Duration) -> String {
        guard timeout >= .seconds(1) else { return "\(timeout)" }
        return "\((timeout + .milliseconds(500)).components.seconds) seconds"
    }
    private func timedOut(_ id: UInt64, _ timeout: Duration) {
        guard let call = pending[id] else { return }
        guard call.isSent else {
            let message = "no metadata server within \(Self.told(timeout)): \(lastFailure)"
            return complete(id, .failure(.unreachable(message)))
        }
        let message = "the metadata server at \(server) did not answer within \(Self.told(timeout))"
        // Not a word since: its host may have died without a reset, and a new connection would work.
        if let silentSince, environment.now - silentSince >= Self.silenceMax, link != nil {
            leave()
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
    /// - Parameter atOnce: also in the middle of a pause.
    private func connectIfNeeded(atOnce: Bool) {
        switch state {
        case .idle: beginRound()
        case .waiting:
            guard atOnce, let retryTimer else { return }
            environment.cancel(retryTimer)
            self.retryTimer = nil
            beginRound()
        case .connecting, .connected, .closed: break
        }
    }

    /// The address that answered last comes first.
    private func beginRound() {
        round = Round()
        round.untried = (preferred.map { [$0] } ?? []) + addresses.filter { $0 != preferred }
        connectToNext()
    }
    private func connectToNext() {
        guard let address = round.untried.first else { return pauseBetweenRounds() }
        round.untried.removeFirst()
        round.tried.append(address)
        change(.connecting(address))
        environment.connect(to: address, timeout: Self.connectTimeout) { [weak self] result in
            switch result {
            case .success(let connection):
                guard let self, case .connecting = self.state else {
                    return FramedLink.refuse(connection, reason: "no longer needed")
                }
                self.greet(connection, at: address)
            case .failure(let error):
                let isRefused = if case .refused = error { true } else { false }
                self?.attemptFailed("\(error)", nobodyListens: isRefused)
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
            if case .controlReply(let id, let body) = frame { self?.answered(id, body, from: address) }
        }
        link.onClosed = { [weak self, weak link] reason in
            guard let self, self.link === link else { return }
            self.linkClosed(reason, at: address)
        }
    }

    private func ready(_ hello: Hello, at address: SocketAddress) {
        heardWord()
        change(.connected(address, hello))
        guard let link else { return }
        for id in pending.keys.sorted() { transmit(id, over: link) }
    }

    private func transmit(_ id: UInt64, over link: FramedLink) {
        guard let call = pending[id], !call.isSent else { return }
        pending[id]?.isSent = true
        if silentSince == nil {
            silentSince = environment.now
            watchForHang()
        }
        link.send(.control(id: id, body: call.body))
    }

    private func answered(_ id: UInt64, _ body: [UInt8], from address: SocketAddress) {
        heardWord()
        let response = try? ControlResponse(serializedBytes: body)
        if looksForLeader, let response, response.hasFailure, response.failure.code == .notLeading {
            return standsBy(response.failure, at: address)
        }
        (preferred, pause) = (address, Self.pauseMin)
        // Should the connection break, the others are next.
        round = Round()
        (round.untried, round.tried) = (addresses.filter { $0 != address }, [address])
        guard pending[id] != nil else { return }  // The answer to a call that was given up.
        guard let response else {
            return complete(
                id, .failure(.protocolViolation("the answer of the metadata server at \(server) is damaged")))
        }
        complete(id, response.hasFailure ? .failure(.refused(response.failure)) : .success(response))
    }

    /// This one does nothing that it is asked for: no call on this connection was done.
    private func standsBy(_ failure: ControlFailure, at address: SocketAddress) {
        leave()
        for id in pending.keys.sorted() { pending[id]?.isSent = false }
        if let leader = SocketAddress(failure.leader), !round.tried.contains(leader) {
            if let place = round.untried.firstIndex(of: leader) {
                round.untried.remove(at: place)
                round.untried.insert(leader, at: 0)
            } else if round.hintsLeft > 0 {
                round.hintsLeft -= 1
                round.untried.insert(leader, at: 0)
            }
        }
        attemptFailed("\(address) stands by: \(failure.message)")
    }

    private func heardWord() {
        silentSince = nil
        if let hangTimer { environment.cancel(hangTimer) }
        hangTimer = nil
    }
    private func watchForHang() {
        guard case .connected(let here, _) = state, addresses.contains(where: { $0 != here }) else { return }
        if let hangTimer { environment.cancel(hangTimer) }
        hangTimer = environment.after(Self.hangMax) { [weak self] in
            guard let self, link != nil, silentSince != nil else { return }
            let message = "the metadata server at \(server) said nothing for \(Self.hangMax)"
            leave()
            linkLost(message, isRefused: false)
        }
    }

    /// Without waiting for the connection's own last word.
    private func leave() {
        heardWord()
        let old = link
        link = nil
        old?.close()
    }

    private func linkClosed(_ reason: LinkCloseReason, at address: SocketAddress) {
        heardWord()
        link = nil
        let isRefused =
            switch reason {
            case .refusedByPeer, .refusedPeer, .protocolViolation: true
            case .network, .handshakeTimedOut, .stalled, .closedHere: false
            }
        linkLost("\(address): \(reason)", isRefused: isRefused)
    }

    private func linkLost(_ message: String, isRefused: Bool) {
        for id in pending.keys.sorted() {
            if isRefused, round.untried.isEmpty {
                // A peer that will not have us will not soon change its mind: say so at once.
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
        attemptFailed(message)
    }

    private func attemptFailed(_ message: String, nobodyListens: Bool = false) {
        if case .closed = state { return }
        round.failures.append(message)
        if !nobodyListens { round.areAllRefused = false }
        lastFailure = round.failures.joined(separator: "; ")
        if pending.isEmpty { change(.idle) } else { connectToNext() }
    }

    private func pauseBetweenRounds() {
        if round.areAllRefused {
            for id in pending.keys.sorted() where pending[id]?.endsWhenRefused == true {
                complete(id, .failure(.unreachable(lastFailure)))
            }
        }
        if case .closed = state { return }
        guard !pending.isEmpty else { return change(.idle) }
        let share = 0.5 + 0.5 * Double(environment.random() >> 11) / Double(UInt64(1) << 53)
        let delay = pause * share
        pause = min(pause * 2, Self.pauseMax)
        change(.waiting(lastFailure))
        retryTimer = environment.after(delay) { [weak self] in
            guard let self, case .waiting = self.state else { return }
            self.retryTimer = nil
            if self.pending.isEmpty { self.change(.idle) } else { self.beginRound() }
        }
    }
}
