import BlockTypes

/// What a leader knows of one follower.
///
/// probe: one message at a time until the follower says where it stands; stream: as many as the window
/// allows. probe -> stream at a match, stream -> probe at a refusal, a silence or a lost connection.
struct Progress: Sendable {
    enum Mode: Hashable, Sendable { case probe, stream }
    /// A full copy. none -> wanted -> asked (the shell prepares an offer) -> offered -> running -> none.
    enum Copy: Hashable, Sendable {
        case none
        case wanted
        case asked(at: Duration)
        case offered(base: LogPosition, at: Duration)
        case running(base: LogPosition, offeredAt: Duration, since: Duration)

        var base: LogPosition? {
            switch self {
            case .none, .wanted, .asked: nil
            case .offered(let base, _), .running(let base, _, _): base
            }
        }
    }

    private struct Message: Sendable {
        let last: LogIndex
        let bytes: Int
    }

    let server: ServerID
    var mode = Mode.probe
    var copy = Copy.none
    /// Durable there and part of this leader's log. While it copies: the base of the copy, and what followed.
    var durable = LogIndex(0)
    /// Arrived there; after a crash of the follower it may be less than it was.
    var received = LogIndex(0)
    /// The next entry to send.
    var next: LogIndex
    /// Set while the shell reads entries from the store for it.
    var loadingFrom: LogIndex?
    /// When the newest of this leader's messages that it has answered was sent.
    var echo: Duration?
    /// When `received` or `durable` last moved, or a probe began to find out why not.
    var progressAt: Duration
    /// When it was last asked where it stands. What it says of messages before that is old news.
    var probedAt: Duration
    /// How far the next refusal without a better hint steps back.
    var stepBack: UInt64 = 1
    /// Messages that may be in flight. Small after a fault, so that a follower that cannot store for a while
    /// is not sent a whole window again and again.
    private(set) var allowance = 1
    /// What was sent and is not durable there, as far as it is known.
    private var inFlight = Fifo<Message>()
    private(set) var inFlightBytes = 0
    /// Messages sent and not durable there.
    var inFlightCount: Int { inFlight.count }

    init(server: ServerID, next: LogIndex, now: Duration) {
        (self.server, self.next, progressAt, probedAt) = (server, next, now, now)
    }

    /// True when its durable entries count for commit.
    var counts: Bool { copy.base == nil }

    func mayBeSent(_ settings: RaftReplica.Settings) -> Bool {
        inFlight.count < min(allowance, settings.inFlightMessagesMax)
            && inFlightBytes < settings.inFlightBytesMax
            && next.rawValue < durable.rawValue + 1 + UInt64(settings.inFlightEntriesMax)
    }

    mutating func sent(through last: LogIndex, bytes: Int) {
        next = last.next
        inFlight.append(Message(last: last, bytes: bytes))
        inFlightBytes += bytes
    }

    /// What the follower says it has.
    mutating func has(received newReceived: LogIndex, durable newDurable: LogIndex, now: Duration) {
        guard newReceived > received || newDurable > durable else { return }
        received = max(received, newReceived, newDurable)
        durable = max(durable, newDurable)
        next = max(next, received.next)
        progressAt = now
        allowance = min(allowance * 4, 1 << 16)
        while let message = inFlight.first, message.last <= durable {
            inFlight.popFirst()
            inFlightBytes -= message.bytes
        }
    }

    /// Nothing is believed to be on its way any more; the next message asks where the follower stands.
    mutating func restart(at next: LogIndex) {
        self.next = next
        received = min(received, LogIndex(next.rawValue - 1))
        (mode, inFlightBytes, allowance) = (.probe, 0, 1)
        inFlight.removeAll()
    }

    /// From now on only a copy from `base` on is of interest.
    mutating func offered(_ base: LogPosition, now: Duration) {
        (copy, durable, progressAt) = (.offered(base: base, at: now), base.index, now)
        restart(at: base.index.next)
        received = base.index
    }
}
