import BlockTypes
import ChunkStore
import CurveWire
import Environment
import FramedLink
import Raft

/// Connections: accepted ones, own ones to peers, and what is said on them.
extension ChunkServer {
    func openListener() {
        guard let address = SocketAddress(options.listen) else {
            return fail(.listen("'\(options.listen)' is not an address; write host:port or unix:/path"))
        }
        do {
            listener = try environment.listen(on: address) { [weak self] connection in
                self?.accept(connection)
            }
        } catch {
            fail(.listen("cannot listen: \(error)"))
        }
    }

    private var hello: Hello {
        Hello(
            role: .chunkserver, cluster: store.identity.cluster, server: store.identity.server,
            incarnation: store.identity.incarnation)
    }

    private func accept(_ connection: any Connection) {
        guard phase == .serving else {
            return FramedLink.refuse(connection, reason: "this chunkserver is not serving yet; try again")
        }
        guard sessions.count < limits.connectionsMax else {
            return FramedLink.refuse(
                connection, reason: "this chunkserver has \(sessions.count) connections; try later")
        }
        let peerName = connection.peer
        let link = FramedLink(connection: connection, environment: environment, pool: pool, mine: hello) {
            [weak self] hello in self?.refusal(of: hello)
        }
        let session = ClientSession(link: link, name: peerName, number: newNumber())
        let key = ObjectIdentifier(session)
        sessions[key] = session
        // The link belongs to the session: its callbacks may not hold the session in turn.
        link.onReady = { [weak self, weak session] hello in
            guard let session else { return }
            session.hello = hello
            guard let self, hello.role == .chunkserver, let server = hello.server else { return }
            peerSessions[server] = session
            noteIncarnation(hello)
        }
        link.onFrame = { [weak self, weak session] frame in
            guard let self, let session else { return }
            received(frame, from: session)
            pump()
        }
        link.onDrained = { [weak session, limits] in session?.drained(limits: limits) }
        link.onClosed = { [weak self, weak session] reason in
            guard let session else { return }
            session.isOpen = false
            guard let self else { return }
            sessions[key] = nil
            if let server = session.hello?.server, peerSessions[server] === session {
                peerSessions[server] = nil
            }
            environment.log(.debug, "connection of \(peerName) ended: \(reason)")
        }
    }

    /// Why a peer or client may not talk to this server; nil when it may.
    private func refusal(of hello: Hello) -> String? {
        if let cluster = hello.cluster, cluster != store.identity.cluster {
            return "this chunkserver belongs to cluster \(store.identity.cluster), not \(cluster)"
        }
        guard hello.role == .chunkserver else { return nil }
        guard let server = hello.server, let incarnation = hello.incarnation, server != store.identity.server
        else {
            return "a chunkserver must name itself, and not as \(store.identity.server)"
        }
        if let known = registration.incarnations[server], incarnation < known {
            return "chunkserver \(server) has been started anew since (incarnation \(known) is newer than "
                + "\(incarnation)); this process must stop"
        }
        return nil
    }

    /// Why whoever answers at `server`'s address may not be taken for it; nil when it is the one.
    ///
    /// Stores move between machines: what another member says must never count as this one's word.
    private func refusal(of hello: Hello, expected server: ServerID) -> String? {
        let isExpected = hello.server == server || isPlanted(.addressBelieved)
        guard hello.role == .chunkserver, isExpected else {
            let found = hello.server.map { "chunkserver \($0)" } ?? "no chunkserver"
            return "chunkserver \(server) was expected here, this is \(found)"
        }
        return refusal(of: hello)
    }

    /// A newer incarnation is proof that the older process is gone.
    func noteIncarnation(_ hello: Hello) {
        guard let server = hello.server, let incarnation = hello.incarnation else { return }
        guard let known = registration.incarnations[server] else {
            registration.incarnations[server] = incarnation
            return
        }
        guard incarnation > known else { return }
        registration.incarnations[server] = incarnation
        peers[server]?.isProcess(incarnation)
        tellReplicas(of: server, .disconnected(server, provenDead: true))
    }

    private func tellReplicas(of server: ServerID, _ event: RaftReplica.Event) {
        for id in copysetOrder {
            if let replica = replicas[id], replica.members.contains(server) { post(event, to: replica) }
        }
        pump()
    }

    func ensurePeer(_ server: ServerID) {
        guard peers[server] == nil else { return }
        let peer = PeerLink(server: server, environment: environment, limits: limits) {
            [weak self, environment, pool, hello] connection in
            FramedLink(connection: connection, environment: environment, pool: pool, mine: hello) {
                self?.refusal(of: $0, expected: server)
            }
        }
        peer.greeted = { [weak self] hello in
            guard let self else { return }
            rooms.expectWord(from: server, at: environment.now)
            noteIncarnation(hello)
            pump()
        }
        peer.received = { [weak self] frame in
            self?.received(frame, fromPeer: server)
            self?.pump()
        }
        peer.lost = { [weak self] refusedSince in
            guard let self else { return }
            rooms.lost(server)
            if let refusedSince, options.refusalProvesDeath, registration.knowsAddress(of: server) {
                tellReplicas(of: server, .died(server, asOf: refusedSince))
            } else {
                tellReplicas(of: server, .disconnected(server, provenDead: refusedSince != nil))
            }
        }
        peers[server] = peer
        if let addresses = registration.addresses[server] { peer.update(addresses) }
    }

