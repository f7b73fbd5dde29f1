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
            let index = try DeviceName.find(device)
            try DeviceRemoval.unmap(index, force: force, timeoutSeconds: timeout)
            // A daemon does so too; there may be none.
            MappingFolder.standard.remove(index)
        } catch let error as DeviceError { throw DeviceName.toolError(error) }
    }
}

struct ListCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "Show mapped devices, their volumes, daemons and users.",
        discussion: """
            IN FLIGHT: requests that the kernel has sent and that are not answered, reads and others. \
            A device without a daemon waits for one. The fields of --format json are in README.md \
            beside the sources.
            """,
        aliases: ["list-mapped", "status"])
    @Option(help: "table or json.") var format = OutputFormat.table

    @Flag(name: [.customLong("pretty-format"), .customLong("show-cookie")], help: .hidden) var isPretty =
        false

    private struct Row: Encodable {
        var device: String
        var volume: String?
        var identifier: String?
        var cookie: String?
        var sizeBytes: UInt64
        var isReadOnly: Bool
        var isConnected: Bool
        var isServed: Bool
        var daemonPid: Int?
        var connections: Int?
        var readsInFlight = 0
        var writesInFlight = 0
        var users: [String]
    }
    func run() throws {
        let table = BlockDeviceTable()
        guard table.hasModule else { throw DeviceName.toolError(DeviceError.noModule) }
        let devices = table.devices()
        // The driver itself knows best; a container may hide it.
        let live = try? NBDKernel().connectedIndexes()
        var rows = devices.filter(\.isConnected).map { device in
            let (record, pid) = (DeviceName.record(device), DaemonMark.pid(of: device.index))
            return Row(
                device: device.path, volume: record?.path, identifier: device.identifier,
                cookie: record?.cookie, sizeBytes: device.size.bytes, isReadOnly: device.isReadOnly,
                isConnected: live?.contains(device.index) ?? true, isServed: pid != nil, daemonPid: pid,
                connections: record?.connections, readsInFlight: device.inFlight.reads,
                writesInFlight: device.inFlight.writes, users: device.users)
        }
        // What was mapped before a reboot is known, though the kernel does not have it.
        let connected = Set(devices.filter(\.isConnected).map(\.index))
        for record in MappingFolder.standard.records() {
            guard let index = record.index, !connected.contains(index) else { continue }
            rows.append(
                Row(
                    device: "/dev/nbd\(index)", volume: record.path, identifier: record.identifier,
                    cookie: record.cookie, sizeBytes: 0, isReadOnly: record.isReadOnly, isConnected: false,
                    isServed: false, daemonPid: nil, connections: record.connections, users: []))
        }
        switch format {
        case .json: print(try Text.json(rows))
        case .table:
            print(
                Text.table([["DEVICE", "VOLUME", "SIZE", "DAEMON", "IN FLIGHT", "USED BY"]] + rows.map(line)))
        }
    }
    private func line(_ row: Row) -> [String] {
        let cookie = row.cookie.map { $0.isEmpty ? "" : " (\($0))" } ?? ""
        let name = (row.volume ?? row.identifier ?? "unknown") + cookie
        let isKnown = row.isServed || row.isConnected || row.sizeBytes > 0
        let size = isKnown ? Text.size(row.sizeBytes) + (row.isReadOnly ? " read-only" : "") : "-"
        let daemon =
            row.daemonPid.map { "\($0)" }
            ?? (isKnown ? "none: curve-nbd attach" : "not connected: curve-nbd attach")
        let users = row.users.isEmpty ? "-" : row.users.joined(separator: ", ")
        let inFlight = isKnown ? "\(row.readsInFlight)+\(row.writesInFlight)" : "-"
        return [row.device, name, size, daemon, inFlight, users]
    }
}

struct AttachCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "attach", abstract: "Serve devices again after a crash or a reboot.",
        discussion: """
            Each volume comes back under the device that it had, or not at all. Without a name: \
            all that were mapped and are not served.
            """)
    @Argument(help: "A device, /dev/nbdN or N, a volume's path, or a cookie.") var name: String?
    @Option(help: "The device for a volume that was never mapped here, as 'map --device'.") var device:
        String?
    @OptionGroup var metadata: MetadataOptions
    @OptionGroup var daemon: DaemonOptions

    func run() throws {
        let known = MappingFolder.standard.records().filter {
            $0.index.flatMap { DaemonMark.pid(of: $0) } == nil
        }
        guard let name else {
            var failure: ToolError?
            for record in known {
                do { print(try attach(record)) } catch let error as ToolError {
                    ToolExit.say("\(record.path): \(error)")
                    failure = error
                }
            }
            if let failure { throw ExitCode(failure.status) }
            return
        }
        let (index, path) = (BlockDeviceTable.index(of: name), name.hasPrefix("/") ? name : "/" + name)
        let record = known.first { record in
            index != nil ? record.index == index : record.path == path || record.cookie == name
        }
        if let record { return print(try attach(record)) }
        if let served = try? DeviceName.find(name), let pid = DaemonMark.pid(of: served) {
            throw ToolError.failed("\(name) is served already, by process \(pid)")
        }
        guard let device, index == nil else {
            throw ToolError.notFound("nothing is known of '\(name)' here; map the volume, or give --device")
        }
        var record2 = MappingRecord(
            path: path, metadataServers: try metadata.servers().addresses.map(\.description),
            holderKey: "map \(path) on \(ProcessInfo.processInfo.hostName)")
        record2.index = try DeviceName.index(device)
        print(try attach(record2))
    }
    private func attach(_ record: MappingRecord) throws -> String {
        try DaemonClient(logLevel: daemon.logLevel).map(record)
    }
}

struct UpgradeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "upgrade", abstract: "Hand every mapped device to the program that is installed now.",
        discussion: "Requests under way finish, later ones wait for the new program; none fails.")
    @Option(help: "Seconds that the new program may take to serve every device.") var timeout = 60

    func run() throws {
        let client = DaemonClient()
        guard let before = try client.ask(DaemonSocket.Question("upgrade")) else {
            throw ToolError.notFound("no daemon runs, so nothing is mapped; see: curve-nbd list")
        }
        let end = Date().addingTimeInterval(Double(timeout))
        while Date() < end {
            Thread.sleep(forTimeInterval: 0.1)
            let words = (try? client.ask(DaemonSocket.Question("status")))?.split(separator: " ") ?? []
            guard words.count == 4, words[1] != before, words[2] == words[3] else { continue }
            return print("version \(words[0]), process \(words[1]), serves \(words[2]) devices")
        }
        throw ToolError.failed(
            "not every device is served again after \(timeout) s; see \(DaemonClient.logPath)")
    }
}

struct CheckCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check", abstract: "Say whether a device is served: exit status 0 if so, 1 if not.",
        discussion: "Prints the process that serves it. Example: curve-nbd check /dev/nbd0")
    @Argument(help: "The device, /dev/nbdN or N, the volume's path, or a cookie.") var device: String

    func run() throws {
        let index = try DeviceName.find(device)
        guard BlockDeviceTable().isConnected(index) else {
            throw DeviceName.toolError(DeviceError.notConnected("/dev/nbd\(index)"))
        }
        guard let pid = DaemonMark.pid(of: index) else {
            throw ToolError.notFound("/dev/nbd\(index) waits for a daemon; run: curve-nbd attach")
        }
        print(pid)
    }
}
