import ArgumentParser
import BlockTypes
import ControlMessages
import Foundation
import ToolSupport

struct VolumeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "volume", abstract: "Create, list, resize, rename, delete and restore volumes.",
        subcommands: [
            VolumeCreate.self, VolumeList.self, VolumeInfo.self, VolumeResize.self, VolumeRename.self,
            VolumeDelete.self, VolumeRestore.self, VolumePurge.self, VolumeExpel.self, DirectoryCreate.self,
            DirectoryDelete.self,
        ])
}

/// Paths may be written without the leading slash.
func volumePath(_ text: String) -> String { text.hasPrefix("/") ? text : "/" + text }

/// A volume as JSON: the names are for ever, scripts read them.
struct VolumeJSON: Encodable {
    let id: UInt64, path: String, sizeBytes: UInt64, stripeUnitBytes: UInt32, stripeCount: UInt32
    let pool: String, epoch: UInt32, createdAt: String, holder: String?, deletedAt: String?
    let group: String?, members: [MemberJSON]?
    /// One of those who hold the volume together.
    struct MemberJSON: Encodable { let attachment: UInt32, holder: String, silent: Bool }
    init(_ volume: ControlVolume) {
        (id, path, sizeBytes) = (volume.id, volume.path, volume.sizeBytes)
        (stripeUnitBytes, stripeCount) = (volume.stripeUnitBytes, volume.stripeCount)
        (pool, epoch, createdAt) = (volume.poolName, volume.epoch, Text.time(volume.createdAt))
        holder = volume.holder.isEmpty ? nil : volume.holder
        deletedAt = volume.deletedAt == 0 ? nil : Text.time(volume.deletedAt)
        group = volume.group.isEmpty ? nil : volume.group
        members =
            volume.group.isEmpty
            ? nil
            : volume.members.map { MemberJSON(attachment: $0.epoch, holder: $0.holder, silent: $0.silent) }
    }
}

struct VolumeCreate: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "create", abstract: "Create a thin volume.",
        discussion: """
            Examples:
              curve volume create db --size 20G
              curve volume create databases/orders --size 1.5T --stripe-unit 1M --stripe-count 8
            """)
    @Argument(help: "Path of the volume, for example db or databases/orders.") var path: String
    @Option(help: "Size, for example 20G; a multiple of 4096 bytes from 1M to 1P.") var size: ByteSize
    @Option(help: "Pool (default: the only one).") var pool = ""
    @Option(help: "Bytes that stay together before the next chunk's turn (default 64K, or none below 64M).")
    var stripeUnit: ByteSize?
    @Option(help: "Chunks that take turns (default 4, or 1 below 64M).") var stripeCount: UInt32 = 0
    @OptionGroup var metadata: MetadataOptions
    func run() throws {
        var request = ControlCreateVolumeRequest()
        (request.path, request.sizeBytes, request.pool) = (volumePath(path), size.bytes, pool)
        guard let unit = UInt32(exactly: stripeUnit?.bytes ?? 0) else {
            throw ToolError.failed("--stripe-unit is at most 16M, the size of a chunk")
        }
        (request.stripeUnitBytes, request.stripeCount) = (unit, stripeCount)
        let volume = try MetadataCall(metadata.servers())(.createVolume(request)).volume.volume
        print("created \(volume.path), \(Text.size(volume.sizeBytes))")
    }
}

struct VolumeList: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "List volumes and directories.")
    @Argument(help: "Directory to list.") var path = "/"
    @Flag(help: "Also list what lies deeper.") var recursive = false
    @Flag(help: "List the recycle bin instead.") var deleted = false
    @Option(help: "table or json.") var format = OutputFormat.table
    @OptionGroup var metadata: MetadataOptions
    func run() throws {
        let call = MetadataCall(try metadata.servers())
        var entries: [ControlDirectoryEntry] = []
        if deleted {
            entries = try call(.listRecycled(ControlListRecycledRequest())).listRecycled.volumes.map {
                volume in
                var entry = ControlDirectoryEntry()
                (entry.path, entry.volume) = (volume.path, volume)
                return entry
            }
        } else {
            var request = ControlListDirectoryRequest()
            (request.path, request.recursive) = (volumePath(path), recursive)
            entries = try call(.listDirectory(request)).listDirectory.entries
        }
        if format == .json {
            struct Entry: Encodable { let path: String, isDirectory: Bool, volume: VolumeJSON? }
            return print(
                try Text.json(
                    entries.map {
                        Entry(
                            path: $0.path, isDirectory: $0.isDirectory,
                            volume: $0.isDirectory ? nil : VolumeJSON($0.volume))
                    }))
        }
        var rows = [["PATH", "SIZE", "STRIPE", "POOL", deleted ? "DELETED" : "HOLDER"]]
        for entry in entries {
            let volume = entry.volume
            rows.append(
                entry.isDirectory
                    ? [entry.path + "/", "", "", "", ""]
                    : [
                        volume.path, Text.size(volume.sizeBytes), stripe(volume), volume.poolName,
                        deleted ? Text.time(volume.deletedAt) : volume.holder.isEmpty ? "-" : volume.holder,
                    ])
        }
        print(Text.table(rows))
    }
}

