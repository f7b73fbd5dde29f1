import BlockTypes
import Environment
import Glibc
import Testing

@testable import Reactor

/// Runs a loop on this thread until the story calls `stop()`; one that hangs is stopped and recorded.
func onLoop(
    limits: ReactorLimits = ReactorLimits(), sourceLocation: SourceLocation = #_sourceLocation,
    _ story: (Reactor) throws -> Void
) throws {
    let reactor = try Reactor(limits: limits)
    reactor.logLevel = .error
    let guardTimer = reactor.after(.seconds(60)) {
        Issue.record("the story did not end", sourceLocation: sourceLocation)
        reactor.stop()
    }
    try story(reactor)
    reactor.run()
    reactor.cancel(guardTimer)
}

/// A folder of its own, removed at the end.
func withFolder<R>(_ body: (String) throws -> R) throws -> R {
    var template = Array("/tmp/curve-reactor-XXXXXX".utf8CString)
    guard mkdtemp(&template) != nil else { throw Failed("mkdtemp") }
    let path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    defer { removeTree(path) }
    return try body(path)
}
private func removeTree(_ path: String) {
    guard let directory = opendir(path) else { return }
    while let entry = readdir(directory) {
        let name = withUnsafeBytes(of: entry.pointee.d_name) {
            String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
        }
        if name != ".", name != ".." { unlink("\(path)/\(name)") }
    }
    closedir(directory)
    rmdir(path)
}
struct Failed: Error {
    let what: String
    init(_ what: String) { self.what = what }
}

/// A handler made of closures. Records everything unless told otherwise.
final class Recorder: ConnectionHandler {
    var bytes: [UInt8] = []
    var received: ((UnsafeRawBufferPointer) -> Void)?
    var window: (() -> UnsafeMutableRawBufferPointer?)?
    var drained: (() -> Void)?
    var closed: ((NetworkError) -> Void)?
    var reasons: [NetworkError] = []

    func connectionReceiveWindow() -> UnsafeMutableRawBufferPointer? { window?() }
    func connectionReceived(_ new: UnsafeRawBufferPointer) {
        if let received { received(new) } else { bytes.append(contentsOf: new) }
    }
    func connectionDrained() { drained?() }
    func connectionClosed(_ reason: NetworkError) {
        reasons.append(reason)
        closed?(reason)
    }
}

/// Sends back whatever arrives.
final class EchoHandler: ConnectionHandler {
    let connection: any Connection
    var reasons: [NetworkError] = []
    init(_ connection: any Connection) { self.connection = connection }
    func connectionReceiveWindow() -> UnsafeMutableRawBufferPointer? { nil }
    func connectionReceived(_ bytes: UnsafeRawBufferPointer) { connection.send([.bytes(Array(bytes))]) }
    func connectionDrained() {}
    func connectionClosed(_ reason: NetworkError) { reasons.append(reason) }
}

extension Reactor {
    /// Connects; a failure is recorded and ends the story.
    func dial(_ address: SocketAddress, _ connected: @escaping (any Connection) -> Void) {
        connect(to: address, timeout: .seconds(10)) { result in
            switch result {
            case .success(let connection): connected(connection)
            case .failure(let error):
                Issue.record("connect: \(error)")
                self.stop()
            }
        }
    }
}

let anyPort = SocketAddress.tcp(host: "127.0.0.1", port: 0)

/// Bytes that differ from place to place and from seed to seed.
func noise(_ count: Int, seed: UInt64) -> [UInt8] {
    var random = SeededRandom(seed: seed)
    var bytes: [UInt8] = []
    bytes.reserveCapacity(count + 8)
    while bytes.count < count { withUnsafeBytes(of: random.next()) { bytes.append(contentsOf: $0) } }
    return Array(bytes.prefix(count))
}
func noisePayload(_ count: Int, seed: UInt64) -> Payload {
    let buffer = BlockBuffer(byteCount: count)
    noise(count, seed: seed).withUnsafeBytes { buffer.bytes.copyMemory(from: $0) }
    return Payload(buffer, byteCount: count)
}

/// A value that several threads may look at.
final class Shared<Value: Sendable>: @unchecked Sendable {
    private let lock = Lock()
    private var current: Value
    init(_ value: Value) { current = value }
    var value: Value { lock.with { current } }
    func change(_ body: (inout Value) -> Void) {
        lock.with {
            body(&current)
            lock.wakeAll()
        }
    }
    /// Sleeps until somebody has changed it so.
    func wait(until isSo: (Value) -> Bool) {
        lock.with { while !isSo(current) { lock.wait() } }
    }
}

extension UnsafeRawBufferPointer {
    /// One call: a loop over bytes is slow in debug builds.
    func isSame(as other: UnsafeRawBufferPointer) -> Bool {
        guard count == other.count else { return false }
        guard let mine = baseAddress, let others = other.baseAddress else { return count == 0 }
        return memcmp(mine, others, count) == 0
    }
}
