import BlockTypes
import CurveClient
import Environment
import Foundation
import NBDServer
import Reactor
import ToolSupport

/// One volume that a gateway is to serve, and how clients see it.
struct ExportPlan {
    var attach: AttachOptions
    var name = ""
    var description = ""
    var isRotational = false
    var allowsResize = false
}

/// Volumes, attached and served until a signal comes or the last one is lost.
final class Gateway {
    private struct Served {
        var plan: ExportPlan
        var volume: RemoteVolume
    }
    let reactor: Reactor
    private let addresses: [SocketAddress]
    private let server: NBDServer
    /// In the order in which they were added.
    private var served: [Served] = []
    /// Names of exports whose volumes are being attached or given back.
    private var busyNames: Set<String> = []
    private var failure: ToolError?
    private var isStopping = false
    private var onlyLink: (any Connection)?
    private var controlSocket: ControlSocket?
    private var keys: GatewayKeys?
    var printsStats = false
    /// Where ``ControlSocket`` listens.
    var control: String?
    /// Makes a plan of what people ask for on the control socket.
    var planner: ((ControlRequestLine) throws -> ExportPlan)?
    /// The descriptor of the only client's socket: when it goes, so does the gateway.
    var singleClient: Int32?
    /// Tells that the addresses are served.
    var announce: ([SocketAddress]) -> Void = announceReady

    init(reactor: Reactor, listen: [SocketAddress]) {
        (self.reactor, addresses) = (reactor, listen)
        server = NBDServer(environment: reactor)
    }

    func run(_ plans: [ExportPlan]) throws {
        try onTermination(of: reactor, hangup: keys.map { keys in { keys.reload() } }) { [self] in stop() }
        if plans.contains(where: \.attach.takeOver) { try checkAddresses() }
        if let singleClient { onlyLink = try adopt(singleClient) }
        addNext(plans[...])
        reactor.run()
        if let failure { throw failure }
    }

    /// Offers TLS, or demands it.
    func encrypt(with keys: GatewayKeys) {
        self.keys = keys
        keys.environment = reactor
        server.tls = keys.server
    }

    /// Nobody is to lose a volume to a gateway that then cannot serve it.
    private func checkAddresses() throws {
        for address in addresses {
            if case .inherited = address { continue }
            do { try reactor.listen(on: address) { $0.close() }.close() } catch {
                throw ToolError.failed("cannot serve: \(words(for: error))")
            }
        }
    }

    /// One after the other: the first that cannot be had ends the gateway.
    private func addNext(_ plans: ArraySlice<ExportPlan>) {
        guard let plan = plans.first else { return open() }
        add(plan) { [self] error in
            guard !isStopping else { return }
            if let error {
                failure = error
                return stop()
            }
            addNext(plans.dropFirst())
        }
    }

    private func open() {
        do {
            if let control { controlSocket = try ControlSocket(self, path: control) }
            if let onlyLink {
                server.emptied = { [self] in stop() }
                server.serve(onlyLink)
            }
            announce(try addresses.map { try server.listen(on: $0) })
        } catch {
            failure = .failed("cannot serve: \(words(for: error))")
            return stop()
        }
        if printsStats { printStats() }
    }

    private func adopt(_ descriptor: Int32) throws -> any Connection {
        do { return try reactor.adoptConnection(descriptor: descriptor) } catch {
            throw ToolError.failed(
                "standard input is not a socket; -s is for clients that start this program, as libnbd and "
                    + "inetd do")
        }
    }
    private func lost(_ name: String, _ path: String) {
        guard served.count == 1, control == nil else {
            reactor.log(.error, "another client took \(path) over; it is served no longer")
            server.remove(name)
            served.removeAll { $0.plan.name == name }
            return
        }
        reactor.log(.error, "another client took the volume over; this gateway ends")
        failure = .failed("another client took the volume over; nothing that it did not answer was written")
        stop()
    }

    private func printStats() {
        var (reads, writes, readBytes, writtenBytes) = (0, 0, 0, 0)
        for entry in served {
            let counters = entry.volume.counters
            (reads, writes) = (reads + counters.reads, writes + counters.writes)
            readBytes += counters.readBytes
            writtenBytes += counters.writtenBytes
        }
        let line =
            "stats reads=\(reads) writes=\(writes) read_bytes=\(readBytes) written_bytes=\(writtenBytes)\n"
        FileHandle.standardOutput.write(Data(line.utf8))
        reactor.after(.seconds(1)) { [self] in printStats() }
    }

    /// Lets requests under way finish, gives the volumes back, ends.
    private func stop() {
        guard !isStopping else { return }
        isStopping = true
        controlSocket?.close()
        server.stop { [self] in
            var left = served.count
            guard left > 0 else { return reactor.stop() }
            for entry in served {
                entry.volume.detach { [self] in
                    left -= 1
                    if left == 0 { reactor.stop() }
                }
            }
        }
    }
}

// Exports that come and go.
extension Gateway {
    /// Attaches a volume and offers it; `completed` runs once, never from inside this call.
    func add(_ plan: ExportPlan, completed: @escaping (ToolError?) -> Void) {
        guard !busyNames.contains(plan.name), !served.contains(where: { $0.plan.name == plan.name }) else {
            reactor.after(.zero) {
                completed(.failed("an export named '\(plan.name)' is served already; choose another name"))
            }
            return
        }
        busyNames.insert(plan.name)
        RemoteVolume.attach(environment: reactor, options: plan.attach) { [self] result in
            busyNames.remove(plan.name)
            switch result {
            case .failure(let error):
                completed(error.isNotFound ? .notFound("\(error)") : .failed("\(error)"))
            case .success(let volume): offer(volume, plan, completed: completed)
            }
        }
    }
    /// A volume that cannot be offered is given back before anybody hears of it: the gateway may end then.
    private func offer(
        _ volume: RemoteVolume, _ plan: ExportPlan, completed: @escaping (ToolError?) -> Void
    ) {
        var export = NBDExport(
            name: plan.name, description: plan.description, volume: volume,
            isReadOnly: plan.attach.isReadOnly, isRotational: plan.isRotational)
        if plan.allowsResize {
            export.resize = { [weak volume] size, answer in
                guard let volume else { return answer(.failure(.shuttingDown)) }
                volume.resize(to: size, allowShrink: true) { result in
                    answer(result.map { [] }.mapError { _ in .outOfRange })
                }
            }
        }
        do { try server.add(export) } catch {
            let failure = ToolError.failed("cannot serve \(plan.attach.path): \(error)")
            return volume.detach { completed(failure) }
        }
        volume.lost = { [weak self] in self?.lost(plan.name, plan.attach.path) }
        served.append(Served(plan: plan, volume: volume))
        // A signal may have come while it was attached.
        if isStopping { volume.detach {} }
        completed(nil)
    }
    /// Answers what is in flight, closes the export's connections and gives its volume back.
    func remove(_ name: String, completed: @escaping (ToolError?) -> Void) {
        guard let index = served.firstIndex(where: { $0.plan.name == name }) else {
            reactor.after(.zero) { completed(.notFound("no export is named '\(name)'")) }
            return
        }
        let volume = served.remove(at: index).volume
        busyNames.insert(name)
        server.remove(name)
        volume.detach { [self] in
            busyNames.remove(name)
            completed(nil)
        }
    }
    /// What is served, for people.
    var exports: [ControlExport] {
        served.map { entry in
            ControlExport(
                name: entry.plan.name, volume: entry.plan.attach.path, sizeBytes: entry.volume.size.bytes,
                isReadOnly: entry.volume.isReadOnly, connections: server.connections(of: entry.plan.name))
        }
    }
}
