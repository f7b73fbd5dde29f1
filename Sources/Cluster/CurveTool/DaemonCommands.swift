import ArgumentParser
import BlockTypes
import ChunkServer
import ChunkStore
import ControlMessages
import Environment
import Foundation
import ToolSupport
import MetadataServer
import Reactor

struct MDSCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "mds", abstract: "Run the metadata server, or go on with an older database of it.",
        discussion: """
            Examples:
              curve mds --data /var/lib/curve/mds --listen 10.0.0.5:6700
              curve mds adopt        after its database was put back from a backup
            """,
        subcommands: [MDSServe.self, MDSAdopt.self], defaultSubcommand: MDSServe.self)
}

struct MDSServe: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "serve", abstract: "Run the metadata server (the default).",
        discussion: """
            Several may run on one folder, each with its own address: one leads, the others stand by and \
            take over when it has ended. The folder's lock decides. So they all run on one machine, or on \
            machines that share a file system with locks that hold. One that is stopped (SIGSTOP) or hangs \
            still holds the lock: end it, and another leads.
            Examples:
              curve mds serve --data /var/lib/curve/mds --listen 10.0.0.5:6700
              curve mds serve --data /var/lib/curve/mds --listen 10.0.0.5:6701     stands by
            Everybody else is told both: --mds 10.0.0.5:6700,10.0.0.5:6701
            """)
    @Option(help: "Folder of its database; made if missing.") var data: String
    @Option(help: "Address to listen on, host:port; port 0 lets the system choose.") var listen =
        "127.0.0.1:6700"
    @Option(help: "Address that those who stand by tell others (default: the one listened on).")
    var advertise: String?
    @OptionGroup var daemon: DaemonOptions
    func run() throws {
        guard let address = SocketAddress(listen) else {
            throw ToolError.failed("--listen '\(listen)' is not an address; write HOST:PORT")
        }
        let advertised = try advertise.map { text in
            guard let address = SocketAddress(text) else {
                throw ToolError.failed("--advertise '\(text)' is not an address; write HOST:PORT")
            }
            return address
        }
        daemon.parent.apply()  // First: an orphan must not make a folder that was just cleared up.
        try makeFolder(data, for: "the MDS's database")
        let reactor = try daemon.reactor(name: "mds")
        var failure: ToolError?
        do {
            var options = MetadataDaemon.Options()
            (options.name, options.processID) = (ProcessInfo.processInfo.hostName, getpid())
            options.advertised = advertised
            let database = data + "/metadata.sqlite"
            let server = MetadataDaemon(
                environment: reactor, lock: FileLock(path: data + "/metadata.lock"), options: options
            ) { () throws(MetadataStoreError) -> any MetadataStore in
                try SQLiteMetadataStore(path: database)
            }
            server.failed = {
                failure = .failed("\($0)")
                reactor.stop()
            }
            try server.start(listen: address)
            announceReady([server.address ?? address])
            try onTermination(of: reactor) {
                server.stop()
                reactor.stop()
            }
            reactor.run()
        } catch MetadataServerError.network(let error) {
            failure = .failed(words(for: error))
        } catch { failure = .failed("\(error)") }
        if let failure { throw failure }
    }
}

struct MDSAdopt: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "adopt",
        abstract: "Go on with a database that is older than what the cluster remembers.",
        discussion: """
            A metadata server whose database was put back from a backup gives nothing away: volumes may have \
            been attached, resized or deleted since. Put the newest database back if there is one. If not, \
            this takes over what chunkservers know of volumes, passes over all numbers that may have been \
            given since, and says what it found. What only the lost database knew (names of new volumes, \
            renamings, new pools) is gone.
            Example:
              curve mds adopt
            """)
    @Flag(help: "Also when chunkservers cannot say what they know; older sizes of volumes may come back.")
    var force = false
    @OptionGroup var metadata: MetadataOptions
    func run() throws {
        var request = ControlAdoptDatabaseRequest()
        request.force = force
        let call = MetadataCall(try metadata.servers(), timeout: .seconds(20))
        let answer = try call.whenReady(.adoptDatabase(request)).adoptDatabase
        for finding in answer.findings { print(finding) }
        print("the database counts from now on, at revision \(answer.revision)")
    }
}

struct ChunkserverCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "chunkserver", abstract: "Format a store and serve it.",
        subcommands: [ChunkserverFormat.self, ChunkserverServe.self])
}

struct ChunkserverServe: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "serve", abstract: "Serve a formatted store.",
        discussion: """
            Example:
              curve chunkserver serve --store /dev/nvme1n1 --listen 10.0.0.6:6800 --zone rack7
            """)
    @Option(help: "Block device or file that 'curve chunkserver format' made.") var store: String
    @Option(help: "Address to listen on; port 0 lets the system choose. May change at every start.")
    var listen = "127.0.0.1:0"
    @Option(help: "Address others should connect to (default: the one listened on).") var advertise:
        [String] = []
    @Option(help: "Machines that may fail together, by a name of your choice: a rack, a room.") var zone = ""
    @Flag(
        help: ArgumentHelp(
            "Peers are on this machine and reached directly: when nobody listens there, take the peer for dead.",
            discussion:
                "Elections then do not wait for the dead leader's lease. Unsafe with proxies or filters.",
            visibility: .hidden))
    var localPeers = false
    @OptionGroup var metadata: MetadataOptions
    @OptionGroup var daemon: DaemonOptions
    func run() throws {
        let servers = try metadata.servers()
        let reactor = try daemon.reactor(name: "chunkserver")
        let disk: ReactorDisk
        do { disk = try ReactorDisk.open(reactor, path: store) } catch {
            throw ToolError.failed("\(error)")
        }
        var options = ChunkServerOptions(
            metadataServers: servers.addresses.map(\.description), listen: listen, advertise: advertise,
            host: ProcessInfo.processInfo.hostName)
        (options.refusalProvesDeath, options.zone) = (localPeers, zone)
        let server = ChunkServer(environment: reactor, disk: disk, options: options, pool: BufferPool())
        var failure: ToolError?
        server.serving = { announceReady([$0]) }
        server.failed = {
            failure = .failed("\(store): \($0)")
            reactor.stop()
        }
        try onTermination(of: reactor) { server.stop { reactor.stop() } }
        server.start()
        reactor.run()
        if let failure { throw failure }
    }
}
