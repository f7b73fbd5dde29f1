import BlockTypes
import Environment
import Glibc
import ISCSIProtocol
import ISCSIServer
import Reactor
import SCSICommands
import TestVolumes

/// Our iSCSI rooms over volumes without a cluster, for other people's initiators to judge:
///
///     iscsi-memory-server --listen HOST:PORT[,HOST:PORT ...] [--size BYTES] [--null] [--delay-ms N]
///                         [--write-rate BYTES-PER-SECOND] [--threads N]
///                         [--user NAME --secret TEXT [--mutual-user NAME --mutual-secret TEXT]]
///
/// Targets `iqn.2026-11.io.curve.test:KIND`, each with LUN 0; KIND is thin512, thin4096, readonly or
/// removable, or with `--null` null alone, which keeps nothing. With `--threads N` they are spread over N
/// threads, of which the one that has the portals comes last; there is then also null-1 for each further one.
@main struct ISCSIMemoryServer {
    static let prefix = "iqn.2026-11.io.curve.test:"

    static func main() {
        do {
            try serve(Options(CommandLine.arguments.dropFirst()))
        } catch { fail("\(error)") }
    }
    static func serve(_ options: Options) throws {
        let reactor = try Reactor()
        let words = (options["listen"] ?? "").split(separator: ",")
        let addresses = words.compactMap { SocketAddress(String($0)) }
        guard !addresses.isEmpty, addresses.count == words.count else {
            fail("--listen is missing, or is no address")
        }
        let server = ISCSIServer(
            environment: reactor, coordinator: LocalCoordinator(environment: reactor),
            chap: .openSSL(allowsMD5: true))
        try reactor.onTerminationSignals { _ in server.stop { reactor.stop() } }
        let count = max(1, Int(options["threads"] ?? "") ?? 1)
        let nulls = ["null"] + (1..<count).map { "null-\($0)" }
        let kinds = options["null"] != nil ? nulls : ["thin512", "thin4096", "readonly", "removable"]
        let lanes = (1..<count).map { Lane($0, options) }
        var missing = kinds.count
        let ready = {
            missing -= 1
            if missing == 0 { listen(server, addresses) }
        }
        var places: [String: Lane] = [:]
        for (index, kind) in kinds.enumerated() {
            let place = (index + 1) % count
            guard place > 0 else {
                offer(kind, index, server, reactor, options, ready)
                continue
            }
            places[prefix + kind] = lanes[place - 1]
            server.targetsElsewhere.append(description(kind, options))
            lanes[place - 1].offer(kind, index, ready, on: reactor)
        }
        server.moved = { [places] connection, login, portal in
            places[login.targetName]?.serve(connection, login, portal)
        }
        reactor.run()
        for lane in lanes { lane.end() }
    }
    /// Whoever sees that somebody listens finds every target.
    static func listen(_ server: ISCSIServer, _ addresses: [SocketAddress]) {
        do {
            for address in addresses { print("listening on \(try server.listen(on: address))") }
            fflush(nil)
        } catch { fail("\(error)") }
    }
    static func offer(
        _ kind: String, _ index: Int, _ server: ISCSIServer, _ reactor: Reactor, _ options: Options,
        _ completed: @escaping () -> Void
    ) {
        let description = description(kind, options)
        let identifier: [UInt8] = [0x60] + [UInt8](repeating: 0xc5, count: 14) + [UInt8(index + 1)]
        var unit = UnitConfiguration(
            lun: 0, blockBytes: kind == "thin4096" ? 4096 : 512, identifier: identifier,
            serial: "test-\(kind)")
        (unit.isReadOnly, unit.isRemovable) = (kind == "readonly", kind == "removable")
        unit.atomicBytes = 1 << 20
        let volume = makeVolume(kind, reactor, options)
        server.addTarget(description) { error in
            if let error { fail("\(error)") }
            server.addUnit(unit, over: volume, to: description.name) { error in
                if let error { fail("\(error)") }
                completed()
            }
        }
    }
    static func description(_ kind: String, _ options: Options) -> TargetDescription {
        var description = TargetDescription(name: prefix + kind)
        description.authentication = authentication(options)
        return description
    }
    static func makeVolume(_ kind: String, _ reactor: Reactor, _ options: Options) -> any BlockVolume {
        let size = ByteCount(bytes: UInt64(options["size"] ?? "") ?? 128 << 20)
        guard !kind.hasPrefix("null") else {
            return NullVolume(environment: reactor, size: size, fillsEveryRead: false)
        }
        let memory = MemoryVolume(environment: reactor, size: size, pageBytes: Geometry.blockBytes)
        memory.delay = .milliseconds(Int(options["delay-ms"] ?? "") ?? 0)
        memory.writeBytesPerSecond = Int(options["write-rate"] ?? "")
        return memory
    }
    static func authentication(_ options: Options) -> Authentication {
        guard let user = options["user"], let secret = options["secret"] else { return .none }
        var mutual: CHAPCredential?
        if let name = options["mutual-user"], let secret = options["mutual-secret"] {
            mutual = CHAPCredential(name: name, secret: Array(secret.utf8))
        }
        return .chap(users: [CHAPCredential(name: user, secret: Array(secret.utf8))], mutual: mutual)
    }
    static func fail(_ text: String) -> Never {
        let line = "iscsi-memory-server: \(text)\n"
        _ = line.utf8.withContiguousStorageIfAvailable { write(2, $0.baseAddress, $0.count) }
        exit(1)
    }
}

/// A thread that serves some of the targets; their connections come by the main thread's portals.
final class Lane {
    private let options: Options
    private let thread: ReactorThread
    private let server = LoopBound<ISCSIServer>()

    init(_ number: Int, _ options: Options) {
        self.options = options
        do { thread = try ReactorThread(name: "lane-\(number)") } catch { ISCSIMemoryServer.fail("\(error)") }
        post { [server] reactor in
            server.value = ISCSIServer(
                environment: reactor, coordinator: LocalCoordinator(environment: reactor),
                chap: .openSSL(allowsMD5: true))
        }
    }
    func offer(_ kind: String, _ index: Int, _ ready: @escaping () -> Void, on reactor: Reactor) {
        let (waiting, main) = (LoopBound<() -> Void>(), reactor.handle)
        waiting.value = ready
        post { [options, server] reactor in
            guard let served = server.value else { return }
            ISCSIMemoryServer.offer(kind, index, served, reactor, options) {
                _ = main.post { _ in waiting.value?() }
            }
        }
    }
    func serve(_ connection: any MovedConnection, _ login: MovingLogin, _ portal: Int?) {
        post { [server] reactor in
            guard let adopted = reactor.adopt(connection) else { return }
            server.value?.serve(adopted, movedWith: login, portal: portal)
        }
    }
    private func post(_ action: @escaping @Sendable (Reactor) -> Void) {
        if !thread.post({ action($0) }) { ISCSIMemoryServer.fail("a loop has ended") }
    }
    func end() {
        post { [server] reactor in
            guard let served = server.value else { return reactor.stop() }
            served.stop { reactor.stop() }
        }
        thread.join()
    }
}

/// `--name value`, or `--name` before another option.
struct Options: Sendable {
    private var values: [String: String] = [:]

    init(_ words: ArraySlice<String>) {
        var rest = words
        while let word = rest.popFirst() {
            guard word.hasPrefix("--") else { ISCSIMemoryServer.fail("'\(word)' is not an option") }
            let isFlag = rest.first?.hasPrefix("--") ?? true
            values[String(word.dropFirst(2))] = isFlag ? "" : rest.removeFirst()
        }
    }
    subscript(name: String) -> String? { values[name] }
}
