import BlockTypes
import CurveWire
import Environment
import FramedLink

/// One accepted connection: a client, a tool or a peer.
final class ClientSession {
    let link: FramedLink
    let name: String
    /// In the order in which connections came.
    let number: UInt64
    var hello: Hello?
    var isOpen = true
    private(set) var requestsInFlight = 0
    private(set) var bytesInFlight = 0
    private var isPaused = false

    init(link: FramedLink, name: String, number: UInt64) {
        (self.link, self.name, self.number) = (link, name, number)
    }

    /// Counts a request; stops reading the socket when too much is under way, so that the client feels it.
    func began(_ responder: Responder, limits: ChunkServerLimits) {
        requestsInFlight += 1
        bytesInFlight += responder.bytesHeld
        guard !isPaused, isOpen, !isPlanted(.readingUnpaused) else { return }
        if requestsInFlight >= limits.clientRequestsInFlightMax
            || bytesInFlight >= limits.clientBytesInFlightMax
            || link.queuedSendBytes >= limits.clientBytesInFlightMax
        {
            isPaused = true
            link.pauseReceiving()
        }
    }
    /// Counts an answer, and reads on when there is room.
    func finished(_ responder: Responder, limits: ChunkServerLimits) {
        requestsInFlight -= 1
        bytesInFlight -= responder.bytesHeld
        resumeIfRoom(limits: limits)
    }
    /// The client has read answers that were queued for it.
    func drained(limits: ChunkServerLimits) { resumeIfRoom(limits: limits) }

    private func resumeIfRoom(limits: ChunkServerLimits) {
        guard isPaused, isOpen else { return }
        if requestsInFlight < limits.clientRequestsInFlightMax / 2,
            bytesInFlight < limits.clientBytesInFlightMax / 2,
            link.queuedSendBytes < limits.clientBytesInFlightMax / 2
        {
            isPaused = false
            link.resumeReceiving()
        }
    }
}
