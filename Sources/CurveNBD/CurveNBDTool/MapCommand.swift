import ArgumentParser
import BlockTypes
import CurveClient
import DeviceMapping
import Environment
import Foundation
import Synchronization
import ToolSupport

struct MapCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "map", abstract: "Make a volume a block device of this machine, /dev/nbdX.",
        discussion: """
            Prints the device once it is usable. A daemon of its own serves it until \
            'curve-nbd unmap'. When the daemon is killed, the device waits: map the volume \
            again, and its users notice nothing but a pause.
            Example:
              mkfs.ext4 "$(curve-nbd map db)"
            """, aliases: ["attach"])
    @Argument(help: "Path of the volume.") var volume: String
    @Option(help: "The device, /dev/nbdN or N (default: the kernel chooses).") var device: String?
    @Flag(help: "Refuse writes.") var readOnly = false
    @Flag(help: "Take the volume from whoever holds it; the holder can never write to it again.")
    var takeover = false
    @Option(help: "Sockets between the kernel and the daemon, 1 to 16.") var connections = 2
    @Option(help: "Logical block size, 512 or 4096.") var blockSize = 4096
    @Option(help: "Seconds after which the kernel gives up a connection that does not answer.") var ioTimeout:
        UInt64 =
            30
    @Option(help: "Seconds for which requests wait for a new daemon; then they fail.") var deadConnTimeout:
        UInt64 = 600
    @Option(help: "Fail requests after this many seconds without a majority (default: wait).") var errorAfter:
        Int?
    @Option(help: "Where the daemon logs (default: a file in \(DaemonMark.defaultFolder)).") var logFile:
        String?
    @Flag(help: "Serve from this process until it is unmapped or ended by a signal.") var foreground = false
    @OptionGroup var metadata: MetadataOptions
    @OptionGroup var daemon: DaemonOptions

    /// The volume's path with its slash.
    var path: String { volume.hasPrefix("/") ? volume : "/" + volume }

    func run() throws {
        let index = try device.map { try DeviceName.index($0) }
        guard (1...16).contains(connections) else {
            throw ToolError.failed("--connections is a number from 1 to 16")
        }
        guard blockSize == 512 || blockSize == 4096 else {
            throw ToolError.failed("--block-size is 512 or 4096")
        }
        guard ioTimeout > 0, deadConnTimeout > 0 else {
            throw ToolError.failed("time-outs are seconds from 1")
        }
        if let errorAfter, errorAfter <= 0 {
            throw ToolError.failed("--error-after is a number of seconds from 1")
        }
        guard foreground || Background.isDaemon else { return try startDaemon() }
        do {
            try serve(index)
        } catch {
            Background.failed("\(error)", status: (error as? ToolError)?.status ?? 2)
            throw error
        }
    }
    private func startDaemon() throws {
        try refuseSecondMapping()
        guard geteuid() == 0 || FileManager.default.isWritableFile(atPath: DaemonMark.defaultFolder) else {
            throw ToolError.failed(
                "mapping devices is for root; run it by sudo, with --mds if the MDS is this user's playground"
            )
        }
        try makeFolder(DaemonMark.defaultFolder, for: "the daemons of mapped devices")
        let name = String(path.dropFirst().map { $0 == "/" ? "-" : $0 })
        let log = logFile ?? "\(DaemonMark.defaultFolder)/\(name).log"
        do {
            print(try Background.start(arguments: Array(CommandLine.arguments.dropFirst()), logPath: log))
        } catch { throw DeviceName.toolError(error) }
    }
    private var identifier: String { DeviceName.identifier(of: path) }

    /// Checked before the volume is attached: attaching would end the other daemon's access.
    private func refuseSecondMapping() throws {
        for device in BlockDeviceTable().devices() where device.isConnected && device.identifier == identifier
        {
            if let pid = DaemonMark.pid(of: device.index) {
                throw ToolError.failed("\(path) is mapped already, as \(device.path), by process \(pid)")
            }
        }
    }
    private func serve(_ index: UInt32?) throws {
        try refuseSecondMapping()
        try makeFolder(DaemonMark.defaultFolder, for: "the daemons of mapped devices")
        let servers = try metadata.servers()
        let reactor = try daemon.reactor(name: "curve-nbd")
        let here = ProcessInfo.processInfo
        let socket = "\(DaemonMark.defaultFolder)/\(here.processIdentifier).sock"
        var options = MapOptions(identifier: identifier)
        (options.index, options.connections, options.blockBytes) = (index, connections, blockSize)
        (options.requestTimeoutSeconds, options.deadConnectionTimeoutSeconds) = (ioTimeout, deadConnTimeout)
        let gateway = Gateway(reactor: reactor, listen: [.unix(path: socket)])
        gateway.servesAfterLoss = true
        let keeper = DeviceKeeper(socket: socket, options: options, loop: reactor.handle)
        gateway.announce = { [keeper] _ in keeper.start() }
        gateway.stopsFirst = { [keeper] then in keeper.stop(then) }
        gateway.resized = { [keeper] size in keeper.resize(to: size) }
        keeper.ended = { [weak gateway] failure in gateway?.finish(failure) }
        let plan = ExportPlan(
            attach: AttachOptions(
                path: path, metadataServers: servers.addresses,
                holder: "curve-nbd map on \(here.hostName) pid \(here.processIdentifier)",
                holderKey: "map \(path) on \(here.hostName)", takeOver: takeover, isReadOnly: readOnly,
                policy: errorAfter.map { .errorAfter(.seconds($0)) } ?? .queue))
        try gateway.run([plan])
    }
}

/// What devices and volumes are called on the command line and in the kernel.
enum DeviceName {
    private static let prefix = "curve:"

    static func identifier(of path: String) -> String { prefix + path }

    /// The volume behind a device of ours.
    static func volume(_ device: NBDDevice) -> String? {
        guard let identifier = device.identifier, identifier.hasPrefix(prefix) else { return nil }
        return String(identifier.dropFirst(prefix.count))
    }
    static func index(_ name: String) throws -> UInt32 {
        guard let index = BlockDeviceTable.index(of: name) else {
            throw toolError(DeviceError.noSuchDevice(name))
        }
        return index
    }
    /// A device by its own name or by its volume's.
    static func find(_ name: String) throws -> UInt32 {
        if let index = BlockDeviceTable.index(of: name) { return index }
        let path = name.hasPrefix("/") ? name : "/" + name
        let devices = BlockDeviceTable().devices()
        if let found = devices.first(where: { $0.isConnected && volume($0) == path }) { return found.index }
        throw ToolError.notFound("'\(name)' is neither a device nor a mapped volume; see: curve-nbd list")
    }
    static func toolError(_ error: any Error) -> ToolError {
        switch error {
        case DeviceError.noSuchDevice, DeviceError.notConnected, DeviceError.daemon(_, status: 1):
            .notFound("\(error)")
        default: .failed("\(error)")
        }
    }
}
