import BlockTypes
import Environment

/// One direction of a connection: bytes in order, with places in the stream counted from its start.
///
/// `consumed <= arrived <= taken <= appended`: what the receiver has had, what lies in its machine, what the
/// sender's machine has taken, and what the sender has queued.
final class SimPipe {
    /// A burst on its way; everything before `end` arrives with it.
    private struct Burst {
        var end: Int
        let sentNanoseconds: Int64
        let dueNanoseconds: Int64
        /// Set when the connection breaks there.
        var resetAt: Int?
    }
    private let world: SimWorld
    /// Forgotten by ``cut()``, which breaks the circle of references between ends and pipes.
    private var sender: SimConnection?
    private var receiver: SimConnection?
    private let from: SimMachine
    private let to: SimMachine

    private var pieces = Fifo<SendPiece>()
    private var headOffset = 0
    private var bursts = Fifo<Burst>()
    private var flips: [(place: Int, mask: UInt8)] = []
    private(set) var appended = 0
    private(set) var taken = 0
    private(set) var arrived = 0
    private(set) var consumed = 0
    /// Where the sender ended the stream.
    private var endsAt: Int?
    private var lineFreeNanoseconds: Int64 = 0
    private var blockedSinceNanoseconds: Int64?
    private var retryNanoseconds: Int64 = SimPipe.retryNanosecondsMin
    private var isWindowUpdateComing = false
    private var endIsOnItsWay = false
    /// Set when neither end cares any more.
    private var isCut = false

    /// First and longest wait before a burst that got no answer is sent again.
    private static let retryNanosecondsMin: Int64 = 200_000_000
    private static let retryNanosecondsMax: Int64 = 2_000_000_000
    private static let timedOutErrno: Int32 = 110

    init(_ sender: SimConnection, _ receiver: SimConnection) {
        (self.sender, self.receiver) = (sender, receiver)
        (world, from, to) = (sender.host.world, sender.host.machine, receiver.host.machine)
    }

    static func latency(from: SimMachine, to: SimMachine, _ world: SimWorld) -> Int64 {
        let pace = world.networkPace
        if from === to { return 5_000 + world.nanoseconds(upTo: 10_000) }
        var delay = pace.latencyMin + world.nanoseconds(upTo: pace.latencyJitter)
        if world.chance(oneIn: world.faults.network.spikeOneIn) {
            delay += world.nanoseconds(upTo: pace.spikeMax)
        }
        return delay + (from.extraNanosecondsTo[to.number] ?? 0)
    }
    static func reaches(from: SimMachine, to: SimMachine) -> Bool {
        to.isUp && !from.blockedTo.contains(to.number)
    }

    var queuedByteCount: Int { appended - taken }
    var hasUnread: Bool { arrived > consumed }
    /// True once the receiver has had everything that was sent before the sender closed.
    var isAtEnd: Bool { endsAt == consumed && endHasArrived }
    private var endHasArrived = false
    var everythingTaken: Bool { taken == appended }

    // MARK: Sending

    func append(_ more: [SendPiece]) {
        for piece in more where piece.byteCount > 0 {
            world.wiretap?(ObjectIdentifier(self), from.name, to.name, piece)
            pieces.append(piece)
            appended += piece.byteCount
        }
        take()
    }
    /// No more will be appended; the receiver learns after the last byte.
    func end() {
        endsAt = appended
        sendEndIfDue()
    }
    /// What the sender's machine has not taken will never be sent.
    func dropQueued() { appended = taken }
    /// Nothing of this direction matters any more.
    func cut() {
        isCut = true
        (sender, receiver) = (nil, nil)
        pieces.removeAll()
        bursts.removeAll()
    }

    /// Moves queued bytes to the sender's machine as far as the window allows.
    private func take() {
        let room = world.faults.network.windowBytes - (taken - consumed)
        let count = min(room, appended - taken)
        guard count > 0, !isCut else { return }
        let now = world.nowNanoseconds
        taken += count
        if var last = bursts.last, last.sentNanoseconds == now, last.resetAt == nil {
            last.end = taken
            bursts.replaceLast(last)
        } else {
            send(count, now)
        }
        sender?.tookSome()
        sendEndIfDue()
    }
    private func send(_ count: Int, _ now: Int64) {
        let faults = world.faults.network
        let wire = Int64(count) * 1_000_000_000 / Int64(faults.bandwidthBytesPerSecond)
        lineFreeNanoseconds = max(lineFreeNanoseconds, now) + wire
        let previous = bursts.last?.dueNanoseconds ?? 0
        let due = max(previous, lineFreeNanoseconds + Self.latency(from: from, to: to, world))
        var burst = Burst(end: taken, sentNanoseconds: now, dueNanoseconds: due)
        // Nothing breaks or damages what never leaves a machine.
        let leavesMachine = from !== to
        if leavesMachine, world.chance(oneIn: faults.resetOneIn) {
            burst.resetAt = taken - Int.random(in: 0...count, using: &world.random)
        }
        if leavesMachine, world.chance(oneIn: faults.flippedBitOneIn) {
            let place = taken - Int.random(in: 1...count, using: &world.random)
            flips.append((place, 1 << UInt8.random(in: 0...7, using: &world.random)))
        }
        let isFirst = bursts.isEmpty
        bursts.append(burst)
        if isFirst { expectArrival(due) }
    }
    private func expectArrival(_ dueNanoseconds: Int64) {
        world.schedule(afterNanoseconds: dueNanoseconds - world.nowNanoseconds, owner: nil) { [self] in
            burstArrives()
        }
    }

