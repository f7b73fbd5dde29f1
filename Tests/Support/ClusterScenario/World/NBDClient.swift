import BlockTypes
import Environment

/// How one NBD request ended.
enum NBDOutcome {
    case bytes(Payload), done, failed(UInt32)
    /// The connection went first: nobody knows.
    case lost
}

/// A small NBD client of our own: fixed newstyle, GO, structured replies, many requests in flight.
///
/// It shares no code with the server that it talks to.
final class NBDClient: ConnectionHandler {
    enum Command: UInt16 { case read = 0, write, disconnect, flush, trim, zeroes = 6 }
    private enum Phase { case greeting, structured, going, serving, over }
    private struct Pending {
        let command: Command
        let offset: UInt64
        let buffer: BlockBuffer?
        let byteCount: Int
        var filled = 0
        var error: UInt32?
        let completed: (NBDOutcome) -> Void
    }
    private let link: any Connection
    private var phase = Phase.greeting
    private var bytes: [UInt8] = []
    private var head = 0
    private var pending: [UInt64: Pending] = [:]  // Sorted where the order can be seen.
    private var lastCookie: UInt64 = 0
    private(set) var size: UInt64 = 0
    var isServing: Bool { if case .serving = phase { true } else { false } }
    /// Called once when requests may be made.
    var ready: (() -> Void)?
    /// Called once at the end of the connection.
    var ended: (() -> Void)?
    /// What the server did that the protocol does not allow.
    private(set) var violation: String?

    private static let optionMagic: UInt64 = 0x4948_4156_454f_5054

    init(_ link: any Connection) {
        self.link = link
        link.handler = self
    }

    // MARK: Requests

    func ask(
        _ command: Command, flags: UInt16 = 0, offset: UInt64, byteCount: Int, payloads: [Payload] = [],
        completed: @escaping (NBDOutcome) -> Void
    ) {
        guard isServing else { return completed(.lost) }
        lastCookie += 1
        pending[lastCookie] = Pending(
            command: command, offset: offset,
            buffer: command == .read ? BlockBuffer(byteCount: byteCount) : nil, byteCount: byteCount,
            completed: completed)
        var head = Out()
        head.put(UInt32(0x2560_9513))
        head.put(flags)
        head.put(command.rawValue)
        head.put(lastCookie)
        head.put(offset)
        head.put(UInt32(byteCount))
        link.send([.bytes(head.bytes)] + payloads.map { .payload($0) })
    }
    /// Says goodbye, or just goes.
    func leave(politely: Bool) {
        if politely, isServing {
            ask(.disconnect, offset: 0, byteCount: 0) { _ in }
        }
        link.close()
    }

    // MARK: The connection

    func connectionReceiveWindow() -> UnsafeMutableRawBufferPointer? { nil }
    func connectionReceived(_ received: UnsafeRawBufferPointer) {
        bytes.append(contentsOf: received)
        while violation == nil, takeNext() {}
        if head > 1 << 16 || head == bytes.count {
            bytes.removeFirst(head)
            head = 0
        }
        if violation != nil { link.close() }
    }
    func connectionDrained() {}
    func connectionClosed(_ reason: NetworkError) {
        phase = .over
        let open = pending.keys.sorted().compactMap { pending[$0] }
        pending.removeAll()
        for request in open { request.completed(.lost) }
        ended?()
        (ended, ready) = (nil, nil)
    }
    private func broke(_ what: String) { violation = violation ?? what }

