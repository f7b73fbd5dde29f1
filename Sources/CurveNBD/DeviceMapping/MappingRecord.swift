import BlockTypes

/// One mapping in words: what `map` asks of the daemon, and the state file that outlives both.
///
/// As text: `key value` a line. A volume is known by its cluster and number; its path is for people, since
/// another volume may have it tomorrow.
public struct MappingRecord: Hashable, Sendable {
    /// N of /dev/nbdN; `nil` lets the kernel choose.
    public var index: UInt32?
    /// The volume's path when it was mapped.
    public var path: String
    /// The cluster's id in 32 hexadecimal digits; empty while it is not known.
    public var cluster = ""
    /// The volume's number in its cluster; 0 while it is not known.
    public var volume: UInt64 = 0
    /// Where the metadata servers listen.
    public var metadataServers: [String]
    /// Refuses writes.
    public var isReadOnly = false
    /// Takes the volume from whoever holds it; a wish of one `map`, not kept.
    public var takesOver = false
    /// Tells the kernel that blocks cannot be given back.
    public var refusesTrim = false
    /// The kernel talks to the daemon itself, not to the holder.
    public var isDirect = false
    /// Uses the driver's older interface, even where there is netlink.
    public var usesIoctl = false
    /// Sockets between the kernel and the holder or the daemon.
    public var connections = 1
    /// Logical block size.
    public var blockBytes = Geometry.blockBytes
    /// See ``DeviceSetup/requestTimeoutSeconds``.
    public var requestTimeoutSeconds: UInt64 = DeviceSetup.heldRequestTimeoutSecondsDefault
    /// See ``DeviceSetup/deadConnectionTimeoutSeconds``.
    public var deadConnectionTimeoutSeconds: UInt64 = DeviceSetup.deadConnectionTimeoutSecondsDefault
    /// Requests fail after so long without a majority; 0: they wait.
    public var errorAfterSeconds: UInt64 = 0
    /// What the kernel and the user call the mapping, instead of the volume's identity; empty: nothing.
    public var cookie = ""
    /// Names the holder of the volume across restarts of its daemon.
    public var holderKey: String

    /// A mapping of the volume at `path` with the usual choices.
    public init(path: String, metadataServers: [String], holderKey: String) {
        (self.path, self.metadataServers, self.holderKey) = (path, metadataServers, holderKey)
    }

    /// What the kernel keeps with the device, so that no other volume is ever attached to it.
    public var identifier: String {
        "\(Self.identifierPrefix)\(cluster)/\(volume)" + (cookie.isEmpty ? "" : " \(cookie)")
    }
    /// Every identifier of ours begins so.
    public static let identifierPrefix = "curve:"
    /// Longest text of a record.
    static let textBytesMax = 64 << 10

    private static let head = "curve-nbd mapping 1"

    /// The record as text.
    public var text: String {
        var lines = [Self.head]
        if let index { lines.append("device nbd\(index)") }
        lines.append("path \(path)")
        if !cluster.isEmpty { lines += ["cluster \(cluster)", "volume \(volume)"] }
        lines += metadataServers.map { "mds \($0)" }
        for (name, value) in [
            ("read-only", isReadOnly), ("takeover", takesOver), ("no-trim", refusesTrim),
            ("direct", isDirect), ("ioctl", usesIoctl),
        ] {
            lines.append("\(name) \(value ? "yes" : "no")")
        }
        lines += [
            "connections \(connections)", "block-size \(blockBytes)", "io-timeout \(requestTimeoutSeconds)",
            "dead-conn-timeout \(deadConnectionTimeoutSeconds)", "error-after \(errorAfterSeconds)",
            "holder-key \(holderKey)",
        ]
        if !cookie.isEmpty { lines.append("cookie \(cookie)") }
        return lines.joined(separator: "\n") + "\n"
    }

    /// Reads what ``text`` writes. Lines that a newer program wrote are passed over.
    /// - Returns: `nil` when it is not a record, or one of impossible values.
    public init?(_ text: String) {
        let lines = text.split(separator: "\n", omittingEmptySubsequences: true)
        guard lines.first.map(String.init) == Self.head else { return nil }
        self.init(path: "", metadataServers: [], holderKey: "")
        for line in lines.dropFirst() {
            let words = line.split(separator: " ", maxSplits: 1, omittingEmptySubsequences: false)
            guard words.count == 2, read(String(words[0]), String(words[1])) else { return nil }
        }
        let hasName = path.hasPrefix("/") && !holderKey.isEmpty && !metadataServers.isEmpty
        guard hasName, (1...Self.connectionsMax).contains(connections), [512, 4096].contains(blockBytes),
            deadConnectionTimeoutSeconds > 0
        else { return nil }
    }
    /// What one device has use for.
    public static let connectionsMax = 16

    /// - Returns: false when the value makes no sense.
    private mutating func read(_ key: String, _ value: String) -> Bool {
        func keep<Value>(_ parsed: Value?, _ target: inout Value) -> Bool {
            guard let parsed else { return false }
            target = parsed
            return true
        }
        let flag: Bool? = value == "yes" ? true : value == "no" ? false : nil
        switch key {
        case "device":
            index = BlockDeviceTable.index(of: value)
            return index != nil
        case "path": path = value
        case "cluster": cluster = value
        case "volume": return keep(UInt64(value), &volume)
        case "mds": metadataServers.append(value)
        case "read-only": return keep(flag, &isReadOnly)
        case "takeover": return keep(flag, &takesOver)
        case "no-trim": return keep(flag, &refusesTrim)
        case "direct": return keep(flag, &isDirect)
        case "ioctl": return keep(flag, &usesIoctl)
        case "connections": return keep(Int(value), &connections)
        case "block-size": return keep(Int(value), &blockBytes)
        case "io-timeout": return keep(UInt64(value), &requestTimeoutSeconds)
        case "dead-conn-timeout": return keep(UInt64(value), &deadConnectionTimeoutSeconds)
        case "error-after": return keep(UInt64(value), &errorAfterSeconds)
        case "holder-key": holderKey = value
        case "cookie": cookie = value
        default: break
        }
        return true
    }
    /// True when each value fits on a line of its own.
    public var isPlain: Bool {
        ([path, cluster, holderKey, cookie] + metadataServers).allSatisfy { value in
            value.unicodeScalars.allSatisfy { $0.value >= 0x20 && $0.value != 0x7F }
        }
    }
}