    // MARK: Arriving

    private func burstArrives() {
        guard !isCut, let burst = bursts.first else { return }
        guard getsThrough() else { return }
        bursts.removeFirst()
        if let next = bursts.first { expectArrival(next.dueNanoseconds) }
        guard receiver?.takesBytes == true else {
            // Nobody is there any more: the machine answers with a reset.
            return resetSender()
        }
        arrived = max(arrived, burst.resetAt ?? burst.end)
        world.mix(UInt64(arrived))
        receiver?.readable()
        if burst.resetAt != nil { breakOff() }
    }
    /// Reschedules the arrival when the way is blocked, and gives up when that lasts.
    private func getsThrough() -> Bool {
        // Where nobody is any more, the answer is a reset; while that gets lost, the sender repeats itself.
        let isAnswered = receiver?.takesBytes == true || Self.reaches(from: to, to: from)
        if isAnswered, Self.reaches(from: from, to: to) {
            blockedSinceNanoseconds = nil
            retryNanoseconds = Self.retryNanosecondsMin
            return true
        }
        // A machine that lost power does not repeat what was lost on the way.
        guard sender?.hasVanished == false else { return false }
        let now = world.nowNanoseconds
        let since = blockedSinceNanoseconds ?? now
        blockedSinceNanoseconds = since
        if now - since > world.faults.network.unansweredMax.wholeNanoseconds {
            sender?.learns(.system(nil, errno: Self.timedOutErrno, call: "send"), afterNanoseconds: 0)
            return false
        }
        expectArrival(now + retryNanoseconds)
        retryNanoseconds = min(2 * retryNanoseconds, Self.retryNanosecondsMax)
        return false
    }
    /// Tells the sender that nobody will read any more.
    func resetSender() {
        let back = Self.latency(from: to, to: from, world)
        if Self.reaches(from: to, to: from) { sender?.learns(.reset, afterNanoseconds: back) }
    }
    private func breakOff() {
        world.note { "network: \(from.name) -> \(to.name) reset" }
        receiver?.learns(.reset, afterNanoseconds: 0)
        sender?.learns(.reset, afterNanoseconds: Self.latency(from: to, to: from, world))
    }
    private func sendEndIfDue() {
        guard let endsAt, taken == endsAt, !endIsOnItsWay, !isCut else { return }
        endIsOnItsWay = true
        let latency = Self.latency(from: from, to: to, world)
        let due = max(bursts.last?.dueNanoseconds ?? 0, world.nowNanoseconds + latency)
        world.schedule(afterNanoseconds: due - world.nowNanoseconds, owner: nil) { [self] in endArrives() }
    }
    private func endArrives() {
        guard !isCut else { return }
        guard bursts.isEmpty, Self.reaches(from: from, to: to) else {
            // A lost end is repeated for a while; then the receiver never learns.
            blockedSinceNanoseconds = blockedSinceNanoseconds ?? world.nowNanoseconds
            let waited = world.nowNanoseconds - (blockedSinceNanoseconds ?? 0)
            guard waited <= world.faults.network.unansweredMax.wholeNanoseconds else { return }
            world.schedule(afterNanoseconds: Self.retryNanosecondsMin, owner: nil) { [self] in endArrives() }
            return
        }
        endHasArrived = true
        receiver?.readable()
    }

    // MARK: Receiving

    /// Moves the next bytes into `target`.
    /// - Returns: how many.
    func read(into target: UnsafeMutableRawBufferPointer) -> Int {
        let wanted = min(target.count, arrived - consumed)
        var done = 0
        while done < wanted, let piece = pieces.first {
            let count = min(wanted - done, piece.byteCount - headOffset)
            unsafe copy(piece, count, to: UnsafeMutableRawBufferPointer(rebasing: target[done...]))
            done += count
            headOffset += count
            if headOffset == piece.byteCount {
                pieces.removeFirst()
                headOffset = 0
            }
        }
        if !flips.isEmpty { unsafe damage(UnsafeMutableRawBufferPointer(rebasing: target[..<done])) }
        consumed += done
        world.deliveredByteCount += UInt64(done)
        if appended > taken { expectWindowUpdate() }
        return done
    }
    private func copy(_ piece: SendPiece, _ count: Int, to target: UnsafeMutableRawBufferPointer) {
        let range = headOffset..<(headOffset + count)
        switch piece {
        case .bytes(let bytes):
            unsafe bytes.withUnsafeBytes {
                unsafe target.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[range]))
            }
        case .payload(let payload):
            unsafe payload.withBytes {
                unsafe target.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[range]))
            }
        }
    }
    /// Flips the bits that the way has flipped in what is read now.
    private func damage(_ target: UnsafeMutableRawBufferPointer) {
        flips.removeAll { flip in
            guard flip.place < consumed + target.count else { return false }
            if flip.place >= consumed { unsafe target[flip.place - consumed] ^= flip.mask }
            return true
        }
    }
    private func expectWindowUpdate() {
        guard !isWindowUpdateComing else { return }
        isWindowUpdateComing = true
        let back = Self.latency(from: to, to: from, world)
        world.schedule(afterNanoseconds: back, owner: nil) { [self] in
            isWindowUpdateComing = false
            take()
        }
    }
}
