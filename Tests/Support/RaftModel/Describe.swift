import BlockTypes
import CurveWire
import Raft

/// Short forms for traces.
package func describe(_ message: ReplicaMessage) -> String {
    switch message {
    case .append(let body):
        "append t\(body.term) after \(body.previous) n=\(body.entries.count) commit \(body.commit) "
            + "sent \(body.sentAt / 1000)"
    case .appendReply(let body):
        "appendReply t\(body.term) \(body.rejected ? "REJECTED " : "")\(body.syncing ? "SYNCING " : "")"
            + "durable \(body.durable) received \(body.received) echo \(body.echo / 1000)"
    case .heartbeat(let body): "heartbeat t\(body.term) commit \(body.commit)"
    case .heartbeatReply(let body):
        "heartbeatReply t\(body.term) \(body.syncing ? "SYNCING " : "")durable \(body.durable)"
    case .voteRequest(let body):
        "\(body.isPreVote ? "pre-" : "")voteRequest t\(body.term)\(body.isTransfer ? " transfer" : "") \(body.last)"
    case .voteReply(let body): "\(body.isPreVote ? "pre-" : "")voteReply t\(body.term) \(body.granted)"
    case .timeoutNow(let term): "timeoutNow t\(term)"
    case .syncOffer(let term, let base): "syncOffer t\(term) \(base)"
    }
}
package func describe(_ event: RaftReplica.Event) -> String {
    switch event {
    case .received(let from, let message): "from \(from): \(describe(message))"
    case .propose(let token, _): "propose \(token.rawValue)"
    case .entriesLoaded(let peer, let from, let entries): "loaded for \(peer) from \(from): \(entries.count)"
    default: "\(event)"
    }
}
package func describe(_ effect: RaftReplica.Effect) -> String {
    switch effect {
    case .send(let to, let message): "to \(to): \(describe(message))"
    case .append(let entries): "append \(entries.map { "\($0.position)" }.joined(separator: " "))"
    default: "\(effect)"
    }
}