private func stripe(_ volume: ControlVolume) -> String {
    volume.stripeCount <= 1 ? "plain" : "\(Text.size(UInt64(volume.stripeUnitBytes))) x \(volume.stripeCount)"
}

struct VolumeInfo: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "info", abstract: "Show one volume.")
    @Argument(help: "Path of the volume.") var path: String
    @Option(help: "table or json.") var format = OutputFormat.table
    @OptionGroup var metadata: MetadataOptions
    func run() throws {
        var request = ControlGetVolumeRequest()
        request.path = volumePath(path)
        let volume = try MetadataCall(metadata.servers())(.getVolume(request)).volume.volume
        if format == .json { return print(try Text.json(VolumeJSON(volume))) }
        print(
            Text.table(
                [
                    ["path", volume.path], ["id", "\(volume.id)"],
                    ["size", "\(Text.size(volume.sizeBytes)) (\(volume.sizeBytes) bytes)"],
                    ["stripe", stripe(volume)], ["pool", volume.poolName], ["epoch", "\(volume.epoch)"],
                    ["created", Text.time(volume.createdAt)],
                    ["holder", volume.holder.isEmpty ? "not attached" : volume.holder],
                ]
                    + volume.members.map { member in
                        ["member \(member.epoch)", member.holder + (member.silent ? " (silent)" : "")]
                    }))
    }
}

struct VolumeRename: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "rename", abstract: "Rename or move a volume or a directory.")
    @Argument(help: "Present path.") var from: String
    @Argument(help: "New path.") var to: String
    @OptionGroup var metadata: MetadataOptions
    func run() throws {
        var request = ControlRenameRequest()
        (request.from, request.to) = (volumePath(from), volumePath(to))
        _ = try MetadataCall(metadata.servers())(.rename(request))
        print("renamed \(volumePath(from)) to \(volumePath(to))")
    }
}

struct VolumeDelete: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "delete",
        abstract: "Move a volume to the recycle bin, or delete it for good with --purge.")
    @Argument(help: "Path of the volume.") var path: String
    @Flag(help: "Free its space at once; it cannot be restored.") var purge = false
    @OptionGroup var metadata: MetadataOptions
    func run() throws {
        var request = ControlDeleteVolumeRequest()
        (request.path, request.purgeNow) = (volumePath(path), purge)
        _ = try MetadataCall(metadata.servers())(.deleteVolume(request))
        print(
            purge
                ? "deleted \(volumePath(path)); its space is being freed"
                : "moved \(volumePath(path)) to the recycle bin; 'curve volume restore \(path)' brings it back"
        )
    }
}

struct VolumeRestore: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "restore", abstract: "Bring a deleted volume back from the recycle bin.")
    @Argument(help: "Path the volume had.") var path: String
    @Option(help: "Path to give it now (default: the one it had).") var to: String?
    @Option(help: "Id of the volume, when several of that path were deleted.") var id: UInt64?
    @OptionGroup var metadata: MetadataOptions
    func run() throws {
        var request = ControlRestoreVolumeRequest()
        (request.path, request.byPath, request.volume) = (volumePath(path), id == nil, id ?? 0)
        request.to = to.map(volumePath) ?? ""
        let volume = try MetadataCall(metadata.servers())(.restoreVolume(request)).volume.volume
        print("restored \(volume.path), \(Text.size(volume.sizeBytes))")
    }
}

struct VolumePurge: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "purge", abstract: "Delete a volume of the recycle bin for good and free its space.")
    @Argument(help: "Path the volume had.") var path: String
    @Option(help: "Id of the volume, when several of that path were deleted.") var id: UInt64?
    @OptionGroup var metadata: MetadataOptions
    func run() throws {
        var request = ControlPurgeVolumeRequest()
        (request.path, request.byPath, request.volume) = (volumePath(path), id == nil, id ?? 0)
        _ = try MetadataCall(metadata.servers())(.purgeVolume(request))
        print("purged \(volumePath(path)); its space is being freed")
    }
}

struct DirectoryCreate: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "mkdir", abstract: "Create a directory.")
    @Argument(help: "Path of the directory.") var path: String
    @Flag(name: .shortAndLong, help: "Also create what is missing above it.") var parents = false
    @OptionGroup var metadata: MetadataOptions
    func run() throws {
        var request = ControlCreateDirectoryRequest()
        (request.path, request.parents) = (volumePath(path), parents)
        _ = try MetadataCall(metadata.servers())(.createDirectory(request))
    }
}

struct DirectoryDelete: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "rmdir", abstract: "Delete an empty directory.")
    @Argument(help: "Path of the directory.") var path: String
    @OptionGroup var metadata: MetadataOptions
    func run() throws {
        var request = ControlDeleteDirectoryRequest()
        request.path = volumePath(path)
        _ = try MetadataCall(metadata.servers())(.deleteDirectory(request))
    }
}
