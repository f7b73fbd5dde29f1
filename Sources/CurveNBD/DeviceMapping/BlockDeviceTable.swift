import BlockTypes

/// One NBD device as the kernel shows it.
public struct NBDDevice: Hashable, Sendable {
    /// N of /dev/nbdN.
    public var index: UInt32
    /// Size; zero when nothing is connected.
    public var size: ByteCount
    /// True when writes are refused.
    public var isReadOnly: Bool
    /// The process that connected it; `nil` when nothing is connected. It may have ended since.
    public var pid: Int?
    /// What the connecting program called its volume.
    public var identifier: String?
    /// Who uses it: "mounted on PATH", "swap", "below dm-0".
    public var users: [String]
    /// Requests that the kernel has sent and that are not answered: reads, and everything else.
    public var inFlight = InFlight()
    /// Counts of requests.
    public struct InFlight: Hashable, Sendable {
        /// Reads.
        public var reads = 0
        /// Writes, flushes and discards.
        public var writes = 0
    }
    /// /dev/nbdN.
    public var path: String { "/dev/nbd\(index)" }
    /// True while the kernel serves the device, though perhaps with dead connections.
    public var isConnected: Bool { pid != nil }
}

/// Reads the kernel's view of its NBD devices from /sys and /proc.
public struct BlockDeviceTable: Sendable {
    private let sys: String
    private let proc: String
    /// The machine's own, or a copy elsewhere for tests.
    public init(sys: String = "/sys", proc: String = "/proc") { (self.sys, self.proc) = (sys, proc) }

    /// True when the kernel has NBD devices at all.
    public var hasModule: Bool { !indexes.isEmpty || !Text.namesIn("\(sys)/module/nbd").isEmpty }

    /// All devices by number, connected or not.
    public func devices() -> [NBDDevice] {
        let (mounts, swaps) = (Self.mounts(Text.ofFile("\(proc)/self/mountinfo") ?? ""), swappedPaths())
        return indexes.map { device($0, mounts, swaps) }
    }
    /// One device.
    /// - Returns: `nil` when the kernel has no such device.
    public func device(_ index: UInt32) -> NBDDevice? { devices().first { $0.index == index } }

    /// True while the kernel serves the device; cheaper than ``device(_:)``.
    public func isConnected(_ index: UInt32) -> Bool { Text.line("\(sys)/block/nbd\(index)/pid") != nil }
    /// True while the kernel serves the device under this identifier, or does not say under which.
    ///
    /// A number that became free is given to the next device at once.
    public func isConnected(_ index: UInt32, as identifier: String?) -> Bool {
        guard isConnected(index) else { return false }
        return identifier == nil || (self.identifier(of: index) ?? identifier) == identifier
    }
    /// What the connecting program called its volume; `nil` when nothing is connected, and before Linux 5.14.
    func identifier(of index: UInt32) -> String? { Text.line("\(sys)/block/nbd\(index)/backend") }

    /// The number in `/dev/nbdN`, `nbdN` or `N`.
    public static func index(of name: String) -> UInt32? {
        let digits =
            name.hasPrefix("/dev/nbd")
            ? name.dropFirst(8) : name.hasPrefix("nbd") ? name.dropFirst(3) : name[...]
        return digits.allSatisfy(\.isNumber) ? UInt32(digits) : nil
    }

    private var indexes: [UInt32] {
        Text.namesIn("\(sys)/block").filter { $0.hasPrefix("nbd") }.compactMap(Self.index).sorted()
    }
    private func device(_ index: UInt32, _ mounts: [String: [String]], _ swaps: Set<String>) -> NBDDevice {
        let name = "nbd\(index)"
        let root = "\(sys)/block/\(name)"
        // The disk and its partitions, each of which may be mounted or built upon.
        let parts = [root] + Text.namesIn(root).filter { $0.hasPrefix("\(name)p") }.map { "\(root)/\($0)" }
        var users: [String] = []
        for part in parts {
            for mount in mounts[Text.line("\(part)/dev") ?? ""] ?? [] { users.append("mounted on \(mount)") }
            users += Text.namesIn("\(part)/holders").map { "below \($0)" }
            if let last = part.split(separator: "/").last, swaps.contains("/dev/\(last)") {
                users.append("swap")
            }
        }
        return NBDDevice(
            index: index, size: ByteCount(bytes: (UInt64(Text.line("\(root)/size") ?? "") ?? 0) &* 512),
            isReadOnly: Text.line("\(root)/ro") == "1", pid: Text.line("\(root)/pid").flatMap { Int($0) },
            identifier: identifier(of: index), users: users,
            inFlight: Self.inFlight(Text.line("\(root)/inflight") ?? ""))
    }
    /// Two numbers: reads, and the rest.
    private static func inFlight(_ line: String) -> NBDDevice.InFlight {
        let counts = line.split(separator: " ").compactMap { Int($0) }
        guard counts.count == 2 else { return NBDDevice.InFlight() }
        return NBDDevice.InFlight(reads: counts[0], writes: counts[1])
    }
    private func swappedPaths() -> Set<String> {
        let lines = (Text.ofFile("\(proc)/swaps") ?? "").split(separator: "\n").dropFirst()
        return Set(lines.compactMap { $0.split(separator: " ").first.map(String.init) })
    }
    /// Mount points by `major:minor`. Fields of a line: `id parent major:minor root mount-point ...`.
    static func mounts(_ mountinfo: String) -> [String: [String]] {
        var mounts: [String: [String]] = [:]
        for line in mountinfo.split(separator: "\n") {
            let fields = line.split(separator: " ")
            guard fields.count > 4 else { continue }
            mounts[String(fields[2]), default: []].append(unescaped(fields[4]))
        }
        return mounts
    }
    /// The kernel writes blanks and backslashes as three octal digits.
    private static func unescaped(_ field: Substring) -> String {
        var (bytes, rest) = ([UInt8](), Array(field.utf8)[...])
        while let byte = rest.popFirst() {
            let digits = rest.prefix(3).compactMap { (0x30...0x37).contains($0) ? Int($0) - 0x30 : nil }
            if byte == 0x5C, digits.count == 3 {
                bytes.append(UInt8(truncatingIfNeeded: digits.reduce(0) { $0 * 8 + $1 }))
                rest = rest.dropFirst(3)
            } else {
                bytes.append(byte)
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}