    /// - Returns: false when more bytes are needed.
    private func takeNext() -> Bool {
        switch phase {
        case .greeting:
            guard let greeting = peek(18) else { return false }
            guard greeting.number(0, 8) == 0x4e42_444d_4147_4943, greeting.number(8, 8) == Self.optionMagic
            else {
                broke("no NBD greeting")
                return false
            }
            head += 18
            var answer = Out()
            answer.put(UInt32(3))
            answer.put(option: 8, [])
            link.send([.bytes(answer.bytes)])
            phase = .structured
        case .structured, .going: return takeOptionReply()
        case .serving: return takeReply()
        case .over: return false
        }
        return true
    }
    private func takeOptionReply() -> Bool {
        guard let header = peek(20) else { return false }
        let (type, length) = (UInt32(header.number(12, 4)), Int(header.number(16, 4)))
        guard header.number(0, 8) == 0x0003_e889_0455_65a9, length <= 1 << 16 else {
            broke("an option reply of \(length) bytes")
            return false
        }
        guard let whole = peek(20 + length) else { return false }
        head += 20 + length
        switch (phase, type) {
        case (.structured, 1):
            var go = Out()
            go.put(option: 7, [0, 0, 0, 0, 0, 0])
            link.send([.bytes(go.bytes)])
            phase = .going
        case (.going, 3): if whole.number(20, 2) == 0 { size = whole.number(22, 8) }
        case (.going, 1):
            phase = .serving
            ready?()
            ready = nil
        default: broke("the server refuses with \(type)")
        }
        return true
    }
    private func takeReply() -> Bool {
        guard let magic = peek(4)?.number(0, 4) else { return false }
        if magic == 0x6744_6698 {
            guard let reply = peek(16) else { return false }
            head += 16
            let (error, cookie) = (UInt32(reply.number(4, 4)), reply.number(8, 8))
            if pending[cookie]?.command == .read { broke("a simple reply to a read") }
            finish(cookie, error: error == 0 ? nil : error)
            return true
        }
        guard magic == 0x668e_33ef else {
            broke("a reply with magic \(magic)")
            return false
        }
        guard let header = peek(20) else { return false }
        let length = Int(header.number(16, 4))
        guard let whole = peek(20 + length) else { return false }
        head += 20 + length
        take(chunk: whole, length, flags: UInt16(header.number(4, 2)), type: UInt16(header.number(6, 2)))
        return true
    }
    private func take(chunk: ArraySlice<UInt8>, _ length: Int, flags: UInt16, type: UInt16) {
        let cookie = chunk.number(8, 8)
        guard var request = pending[cookie] else { return broke("a chunk for nobody") }
        switch type {
        case 0: break
        case 1, 2:
            let at = Int(chunk.number(20, 8)) - Int(request.offset)
            let count = type == 1 ? length - 8 : Int(chunk.number(28, 4))
            guard let buffer = request.buffer, at >= 0, count >= 0, at + count <= request.byteCount else {
                return broke("a chunk outside of its request")
            }
            let target = UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[at..<(at + count)])
            if type == 1 {
                let from = chunk.startIndex + 28
                chunk[from..<(from + count)].withUnsafeBytes { target.copyMemory(from: $0) }
            } else {
                _ = target.initializeMemory(as: UInt8.self, repeating: 0)
            }
            request.filled += count
        case 1 << 15 + 1: request.error = UInt32(chunk.number(20, 4))
        default: broke("a chunk of type \(type)")
        }
        pending[cookie] = request
        if flags & 1 != 0 { finish(cookie, error: request.error) }
    }
    private func finish(_ cookie: UInt64, error: UInt32?) {
        guard let request = pending.removeValue(forKey: cookie) else { return broke("an answer to nobody") }
        if let error { return request.completed(.failed(error)) }
        guard let buffer = request.buffer else { return request.completed(.done) }
        guard request.filled == request.byteCount else {
            return broke("a read of \(request.byteCount) bytes got \(request.filled)")
        }
        request.completed(.bytes(Payload(buffer, byteCount: request.byteCount)))
    }
    private func peek(_ count: Int) -> ArraySlice<UInt8>? {
        bytes.count - head >= count ? bytes[head..<(head + count)] : nil
    }
}

/// Big-endian bytes going out.
private struct Out {
    private(set) var bytes: [UInt8] = []
    mutating func put(_ value: some FixedWidthInteger) {
        for shift in stride(from: value.bitWidth - 8, through: 0, by: -8) {
            bytes.append(UInt8(truncatingIfNeeded: value >> shift))
        }
    }
    mutating func put(option: UInt32, _ data: [UInt8]) {
        put(UInt64(0x4948_4156_454f_5054))
        put(option)
        put(UInt32(data.count))
        bytes += data
    }
}

extension ArraySlice<UInt8> {
    /// The big-endian number of `count` bytes at place `at`.
    fileprivate func number(_ at: Int, _ count: Int) -> UInt64 {
        self[(startIndex + at)..<(startIndex + at + count)].reduce(0) { $0 << 8 | UInt64($1) }
    }
}
