import BlockTypes
import Environment
import Foundation
import Reactor
import ToolSupport

/// What people ask of a gateway that runs: one line of JSON.
struct ControlRequestLine: Codable {
    enum Verb: String, Codable { case list, add, remove }
    var verb: Verb
    /// The volume to add.
    var volume: String?
    /// The export to add or remove.
    var name: String?
    var description: String?
    var readOnly = false
    var rotational = false
    var allowResize = false
    var takeover = false
    var errorAfter: Int?

    /// The export that is to be added.
    func plan(metadataServers: [SocketAddress], holderKey: String?) throws -> ExportPlan {
        guard let volume, !volume.isEmpty else { throw ToolError.failed("name the volume to add") }
        var looks = try ExportLooks.parse([])
        (looks.description, looks.readOnly, looks.rotational) = (description, readOnly, rotational)
        (looks.allowResize, looks.takeover, looks.errorAfter) = (allowResize, takeover, errorAfter)
        return try looks.plan(volume, name: name, metadataServers: metadataServers, holderKey: holderKey)
    }
}

/// An export as `curve-nbd export list` shows it.
struct ControlExport: Codable {
    var name: String
    var volume: String
    var sizeBytes: UInt64
    var isReadOnly: Bool
    var connections: Int
}

/// What came of it: one line of JSON, then the gateway closes the connection.
struct ControlAnswerLine: Codable {
    var status: Int32 = 0
    var error: String?
    var exports: [ControlExport] = []
}

/// Where a gateway is told to add and remove exports: whoever may open the socket may do so.
final class ControlSocket {
    private let gateway: Gateway
    private var listener: (any Listener)?
    private var open = 0
    /// People and scripts at once; more wait for nobody.
    private static let connectionsMax = 16
    /// From connecting to a whole line.
    private static let patience = Duration.seconds(10)

    init(_ gateway: Gateway, path: String) throws {
        self.gateway = gateway
        guard let address = SocketAddress("unix:" + path) else {
            throw ToolError.failed("--control '\(path)' is too long for a Unix socket; choose a shorter path")
        }
        // Its maker alone may change what is served.
        let mask = umask(0o077)
        defer { umask(mask) }
        listener = try gateway.reactor.listen(on: address) { [weak self] link in
            guard let self, self.open < Self.connectionsMax else { return link.close() }
            self.open += 1
            link.handler = ControlConnection(link, self)
            gateway.reactor.after(Self.patience) { [weak link] in
                if let waiting = link?.handler as? ControlConnection, !waiting.hasAsked { link?.close() }
            }
        }
    }
    func close() { listener?.close() }
    fileprivate func closed() { open -= 1 }

    fileprivate func carryOut(_ line: [UInt8], answer: @escaping (ControlAnswerLine) -> Void) {
        func end(_ error: ToolError?) {
            answer(
                ControlAnswerLine(
                    status: error?.status ?? 0, error: error?.description, exports: gateway.exports))
        }
        do {
            let request = try JSONDecoder().decode(ControlRequestLine.self, from: Data(line))
            switch request.verb {
            case .list: end(nil)
            case .add:
                guard let plan = try gateway.planner?(request) else { return end(nil) }
                gateway.add(plan, completed: end)
            case .remove: gateway.remove(request.name ?? "", completed: end)
            }
        } catch let error as ToolError { end(error) } catch { end(.failed("not understood: \(error)")) }
    }
}

private final class ControlConnection: ConnectionHandler {
    private let link: any Connection
    private let socket: ControlSocket
    private var line: [UInt8] = []
    private(set) var hasAsked = false
    private var isOver = false
    private static let lineBytesMax = 16 << 10

    init(_ link: any Connection, _ socket: ControlSocket) { (self.link, self.socket) = (link, socket) }

    func connectionReceiveWindow() -> UnsafeMutableRawBufferPointer? { nil }
    func connectionReceived(_ bytes: UnsafeRawBufferPointer) {
        guard !hasAsked else { return }
        line += bytes
        guard line.last == UInt8(ascii: "\n") else {
            if line.count > Self.lineBytesMax { link.close() }
            return
        }
        hasAsked = true
        socket.carryOut(line) { [self] answer in
            guard !isOver, let data = try? JSONEncoder().encode(answer) else { return link.close() }
            link.send([.bytes(Array(data) + [UInt8(ascii: "\n")])])
            link.close()
        }
    }
    func connectionDrained() {}
    func connectionClosed(_ reason: NetworkError) {
        isOver = true
        socket.closed()
    }
}

/// Asks a gateway, and waits for its answer.
enum ControlClient {
    static func ask(_ request: ControlRequestLine, at path: String) throws -> ControlAnswerLine {
        guard let address = SocketAddress("unix:" + path) else {
            throw ToolError.failed("'\(path)' is too long for a Unix socket")
        }
        let reactor: Reactor
        do { reactor = try Reactor() } catch { throw ToolError.failed("\(error)") }
        let collector = Collector(reactor)
        let line = try JSONEncoder().encode(request)
        var failure: NetworkError?
        reactor.connect(to: address, timeout: .seconds(10)) { result in
            switch result {
            case .failure(let error):
                failure = error
                reactor.stop()
            case .success(let link):
                link.handler = collector
                link.send([.bytes(Array(line) + [UInt8(ascii: "\n")])])
            }
        }
        reactor.run()
        if let failure { throw ToolError.notFound("no gateway answers at \(path): \(failure)") }
        guard let answer = try? JSONDecoder().decode(ControlAnswerLine.self, from: Data(collector.bytes))
        else { throw ToolError.failed("the gateway at \(path) ended without an answer") }
        if let error = answer.error {
            throw answer.status == 1 ? ToolError.notFound(error) : ToolError.failed(error)
        }
        return answer
    }
    private final class Collector: ConnectionHandler {
        private let reactor: Reactor
        private(set) var bytes: [UInt8] = []
        init(_ reactor: Reactor) { self.reactor = reactor }
        func connectionReceiveWindow() -> UnsafeMutableRawBufferPointer? { nil }
        func connectionReceived(_ bytes: UnsafeRawBufferPointer) { self.bytes += bytes }
        func connectionDrained() {}
        func connectionClosed(_ reason: NetworkError) { reactor.stop() }
    }
}
