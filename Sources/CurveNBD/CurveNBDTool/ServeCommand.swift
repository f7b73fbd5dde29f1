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
        commandName: "serve", abstract: "Serve volumes over NBD until Ctrl-C.",
        discussion: """
            One program at a time serves a volume. --takeover ends the other one's access for good. \
            With --control, exports are added and removed while others are served: see 'curve-nbd export'. \
            Sockets handed over by systemd (LISTEN_FDS) are listened on instead of --listen.
            Examples:
              curve-nbd serve db --listen unix:/run/db.sock --listen 0.0.0.0:10809
              curve-nbd serve db logs --name orders --name logs --control /run/curve-nbd.sock
            """)
    @Argument(help: "Paths of the volumes.") var volumes: [String] = []
    @Option(
        help: """
            Address to listen on: host:port, unix:/path, vsock:port or fd:N; may be given several times \
            (default: 127.0.0.1:10809).
            """)
    var listen: [String] = []
    @Option(
        name: [.long, .customLong("export-name")],
        help: "Name of the export (default: the volume's path); once for each volume, in their order.")
    var name: [String] = []
    @Flag(name: [.short, .long], help: "Serve one client on standard input, which is its socket; then end.")
    var single = false
    @OptionGroup var looks: ExportLooks
    @Option(help: "Stable name of this gateway: started again under it, it need not wait for the old lease.")
    var holderKey: String?
    @Option(help: "Unix socket by which 'curve-nbd export' adds and removes exports.") var control: String?
    @Flag(help: "Print counters on standard output every second.") var stats = false
    @OptionGroup var tls: TLSOptions
    @OptionGroup var metadata: MetadataOptions
    @OptionGroup var daemon: DaemonOptions

    func run() throws {
        let addresses = try listeningAddresses()
        guard name.isEmpty || name.count == volumes.count else {
            throw ToolError.failed("--name is given once for each volume, in their order, or not at all")
        }
        guard !volumes.isEmpty || control != nil else {
            throw ToolError.failed("name a volume to serve, or --control to add some later")
        }
        let keys = try tls.keys()
        let mds = try metadata.servers().addresses
        let reactor = try daemon.reactor(name: "curve-nbd")
        let gateway = Gateway(reactor: reactor, listen: addresses)
        (gateway.printsStats, gateway.control) = (stats, control)
        if let keys { gateway.encrypt(with: keys) }
        if single { (gateway.singleClient, gateway.announce) = (0, { _ in }) }
        let plans = try volumes.enumerated().map { index, volume in
            try looks.plan(
                volume, name: index < name.count ? name[index] : nil, metadataServers: mds,
                holderKey: holderKey)
        }
        gateway.planner = { request in
            try request.plan(metadataServers: mds, holderKey: holderKey)
        }
        try gateway.run(plans)
    }

    private func listeningAddresses() throws -> [SocketAddress] {
        let inherited = InheritedSockets.take()
        guard !single else {
            guard listen.isEmpty, volumes.count == 1 else {
                throw ToolError.failed("-s serves one volume to one client, and listens nowhere")
            }
            return []
        }
        guard !listen.isEmpty || inherited.isEmpty else { return inherited }
        let texts = listen.isEmpty ? ["127.0.0.1:10809"] : listen
        return try inherited
            + texts.map { text in
                guard let address = SocketAddress(text) else {
                    if text.hasPrefix("unix:/") {
                        throw ToolError.failed(
                            "--listen '\(text)' is too long for a Unix socket; choose a path of at most 107 bytes"
                        )
                    }
                    throw ToolError.failed(
                        "--listen '\(text)' is not an address; write HOST:PORT, unix:/PATH, vsock:PORT or fd:N"
                    )
                }
                return address
            }
    }
}

/// How exports look to their clients, and how their volumes are held.
struct ExportLooks: ParsableArguments {
    @Option(help: "A line for people who list the exports.") var description: String?
    @Flag(help: "Refuse writes.") var readOnly = false
    @Flag(help: "Tell clients that seeks cost.") var rotational = false
    @Flag(help: "Let clients grow and shrink the volume (the protocol's RESIZE, a draft).")
    var allowResize = false
    @Flag(help: "Take the volume from whoever holds it; the holder can never write to it again.")
    var takeover = false
    @Option(help: "Fail requests after this many seconds without a majority (default: wait).") var errorAfter:
        Int?

    func plan(
        _ volume: String, name: String?, metadataServers: [SocketAddress], holderKey: String?
    ) throws -> ExportPlan {
        if let errorAfter, errorAfter <= 0 {
            throw ToolError.failed("--error-after is a number of seconds from 1")
        }
        let path = volume.hasPrefix("/") ? volume : "/" + volume
        let here = ProcessInfo.processInfo
        let place = "\(here.hostName) pid \(here.processIdentifier)"
        let options = AttachOptions(
            path: path, metadataServers: metadataServers, holder: "curve-nbd serve on \(place)",
            holderKey: holderKey ?? place, takeOver: takeover, isReadOnly: readOnly,
            policy: errorAfter.map { .errorAfter(.seconds($0)) } ?? .queue)
        return ExportPlan(
            attach: options, name: name ?? String(path.dropFirst()), description: description ?? "",
            isRotational: rotational, allowsResize: allowResize)
    }
}

/// Listening sockets that a service manager or a test made for this process (`sd_listen_fds(3)`).
enum InheritedSockets {
    private static let firstDescriptor: Int32 = 3
    private static let socketsMax: Int32 = 64

    /// The sockets; children of this process are not told of them again.
    static func take() -> [SocketAddress] {
        let environment = ProcessInfo.processInfo.environment
        guard let pid = environment["LISTEN_PID"].flatMap({ Int32($0) }), pid == getpid(),
            let count = environment["LISTEN_FDS"].flatMap({ Int32($0) }), (1...socketsMax).contains(count)
        else { return [] }
        for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] { unsetenv(name) }
        return (0..<count).map { .inherited(descriptor: firstDescriptor + $0) }
    }
}
