import ArgumentParser
import BlockTypes
import CurveClient
import DeviceMapping
import Environment
import Foundation
import ToolSupport

struct MapCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "map", abstract: "Make a volume a block device of this machine, /dev/nbdX.",
        discussion: """
            Prints the device once it is usable. One daemon serves every device of this machine \
            until 'curve-nbd unmap'. When it dies it is started again, and users of the \
            devices notice nothing but a pause.
            Example:
              mkfs.ext4 "$(curve-nbd map db)"
            Not there yet, and refused: snapshots (VOL@SNAP), --qos, --quiesce-hook, --encryption.
            """)
    @Argument(help: "Path of the volume.") var volume: String
    @Option(help: "The device, /dev/nbdN or N (default: the kernel chooses).") var device: String?
    @Flag(help: "Refuse writes.") var readOnly = false
    @Flag(help: "Take the volume from whoever holds it; the holder can never write to it again.")
    var takeover = false
    @Option(help: "Sockets of the kernel, 1 to 16 (default: 1, or 2 with --direct).") var connections: Int?
    @Flag(
        help: """
            Let the kernel talk to the daemon itself: less work for each request, but after the \
            daemon's death what was under way waits for --io-timeout.
            """) var direct = false
    @Option(help: "Logical block size, 512 or 4096.") var blockSize = 4096
    @Option(
        name: [.long, .customLong("timeout")],
        help: """
            Seconds after which the kernel gives a connection up and sends its requests again \
            (default: 0, never; or 5 with --direct).
            """)
    var ioTimeout: UInt64?
    @Option(
        name: [.long, .customLong("reattach-timeout")],
        help: "Seconds for which requests wait for a new daemon; then they fail.")
    var deadConnTimeout = DeviceSetup.deadConnectionTimeoutSecondsDefault
    @Option(help: "A name for the device of your own, for 'unmap' and 'list'.") var cookie = ""
    @Option(help: "Fail requests after this many seconds without a majority (default: wait).") var errorAfter:
        Int?
    @Option(help: "Where the daemon logs, if this starts it (default: \(DaemonClient.logPath)).")
    var logFile: String?
    @Flag(help: "Serve from this process until it is unmapped or ended by a signal.") var foreground = false
    @Flag(
        name: [.long, .customLong("no-trim")], help: "Do not offer the kernel to give blocks back (discard).")
    var notrim = false
    @Flag(
        help: """
            Use the driver's older interface, as kernels before 4.12 need it (chosen by itself there): the \
            device does not outlive the death of its holder.
            """) var ioctl = false
    @Flag(help: .hidden) var netlink = false
    @OptionGroup var old: OldMapOptions
    @OptionGroup var later: LaterMapOptions
    @OptionGroup var metadata: MetadataOptions
    @OptionGroup var daemon: DaemonOptions

    /// The volume's path with its slash.
    var path: String { volume.hasPrefix("/") ? volume : "/" + volume }

    func run() throws {
        guard foreground else { return print(try map()) }
        let record = try wanted()
        try makeFolder(DaemonMark.defaultFolder, for: "the daemons of mapped devices")
        try DeviceDaemon(try daemon.reactor(name: "curve-nbd"), stays: false).runForeground(record)
    }
    /// Has the daemon map the volume.
    /// - Returns: the device.
    func map() throws -> String {
        let device = try DaemonClient(logPath: logFile, logLevel: daemon.logLevel).map(try wanted())
        PartitionScan.start(device)
        return device
    }
    private func wanted() throws -> MappingRecord {
        var asked = self
        for list in old.lists { try asked.take(list) }
        let record = try asked.record()
        try refuseSecondMapping()
        return record
    }
    /// What the options mean.
    private func record() throws -> MappingRecord {
        try later.refuse(path)
        try old.apply()
        let connections = connections ?? (direct ? 2 : 1)
        guard (1...MappingRecord.connectionsMax).contains(connections) else {
            throw ToolError.failed("--connections is a number from 1 to \(MappingRecord.connectionsMax)")
        }
        guard blockSize == Geometry.sectorBytes || blockSize == Geometry.blockBytes else {
            throw ToolError.failed("--block-size is 512 or 4096")
        }
        guard deadConnTimeout > 0 else {
            throw ToolError.failed("--reattach-timeout is a number of seconds from 1")
        }
        let ioTimeout =
            ioTimeout
            ?? (direct
                ? DeviceSetup.requestTimeoutSecondsDefault : DeviceSetup.heldRequestTimeoutSecondsDefault)
        if let errorAfter, errorAfter <= 0 {
            throw ToolError.failed("--error-after is a number of seconds from 1")
        }
        let host = ProcessInfo.processInfo.hostName
        var record = MappingRecord(
            path: path, metadataServers: try metadata.servers().addresses.map(\.description),
            holderKey: "map \(path) on \(host)")
        record.index = try device.flatMap { $0 == "auto" ? nil : try DeviceName.index($0) }
        (record.isReadOnly, record.takesOver, record.cookie) = (readOnly, takeover, cookie)
        (record.connections, record.blockBytes) = (connections, blockSize)
        (record.requestTimeoutSeconds, record.deadConnectionTimeoutSeconds) = (ioTimeout, deadConnTimeout)
        guard !(ioctl && direct) else {
            throw ToolError.failed(
                "--ioctl and --direct: a device made by ioctl lives in the holder; choose one")
        }
        (record.refusesTrim, record.isDirect, record.usesIoctl) = (notrim, direct, ioctl)
        record.errorAfterSeconds = UInt64(errorAfter ?? 0)
        guard record.isPlain else { throw ToolError.failed("names have no control characters") }
        return record
    }

    /// Takes the options of `-o k=v,...`.
    private mutating func take(_ list: String) throws {
        for word in list.split(separator: ",") {
            let parts = word.split(separator: "=", maxSplits: 1).map(String.init)
            let (key, value) = (parts[0], parts.count == 2 ? parts[1] : nil)
            func number<Number: LosslessStringConvertible>() throws -> Number {
                guard let value, let number = Number(value) else {
                    throw ToolError.failed("-o \(key) needs a number, as in \(key)=30")
                }
                return number
            }
            switch key {
            case "ro", "read-only": readOnly = true
            case "takeover": takeover = true
            case "device": device = value
            case "cookie": cookie = value ?? ""
            case "notrim", "no-trim": notrim = true
            case "direct": direct = true
            case "ioctl": ioctl = true
            case let key where LaterMapOptions.words.contains(key): throw LaterMapOptions.refusal("-o \(key)")
            case "connections": connections = try number()
            case "block-size": blockSize = try number()
            case "timeout", "io-timeout": ioTimeout = try number()
            case "reattach-timeout", "dead-conn-timeout": deadConnTimeout = try number()
            case "error-after": errorAfter = try number()
            case "nbds_max": old.devicesMax = try number()
            case "max_part": old.partitionsMax = try number()
            case "try-netlink", "exclusive", "rw", "_netdev": break
            default: throw ToolError.failed("-o \(key): no such option; see: curve-nbd map --help")
            }
        }
    }

    /// Checked before the volume is attached: attaching would end the other daemon's access.
    private func refuseSecondMapping() throws {
        let connected = Set(BlockDeviceTable().devices().filter(\.isConnected).map(\.index))
        for record in MappingFolder.standard.records() where record.path == path {
            guard let index = record.index, connected.contains(index), let pid = DaemonMark.pid(of: index)
            else { continue }
            throw ToolError.failed("\(path) is mapped already, as /dev/nbd\(index), by process \(pid)")
        }
    }
}

