import ArgumentParser
import BlockTypes
import CurveClient
import Environment
import Foundation
import NBDServer
import Reactor
import ToolSupport

struct ServeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "serve", abstract: "Serve a volume over NBD until Ctrl-C.",
        discussion: """
            One program at a time serves a volume. --takeover ends the other one's access for good.
            Example:
              curve-nbd serve db --listen unix:/run/db.sock --listen 0.0.0.0:10809
            """)
    @Argument(help: "Path of the volume.") var volume: String
    @Option(help: "Address to listen on, host:port or unix:/path; may be given several times.")
    var listen: [String] = ["127.0.0.1:10809"]
    @Option(help: "Name of the export (default: the volume's path).") var exportName: String?
    @Flag(help: "Refuse writes.") var readOnly = false
    @Flag(help: "Take the volume from whoever holds it; the holder can never write to it again.")
    var takeover = false
    @Option(help: "Fail requests after this many seconds without a majority (default: wait).") var errorAfter:
        Int?
    @Option(help: "Stable name of this gateway: started again under it, it need not wait for the old lease.")
    var holderKey: String?
    @Flag(help: "Print counters on standard output every second.") var stats = false
    @OptionGroup var metadata: MetadataOptions
    @OptionGroup var daemon: DaemonOptions

    func run() throws {
        let addresses = try listen.map { text in
            guard let address = SocketAddress(text) else {
                throw ToolError.failed("--listen '\(text)' is not an address; write HOST:PORT or unix:/PATH")
            }
            return address
        }
        if let errorAfter, errorAfter <= 0 {
            throw ToolError.failed("--error-after is a number of seconds from 1")
        }
        let servers = try metadata.servers()
        let gateway = Gateway(reactor: try daemon.reactor(name: "curve-nbd"), listen: addresses)
        gateway.exportName = exportName ?? (volume.hasPrefix("/") ? String(volume.dropFirst()) : volume)
        (gateway.isReadOnly, gateway.printsStats) = (readOnly, stats)
        let here = ProcessInfo.processInfo
        let place = "\(here.hostName) pid \(here.processIdentifier)"
        try gateway.run(
            AttachOptions(
                path: volume.hasPrefix("/") ? volume : "/" + volume, metadataServers: servers.addresses,
                holder: "curve-nbd serve on \(place)", holderKey: holderKey ?? place, takeOver: takeover,
                isReadOnly: readOnly, policy: errorAfter.map { .errorAfter(.seconds($0)) } ?? .queue))
    }
}

/// One volume, attached and served until a signal comes or the volume is lost.
final class Gateway {
    private let reactor: Reactor
    private let addresses: [SocketAddress]
    private let server: NBDServer
    private var volume: RemoteVolume?
    private var failure: ToolError?
    private var isStopping = false
    var exportName = ""
    var isReadOnly = false
    var printsStats = false
    /// Tells that the addresses are served.
    var announce: ([SocketAddress]) -> Void = announceReady
    /// Done before the server stops; calls back when it is done.
    var stopsFirst: ((@escaping () -> Void) -> Void)?
    /// The volume has another size.
    var resized: ((ByteCount) -> Void)?
    /// Answers with errors when the volume was taken over, instead of ending: a kernel device would wait.
    var servesAfterLoss = false

    init(reactor: Reactor, listen: [SocketAddress]) {
        (self.reactor, addresses) = (reactor, listen)
        server = NBDServer(environment: reactor)
    }

    func run(_ options: AttachOptions) throws {
        try onTermination(of: reactor) { [self] in stop() }
        if options.takeOver { try checkAddresses() }
        RemoteVolume.attach(environment: reactor, options: options) { [self] result in
            switch result {
            case .failure(let error): end(error.isNotFound ? .notFound("\(error)") : .failed("\(error)"))
            case .success(let volume): attached(volume)
            }
        }
        reactor.run()
        if let failure { throw failure }
    }

    /// Nobody is to lose a volume to a gateway that then cannot serve it.
    private func checkAddresses() throws {
        for address in addresses {
            do { try reactor.listen(on: address) { $0.close() }.close() } catch {
                throw ToolError.failed("cannot serve: \(words(for: error))")
            }
        }
    }

    private func attached(_ volume: RemoteVolume) {
        self.volume = volume
        volume.lost = { [self] in
            if servesAfterLoss {
                return reactor.log(.error, "another client took the volume over; requests fail from now on")
            }
            reactor.log(.error, "another client took the volume over; this gateway ends")
            failure = .failed(
                "another client took the volume over; nothing that it did not answer was written")
            stop()
        }
        do {
            try server.add(
                NBDExport(
                    name: exportName, volume: volume, isReadOnly: isReadOnly,
                    answersWhenFenced: servesAfterLoss))
            server.exportResized = { [self] _, size in resized?(size) }
            announce(try addresses.map { try server.listen(on: $0) })
        } catch {
            failure = .failed("cannot serve: \(words(for: error))")
            return stop()
        }
        if printsStats { printStats() }
    }

    private func printStats() {
        guard let counters = volume?.counters else { return }
        let line =
            "stats reads=\(counters.reads) writes=\(counters.writes) read_bytes=\(counters.readBytes) "
            + "written_bytes=\(counters.writtenBytes)\n"
        FileHandle.standardOutput.write(Data(line.utf8))
        reactor.after(.seconds(1)) { [self] in printStats() }
    }

    /// Lets requests under way finish, gives the volume back, ends.
    private func stop() {
        guard !isStopping else { return }
        isStopping = true
        guard let stopsFirst, volume != nil else { return stopServing() }
        stopsFirst { [self] in stopServing() }
    }

    /// What made this gateway useful is gone, for a reason or because it was asked to go.
    func finish(_ failure: ToolError?) {
        if let failure { self.failure = failure }
        guard !isStopping else { return }
        isStopping = true
        stopServing()
    }

    private func stopServing() {
        server.stop { [self] in
            guard let volume else { return reactor.stop() }
            volume.detach { [self] in reactor.stop() }
        }
    }

    private func end(_ error: ToolError) {
        failure = error
        reactor.stop()
    }
}
