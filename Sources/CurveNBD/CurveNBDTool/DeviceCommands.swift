import ArgumentParser
import DeviceMapping
import Foundation
import ToolSupport

struct UnmapCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "unmap", abstract: "Remove a mapped device; returns when the kernel has let it go.",
        discussion: "Example: curve-nbd unmap /dev/nbd0     or: curve-nbd unmap db", aliases: ["detach"])
    @Argument(help: "The device, /dev/nbdN or N, or the volume's path.") var device: String
    @Flag(name: [.long, .short], help: "Even when it is in use: whoever uses it gets errors.") var force =
        false
    @Option(help: "Seconds that processes which have it open may take to close it.") var timeout = 30

    func run() throws {
        guard timeout > 0 else { throw ToolError.failed("--timeout is a number of seconds from 1") }
        do {
            try DeviceRemoval.unmap(try DeviceName.find(device), force: force, timeoutSeconds: timeout)
        } catch let error as DeviceError { throw DeviceName.toolError(error) }
    }
}

struct ListCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "Show mapped devices, their volumes, daemons and users.",
        aliases: ["list-mapped"])
    @Option(help: "table or json.") var format = OutputFormat.table

    private struct Row: Encodable {
        var device: String
        var volume: String?
        var identifier: String?
        var sizeBytes: UInt64
        var isReadOnly: Bool
        var daemonPid: Int?
        var users: [String]
    }
    func run() throws {
        let table = BlockDeviceTable()
        guard table.hasModule else { throw DeviceName.toolError(DeviceError.noModule) }
        let rows = table.devices().filter(\.isConnected).map { device in
            Row(
                device: device.path, volume: DeviceName.volume(device), identifier: device.identifier,
                sizeBytes: device.size.bytes, isReadOnly: device.isReadOnly,
                daemonPid: DaemonMark.pid(of: device.index), users: device.users)
        }
        switch format {
        case .json: print(try Text.json(rows))
        case .table:
            let head = ["DEVICE", "VOLUME", "SIZE", "DAEMON", "USED BY"]
            let lines = rows.map { row in
                let name = row.volume ?? row.identifier ?? "unknown"
                let daemon = row.daemonPid.map { "\($0)" } ?? "none: map the volume again"
                let size = Text.size(row.sizeBytes) + (row.isReadOnly ? " read-only" : "")
                return [
                    row.device, name, size, daemon,
                    row.users.isEmpty ? "-" : row.users.joined(separator: ", "),
                ]
            }
            print(Text.table([head] + lines))
        }
    }
}
