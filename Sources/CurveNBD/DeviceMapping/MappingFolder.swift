import Glibc

/// The state files of this machine's mappings, one a device. They outlive daemons and reboots.
public struct MappingFolder: Sendable {
    /// Where they are unless a test wants them elsewhere.
    public static let standard = MappingFolder(path: "/var/lib/curve-nbd")
    private let path: String
    /// The folder at `path`, which need not exist.
    public init(path: String) { self.path = path }

    private func file(_ index: UInt32) -> String { "\(path)/nbd\(index)" }

    /// Keeps the record of a device; durable on return.
    /// - Throws: ``DeviceError/system(call:errno:)``.
    public func save(_ record: MappingRecord, of index: UInt32) throws(DeviceError) {
        guard unsafe mkdir(path, 0o700) == 0 || errno == EEXIST else {
            throw .system(call: "create \(path)", errno: errno)
        }
        let (final, draft) = (file(index), "\(path)/.nbd\(index).new")
        let output = unsafe open(draft, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard output >= 0 else { throw .system(call: "open \(draft)", errno: errno) }
        defer { close(output) }
        var kept = record
        (kept.index, kept.takesOver) = (index, false)
        let bytes = Array(kept.text.utf8)
        guard unsafe write(output, bytes, bytes.count) == bytes.count, fsync(output) == 0 else {
            throw .system(call: "write \(draft)", errno: errno)
        }
        guard unsafe rename(draft, final) == 0 else { throw .system(call: "rename \(draft)", errno: errno) }
        let folder = unsafe open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard folder >= 0 else { return }
        fsync(folder)
        close(folder)
    }
    /// The record of a device; `nil` when there is none that makes sense.
    public func record(of index: UInt32) -> MappingRecord? {
        guard let text = Text.ofFile(file(index)), let record = MappingRecord(text), record.index == index
        else { return nil }
        return record
    }
    /// Every record, by device.
    public func records() -> [MappingRecord] {
        Text.namesIn(path).compactMap(BlockDeviceTable.index(of:)).sorted().compactMap(record(of:))
    }
    /// Forgets a device; harmless when nothing was known of it.
    public func remove(_ index: UInt32) { unsafe _ = unlink(file(index)) }
}
