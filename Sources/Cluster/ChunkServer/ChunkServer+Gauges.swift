import BlockTypes
import CurveWire
import Raft

extension ChunkServer {
    /// What waits here and in the rooms below, against ``ChunkServerLimits`` and theirs.
    package func readGauges(_ read: GaugeReader) {
        guard phase == .serving else { return }
        store.readGauges(read)
        read("connections", sessions.count, limits.connectionsMax)
        read("reads for peers", peerReadsInFlight, limits.peerReadsInFlightMax)
        var (pulling, gated, unapplied, amendments) = (0, 0, 0, 0)
        for id in copysetOrder {
            guard let replica = replicas[id] else { continue }
            if replica.raft.role == .leader { replica.raft.readGauges(read) }
            if replica.sync?.outstanding != nil { pulling += 1 }
            unapplied = max(unapplied, replica.pendingOrder.count - replica.pendingHead)
            amendments = max(amendments, replica.amendments.count)
            gated = replica.amendments.reduce(gated) { max($0, $1.waiting.count) }
            gated = replica.gates.values.reduce(gated) { max($0, $1.count) }
        }
        read("pulls of full copies", pulling, limits.syncsMax)
        read("amendments of a copyset", amendments, limits.amendmentsMax)
        read("requests behind a fence", gated, limits.requestsBehindFenceMax)
        read("changes of a copyset not applied", unapplied, RaftReplica.Settings().inFlightEntriesMax + 1)
        readConnections(read)
    }
    /// The fullest of each kind: connections have no order here.
    private func readConnections(_ read: GaugeReader) {
        let answersMax = WireLimits.readBlocksMax * Geometry.blockBytes + WireLimits.bodyBytesMax
        let frameMax = WireLimits.longBodyBytesMax + WireLimits.payloadBytesMax
        var (requests, bytes, answers, toPeer) = (0, 0, 0, 0)
        for session in sessions.values {
            requests = max(requests, session.requestsInFlight)
            bytes = max(bytes, session.bytesInFlight)
            if session.hello?.role == .chunkserver {
                toPeer = max(toPeer, session.link.queuedSendBytes)
            } else {
                answers = max(answers, session.link.queuedSendBytes)
            }
        }
        for peer in peers.values { toPeer = max(toPeer, peer.queuedSendBytes) }
        read("requests of a client", requests, limits.clientRequestsInFlightMax)
        let largest = max(WireLimits.requestPayloadBytesMax, WireLimits.amendPayloadBytesMax)
        read("bytes of a client", bytes, limits.clientBytesInFlightMax + largest)
        read(
            "bytes of answers to a client", answers,
            limits.clientBytesInFlightMax + limits.clientRequestsInFlightMax * answersMax)
        read(
            "bytes queued for a peer", toPeer,
            limits.peerQueueBytesMax + frameMax + limits.peerReadsInFlightMax * WireLimits.payloadBytesMax)
    }
}