    // MARK: - Out

    func send(_ message: ReplicaMessage, of copyset: CopysetID, to server: ServerID) {
        switch message {
        case .heartbeat(let beat): beats.beats[server, default: []].append((copyset, beat))
        case .heartbeatReply(let reply): beats.replies[server, default: []].append((copyset, reply))
        default: sendFrame(.replica(copyset, message), to: server)
        }
    }

    /// Sends on the own connection, or on the peer's when only that one stands. May drop: Raft repeats.
    @discardableResult func sendFrame(_ frame: Frame, to server: ServerID) -> Bool {
        if peers[server]?.send(frame) == true { return true }
        guard let session = peerSessions[server], session.isOpen,
            session.link.queuedSendBytes < limits.peerQueueBytesMax
        else { return false }
        session.link.send(frame)
        return true
    }

    /// One frame per peer carries the heartbeats of all copysets.
    func flushBeats() {
        guard !beats.isEmpty else { return }
        let basket = beats
        beats = BeatBasket()
        let share = shareOfRoom()
        rooms.heardFromSelf(store.identity.server, shareBlocks: share, at: environment.now)
        for server in basket.beats.keys.sorted() {
            if let list = basket.beats[server] { sendFrame(.beats(list), to: server) }
        }
        for server in basket.replies.keys.sorted() {
            if let list = basket.replies[server] {
                sendFrame(.beatReplies(shareBlocks: share, list), to: server)
            }
        }
    }

    // MARK: - In

    private func received(_ frame: Frame, from session: ClientSession) {
        if session.hello?.role == .chunkserver, let server = session.hello?.server {
            return received(frame, fromPeer: server, session: session)
        }
        guard case .request(let id, let request) = frame else {
            environment.log(.warning, "\(session.name): a client may only send requests; closed")
            return session.link.close()
        }
        handle(request, requestID: id, from: session)
    }

    private func received(_ frame: Frame, fromPeer server: ServerID, session: ClientSession? = nil) {
        switch frame {
        case .replica(let id, let message): deliver(message, of: id, from: server, session: session)
        case .beats(let list):
            beatsHeardAt[server] = environment.now
            for (id, beat) in list { deliver(.heartbeat(beat), of: id, from: server, session: session) }
        case .beatReplies(let shareBlocks, let list):
            noteRoom(of: server, shareBlocks, list)
            for (id, reply) in list {
                deliver(.heartbeatReply(reply), of: id, from: server, session: session)
            }
        case .syncOffer(let id, let term, let base, let blocks, let volumes):
            guard let replica = replicas[id] else { return }
            replica.offered = (base, Int(clamping: blocks), volumes)
            deliver(.syncOffer(term: term, base: base), of: id, from: server, session: session)
        case .syncPull(let requestID, let id, let term, let cursor, let minApplied):
            if let session { answerPull(session, requestID, id, term, cursor, minApplied) }
        case .syncPiece(let requestID, let piece): pieceArrived(requestID, piece)
        case .syncRefused(let requestID): pullRefused(requestID)
        case .fetch(let requestID, let id, let run):
            if let session { startFetch(session, requestID, id, run) }
        case .fetched(let requestID, _, let answer): fetchAnswered(requestID, answer)
        case .request, .reply, .hello, .helloRefused, .control, .controlReply:
            environment.log(.warning, "chunkserver \(server) sent a frame that peers do not send; ignored")
        }
    }

    private func deliver(
        _ message: ReplicaMessage, of id: CopysetID, from server: ServerID, session: ClientSession?
    ) {
        guard let replica = replicas[id], replica.members.contains(server) else { return }
        guard case .append(let append) = message, !append.entries.isEmpty else {
            return post(.received(from: server, message), to: replica)
        }
        guard append.entries.allSatisfy({ Self.isIntact($0) }) else {
            environment.log(.warning, "copyset \(id): entries from chunkserver \(server) arrived damaged")
            session?.link.close()
            return
        }
        // A follower without room takes what fits and stays a follower: a slow replica, not a broken one.
        let count = store.appendableCount(of: append.entries, to: id)
        guard count < append.entries.count else { return post(.received(from: server, message), to: replica) }
        let addable = LogIndex(append.previous.index.rawValue + UInt64(count))
        post(.receivedTooMuch(from: server, append, addable: addable), to: replica)
    }

    /// A block that was damaged on the way must not reach the disk under its old checksum.
    private static func isIntact(_ entry: LogEntry) -> Bool {
        guard case .write(_, _, _, let checksums, let payload) = entry.operation else { return true }
        return CRC32C.perBlock(of: payload) == checksums
    }
}
