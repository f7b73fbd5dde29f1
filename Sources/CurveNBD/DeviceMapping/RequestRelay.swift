import BlockTypes

/// Bytes that wait to be sent, in order.
struct ByteQueue {
    private var pieces: [[UInt8]] = []
    private var first = 0
    private var sentOfFirst = 0
    private(set) var byteCount = 0
    /// Small pieces are packed up to here, so that many leave in one call; larger ones are not copied.
    private static let packedBytesMax = 64 << 10
    private static let smallBytesMax = 8 << 10

    var isEmpty: Bool { byteCount == 0 }

    mutating func push(_ piece: [UInt8]) {
        byteCount += piece.count
        if piece.count <= Self.smallBytesMax, let last = pieces.last, pieces.count > first,
            last.count + piece.count <= Self.packedBytesMax
        {
            pieces[pieces.count - 1] += piece
        } else {
            pieces.append(piece)
        }
    }
    /// What is to be sent next; empty when nothing waits.
    var next: ArraySlice<UInt8> { first < pieces.count ? pieces[first][sentOfFirst...] : [] }

    /// The first `count` bytes of ``next`` were sent.
    mutating func sent(_ count: Int) {
        byteCount -= count
        sentOfFirst += count
        guard sentOfFirst == pieces[first].count else { return }
        pieces[first] = []
        (first, sentOfFirst) = (first + 1, 0)
        if first == pieces.count { (pieces, first) = ([], 0) }
    }
    mutating func clear() { self = ByteQueue() }
}

/// One connection of a device, between the kernel and a server that may die: a request is kept until its
/// answer is complete, so that the next server gets what the last one left unanswered.
///
/// Bytes in, bytes out. Requests go to the server and answers to the kernel as a whole: a server that dies in
/// the middle of an answer leaves nothing of it in the kernel's stream. Wire forms: NBD `proto.md`, "Request
/// message" and "Simple reply message"; the kernel speaks nothing else.
struct RequestRelay {
    /// One side said what it may not say.
    enum Violation: Error, Hashable {
        case kernel(String)
        case server(String)
    }
    private struct Request {
        var handle: UInt64
        /// Bytes that follow a good answer.
        var dataBytes: Int
        var bytes: [UInt8]
    }
    private static let requestBytes = 28, replyBytes = 16
    private static let requestMagic: UInt64 = 0x2560_9513, replyMagic: UInt64 = 0x6744_6698
    private static let (readCommand, writeCommand, disconnectCommand): (UInt64, UInt64, UInt64) = (0, 1, 2)
    /// More than the kernel puts into one request.
    static let lengthMax = 64 << 20
    /// What is held for one connection, answers included; more waits in the kernel's socket. One request more
    /// may be under way.
    static let heldBytesMax = 64 << 20
    static let requestsMax = 1024
    /// Answers that the kernel has not taken.
    static let answersBytesMax = 4 << 20

    /// In the order in which the kernel sent them.
    private var unanswered: [Request] = []
    private var heldBytes = 0
    private var incoming: [UInt8] = []
    private var incomingWanted = RequestRelay.requestBytes
    private var answer: [UInt8] = []
    private var answerWanted = RequestRelay.replyBytes
    private var hasServer = false
    private var failsRequests = false
    /// EIO.
    private static let ioError: UInt8 = 5

    /// The kernel said goodbye.
    private(set) var isLeaving = false
    /// To be sent to the server, and to the kernel.
    var toServer = ByteQueue(), toKernel = ByteQueue()

    var unansweredCount: Int { unanswered.count }
    var wantsRequests: Bool { heldBytes < Self.heldBytesMax && unanswered.count < Self.requestsMax }
    var wantsAnswers: Bool { toKernel.byteCount < Self.answersBytesMax }

    /// The kernel sent something.
    mutating func requests(_ bytes: ArraySlice<UInt8>) throws(Violation) {
        var rest = bytes
        while !rest.isEmpty {
            let taken = rest.prefix(incomingWanted - incoming.count)
            incoming += taken
            rest = rest.dropFirst(taken.count)
            guard incoming.count == incomingWanted else { return }
            if incomingWanted == Self.requestBytes {
                let payload = try payloadBytes()
                if payload > 0 {
                    incomingWanted += payload
                    incoming.reserveCapacity(incomingWanted)
                    continue
                }
            }
            keep()
        }
    }
    private func payloadBytes() throws(Violation) -> Int {
        let (command, length) = (incoming.number(at: 6, bytes: 2), Int(incoming.number(at: 24, bytes: 4)))
        // Others, a discard say, may be about any length: nothing is held for it.
        let isTooLong =
            length > Self.lengthMax && (command == Self.readCommand || command == Self.writeCommand)
        guard incoming.number(at: 0, bytes: 4) == Self.requestMagic, !isTooLong else {
            throw .kernel("a request without its magic number, or of \(length) bytes")
        }
        return command == Self.writeCommand ? length : 0
    }
    private mutating func keep() {
        let command = incoming.number(at: 6, bytes: 2)
        let request = Request(
            handle: incoming.number(at: 8, bytes: 8),
            dataBytes: command == Self.readCommand ? Int(incoming.number(at: 24, bytes: 4)) : 0,
            bytes: incoming)
        (incoming, incomingWanted) = ([], Self.requestBytes)
        if hasServer { toServer.push(request.bytes) }
        // It has no answer.
        guard command != Self.disconnectCommand else {
            isLeaving = true
            return
        }
        guard !failsRequests else { return fail(request) }
        heldBytes += request.bytes.count + request.dataBytes
        unanswered.append(request)
    }
    /// No server has come in time: what waits fails, and what comes, until there is one.
    mutating func giveUp() {
        invariant(!hasServer, "there is somebody who may answer")
        failsRequests = true
        for request in unanswered { fail(request) }
        (unanswered, heldBytes) = ([], 0)
    }
    private mutating func fail(_ request: Request) {
        let head = [0x67, 0x44, 0x66, 0x98, 0, 0, 0, Self.ioError] as [UInt8]
        toKernel.push(head + request.bytes[8..<16])
    }

    /// The server sent something.
    mutating func answers(_ bytes: ArraySlice<UInt8>) throws(Violation) {
        var rest = bytes
        while !rest.isEmpty {
            let taken = rest.prefix(answerWanted - answer.count)
            answer += taken
            rest = rest.dropFirst(taken.count)
            guard answer.count == answerWanted else { return }
            let handle = answer.number(at: 8, bytes: 8)
            guard answer.number(at: 0, bytes: 4) == Self.replyMagic,
                let place = unanswered.firstIndex(where: { $0.handle == handle })
            else { throw .server("an answer to a request that was not made") }
            let data = answer.number(at: 4, bytes: 4) == 0 ? unanswered[place].dataBytes : 0
            guard answer.count == Self.replyBytes + data else {
                answerWanted = Self.replyBytes + data
                answer.reserveCapacity(answerWanted)
                continue
            }
            let request = unanswered.remove(at: place)
            heldBytes -= request.bytes.count + request.dataBytes
            toKernel.push(answer)
            (answer, answerWanted) = ([], Self.replyBytes)
        }
    }
    /// There is no server now; what it has not answered is kept.
    mutating func serverLost() {
        (hasServer, answer, answerWanted) = (false, [], Self.replyBytes)
        toServer.clear()
    }
    /// There is a server, which knows nothing yet.
    mutating func serverCame() {
        serverLost()
        (hasServer, failsRequests) = (true, false)
        for request in unanswered { toServer.push(request.bytes) }
    }
}