/// What scripts for other tools say. It changes nothing here, or is told why not.
struct OldMapOptions: ParsableArguments {
    @Flag(name: [.customLong("try-netlink"), .customLong("exclusive")], help: .hidden) var usual = false
    @Option(name: [.customLong("nbds_max"), .customLong("nbds-max")], help: .hidden) var devicesMax: Int?
    @Option(name: [.customLong("max_part"), .customLong("max-part")], help: .hidden) var partitionsMax: Int?
    /// Where other clients find their cluster; ours is told by --mds.
    @Option(name: .customLong("nebd-conf"), help: .hidden) var nebdConf: String?
    @Flag(name: [.customLong("no-exclusive"), .customLong("shared")], help: .hidden) var isShared = false
    @Option(
        name: [.customShort("o"), .customLong("options")],
        help: ArgumentHelp("Options in one word, as other tools take them.", valueName: "k=v,..."))
    var lists: [String] = []

    func apply() throws {
        if isShared {
            throw ToolError.failed(
                "--no-exclusive: a volume has one writer at a time; use --takeover to take it from its holder"
            )
        }
        for number in [devicesMax, partitionsMax].compactMap({ $0 }) where !(1...1024).contains(number) {
            throw ToolError.failed("--nbds_max and --max_part are numbers from 1 to 1024")
        }
        guard !BlockDeviceTable().hasModule else { return }
        // The module takes them when it is loaded, and only then.
        let arguments =
            ["nbd"] + (devicesMax.map { ["nbds_max=\($0)"] } ?? [])
            + (partitionsMax.map { ["max_part=\($0)"] } ?? [])
        let modprobe = Process()
        modprobe.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        modprobe.arguments = ["modprobe"] + arguments
        modprobe.standardError = FileHandle.nullDevice
        // Without the module the mapping fails, and says why.
        guard (try? modprobe.run()) != nil else { return }
        modprobe.waitUntilExit()
    }
}

