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
        let mds = try metadata.address()
        let reactor = try daemon.reactor(name: "curve-nbd")
        let gateway = Gateway(reactor: reactor, listen: addresses)
        gateway.exportName = exportName ?? (volume.hasPrefix("/") ? String(volume.dropFirst()) : volume)
        (gateway.isReadOnly, gateway.printsStats) = (readOnly, stats)
        let here = ProcessInfo.processInfo
        let place = "\(here.hostName) pid \(here.processIdentifier)"
        try onTermination(of: reactor) { gateway.stop() }
        var failure: ToolError?
        gateway.start(
            AttachOptions(
                path: volume.hasPrefix("/") ? volume : "/" + volume, metadataServers: [mds],
                holder: "curve-nbd serve on \(place)", holderKey: holderKey ?? place, takeOver: takeover,
                isReadOnly: readOnly, policy: errorAfter.map { .errorAfter(.seconds($0)) } ?? .queue)
        ) { why in
            failure = why
            reactor.stop()
        }
        reactor.run()
        if let failure { throw failure }
    }
}
