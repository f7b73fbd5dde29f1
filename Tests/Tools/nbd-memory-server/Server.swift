import BlockTypes
import DeviceMapping
import Environment
import Glibc
import NBDServer
import Reactor
import Synchronization
import TestVolumes

/// `nbd-memory-server serve|map|daemon|unmap|list`: our NBD rooms over a volume without a cluster, for other
/// people's clients and the kernel to judge.
///
///     serve --listen unix:PATH|HOST:PORT [--size BYTES] [--export NAME | --exports A,B] [--read-only]
///           [--file PATH | --null] [--delay-ms N]
///     map --file PATH --size BYTES [--device N] [--timeout S] [--dead S] [--connections N] [--stall-ms N]
///     unmap N [--force] [--timeout S]
///     list
@main struct NBDMemoryServer {
    static func main() {
        let words = Array(CommandLine.arguments.dropFirst())
        let options = Options(words.dropFirst())
        do {
            switch words.first {
            case "serve": try serve(options)
            case "map":
                let arguments = ["daemon"] + words.dropFirst()
                print(try Background.start(arguments: arguments, logPath: options["log"], timeoutSeconds: 60))
            case "daemon": daemon(options)
            case "unmap":
                guard let index = options.first.flatMap(BlockDeviceTable.index) else {
                    throw DeviceError.noSuchDevice(options.first ?? "")
                }
                let seconds = options["timeout"].flatMap { Int($0) } ?? 30
                try DeviceRemoval.unmap(index, force: options["force"] != nil, timeoutSeconds: seconds)
            case "list":
                for device in BlockDeviceTable().devices() where device.isConnected {
                    print(
                        device.path, device.size.bytes, device.identifier ?? "-",
                        device.users.joined(separator: ";"))
                }
            default: fail("usage: nbd-memory-server serve|map|unmap|list")
            }
        } catch { fail("\(error)") }
    }
    static func complain(_ text: String) {
        let line = "nbd-memory-server: \(text)\n"
        _ = line.utf8.withContiguousStorageIfAvailable { write(2, $0.baseAddress, $0.count) }
    }
    static func fail(_ text: String) -> Never {
        complain(text)
        exit(1)
    }
    static func makeServer(_ reactor: Reactor, _ options: Options) throws -> NBDServer {
        let server = NBDServer(environment: reactor)
        let names = options["exports"]?.split(separator: ",").map(String.init) ?? [options["export"] ?? ""]
        for name in names {
            let volume = makeVolume(reactor, options)
            try server.add(NBDExport(name: name, description: "test volume", volume: volume))
        }
        return server
    }
    static func makeVolume(_ reactor: Reactor, _ options: Options) -> any BlockVolume {
        let size = ByteCount(bytes: UInt64(options["size"] ?? "") ?? 1 << 30)
        if let path = options["file"] {
            guard let file = FileVolume(environment: reactor, path: path, size: size) else {
                fail("cannot open \(path)")
            }
            file.followSize()
            file.firstWriteDelay = .milliseconds(Int(options["stall-ms"] ?? "") ?? 0)
            return file
        }
        if options["null"] != nil {
            return NullVolume(environment: reactor, size: size, fillsEveryRead: true)
        }
        let memory = MemoryVolume(environment: reactor, size: size, isReadOnly: options["read-only"] != nil)
        memory.delay = .milliseconds(Int(options["delay-ms"] ?? "") ?? 0)
        return memory
    }
    static func serve(_ options: Options) throws {
        let reactor = try Reactor()
        guard let address = options["listen"].flatMap({ SocketAddress($0) }) else {
            fail("--listen is missing")
        }
        let server = try makeServer(reactor, options)
        print("listening on \(try server.listen(on: address))")
        fflush(nil)
        try reactor.onTerminationSignals { _ in server.stop { reactor.stop() } }
        reactor.run()
    }
    /// Serves on a private socket and keeps the kernel's device alive, until it is unmapped.
    static func daemon(_ options: Options) {
        let path = "/tmp/nbd-memory-\(getpid()).sock"
        do {
            let loop = try ReactorThread(name: "nbd") { reactor in
                do {
                    let server = try makeServer(reactor, options)
                    server.exportResized = { _, size in wantedSize.withLock { $0 = size } }
                    try server.listen(on: .unix(path: path))
                    withExtendedLifetime(server) { kept = server }
                } catch { fail("\(error)") }
            }
            var choice = MapOptions(identifier: "test:\(options["file"] ?? "")")
            choice.index = options["device"].flatMap { UInt32($0) }
            choice.connections = Int(options["connections"] ?? "") ?? 2
            choice.requestTimeoutSeconds = options["timeout"].flatMap { UInt64($0) }
            choice.deadConnectionTimeoutSeconds = options["dead"].flatMap { UInt64($0) }
            let device = try MappedDevice(socketPath: path, exportName: "", options: choice)
            Background.ready(device.path)
            while true {
                do {
                    if try !device.keepAlive(forMilliseconds: 100) { break }
                    let size = wantedSize.withLock { size -> ByteCount? in
                        defer { size = nil }
                        return size
                    }
                    if let size { try device.resize(to: size) }
                } catch { complain("\(device.path): \(error)") }
            }
            loop.stop()
            loop.join()
            unlink(path)
        } catch { Background.failed("\(error)", status: 1) }
    }
    /// From the loop, which must not wait for the kernel, to the thread that may.
    static let wantedSize = Mutex<ByteCount?>(nil)

    /// Touched only by the loop's thread.
    nonisolated(unsafe) static var kept: NBDServer?
}

/// `--name value`, `--name` before another option, and words.
struct Options {
    private var values: [String: String] = [:]
    private(set) var first: String?

    init(_ words: ArraySlice<String>) {
        var rest = words
        while let word = rest.popFirst() {
            guard word.hasPrefix("--") else {
                first = word
                continue
            }
            let isFlag = rest.first?.hasPrefix("--") ?? true
            values[String(word.dropFirst(2))] = isFlag ? "" : rest.removeFirst()
        }
    }
    subscript(name: String) -> String? { values[name] }
}