/// What is planned and not there: refused in words, since a device without what was asked of it is no answer.
struct LaterMapOptions: ParsableArguments {
    @Option(help: .hidden) var qos: String?
    @Flag(help: .hidden) var quiesce = false
    @Option(help: .hidden) var quiesceHook: String?
    @Option(name: [.long, .customLong("encryption-format")], help: .hidden) var encryption: String?
    @Option(name: [.customLong("passphrase-file"), .customLong("encryption-passphrase-file")], help: .hidden)
    var passphraseFile: String?
    @Flag(help: .hidden) var ublk = false
    /// The same as options of `-o`.
    static let words: Set = [
        "qos", "quiesce", "quiesce-hook", "encryption", "encryption-format", "passphrase-file",
        "encryption-passphrase-file", "ublk",
    ]

    func refuse(_ path: String) throws {
        let asked = [
            ("--qos", qos != nil), ("--quiesce", quiesce), ("--quiesce-hook", quiesceHook != nil),
            ("--encryption", encryption != nil), ("--passphrase-file", passphraseFile != nil),
            ("--ublk", ublk),
        ]
        if let name = asked.first(where: \.1)?.0 { throw Self.refusal(name) }
        guard !path.contains("@") else {
            throw ToolError.failed("\(path): snapshots are not there yet; name the volume itself")
        }
    }
    static func refusal(_ name: String) -> ToolError {
        .failed("\(name) is not there yet; map without it, or see: curve-nbd map --help")
    }
}

/// The kernel reads a partition table when a device is first opened.
enum PartitionScan {
    /// A cluster that does not answer keeps nobody from using the device.
    private static let patienceSeconds = 5.0

    /// Opens the device, so that its partitions show.
    static func start(_ device: String) {
        let done = DispatchSemaphore(value: 0)
        let thread = Thread {
            let file = open(device, O_RDONLY | O_CLOEXEC)
            if file >= 0 { close(file) }
            done.signal()
        }
        thread.start()
        _ = done.wait(timeout: .now() + patienceSeconds)
    }
}

/// What devices and volumes are called on the command line and in the kernel.
enum DeviceName {
    /// What is known of a device of ours.
    static func record(_ device: NBDDevice) -> MappingRecord? {
        guard let record = MappingFolder.standard.record(of: device.index),
            device.identifier == nil || device.identifier == record.identifier
        else { return nil }
        return record
    }
    static func index(_ name: String) throws -> UInt32 {
        guard let index = BlockDeviceTable.index(of: name) else {
            throw toolError(DeviceError.noSuchDevice(name))
        }
        return index
    }
    /// A device by its own name, its volume's, or its cookie.
    static func find(_ name: String) throws -> UInt32 {
        if let index = BlockDeviceTable.index(of: name) { return index }
        let path = name.hasPrefix("/") ? name : "/" + name
        let found = BlockDeviceTable().devices().first { device in
            guard device.isConnected, let record = record(device) else { return false }
            return record.path == path || record.cookie == name
        }
        if let found { return found.index }
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
