import BlockTypes
import ChunkStore
import Environment
import Foundation
import Reactor
import ToolSupport

/// What `curve chunkserver format` writes to. Everything that can refuse is asked before anything changes,
/// and a file is made under another name, so that whoever sees its own name sees a whole store.
final class FormatTarget: @unchecked Sendable {
    // SAFETY: nothing changes after init; an interrupt only removes the unfinished file.
    private let path: String
    private let wantedBytes: UInt64?
    private let isLazy: Bool
    private let mayOverwrite: Bool
    /// Of a file: its name until it is whole.
    private let unfinished: String
    private static let unfinishedSuffix = ".formatting-"
    /// How much of a device is looked at for data: superblocks and partition tables of everybody lie there.
    private static let probeBytes = 1 << 20

    init(path: String, sizeBytes: UInt64?, isLazy: Bool, mayOverwrite: Bool) {
        (self.path, wantedBytes) = (path, sizeBytes)
        (self.isLazy, self.mayOverwrite) = (isLazy, mayOverwrite)
        unfinished = "\(path)\(Self.unfinishedSuffix)\(getpid())"
    }
    private var folder: String {
        let parent = (path as NSString).deletingLastPathComponent
        return parent.isEmpty ? "." : parent
    }

    private var isDevice: Bool {
        (try? FileManager.default.attributesOfItem(atPath: path))?[.type] as? FileAttributeType
            == .typeBlockSpecial
    }

    /// Refuses what already holds data, and sizes that cannot be.
    func check() throws {
        var isFolder: ObjCBool = false
        let exists = FileManager.default.fileExists(atPath: path, isDirectory: &isFolder)
        guard !isFolder.boolValue else {
            throw ToolError.failed("\(path) is a folder; name a file in it, for example \(path)/store")
        }
        guard FileManager.default.fileExists(atPath: folder) else {
            throw ToolError.failed("the folder \(folder) does not exist; make it first")
        }
        if isDevice {
            if !mayOverwrite, try holdsData() {
                throw ToolError.failed("\(path) holds data; add --force to overwrite it for good")
            }
        } else if exists {
            guard mayOverwrite else {
                throw ToolError.failed("\(path) exists already; add --force to overwrite it for good")
            }
            // A store that is being served is never overwritten, forced or not.
            let reactor = try Self.makeReactor()
            do { try ReactorDisk.open(reactor, path: path).close() } catch {
                throw ToolError.failed("\(error)")
            }
        }
        guard isDevice || wantedBytes != nil else {
            throw ToolError.failed("a file needs a --size, for example --size 100G")
        }
        if let wantedBytes, wantedBytes % 4096 != 0 || wantedBytes > UInt64(Int64.max) {
            throw ToolError.failed(
                "--size must be a multiple of 4096 bytes; the nearest is \(wantedBytes / 4096 * 4096)")
        }
    }

    private static func makeReactor() throws -> Reactor {
        do { return try Reactor() } catch { throw ToolError.failed("\(error)") }
    }

    private func holdsData() throws -> Bool {
        guard let handle = FileHandle(forReadingAtPath: path) else {
            throw ToolError.failed("no permission to read \(path); run as a user who may (group disk)")
        }
        defer { try? handle.close() }
        let start = try handle.read(upToCount: Self.probeBytes) ?? Data()
        return start.contains { $0 != 0 }
    }

    /// Makes the file, if it is one, and sees that a store fits.
    func prepare() throws {
        if !isDevice, let wantedBytes {
            removeLeftovers()
            do {
                let progress = FormatProgress(path: path, total: wantedBytes)
                try ReactorDisk.create(
                    path: unfinished, size: ByteCount(bytes: wantedBytes),
                    provisioning: isLazy ? .lazy : .prewritten, progress: { progress.show($0.bytes) })
                progress.end()
            } catch { throw failure(error) }
        }
        let nobody = StoreIdentity(
            cluster: UniqueID(high: 0, low: 0), device: UniqueID(high: 0, low: 0), server: ServerID(0),
            incarnation: Incarnation(0))
        let reactor = try Self.makeReactor()
        let disk = try open(reactor)
        defer { disk.close() }
        try reserve(try format(nobody, disk.geometry).journalBytes)
    }
    /// Takes the room that an empty store needs, so that a full file system says so before the store has a
    /// number.
    private func reserve(_ journalBytes: UInt64) throws {
        guard !isDevice, isLazy else { return }
        let file = Glibc.open(unfinished, O_WRONLY | O_CLOEXEC)
        guard file >= 0 else { return }
        defer { close(file) }
        let frontBytes = off_t(journalBytes) + Self.frontBytes
        guard posix_fallocate(file, 0, frontBytes) != ENOSPC else { throw noRoom }
    }
    /// What lies before a store's journal, rounded up.
    private static let frontBytes: off_t = 2 << 20
    private var noRoom: ToolError {
        .failed("no room for a store at \(path); free space or choose another folder")
    }
    /// What killed processes left of earlier attempts.
    private func removeLeftovers() {
        let prefix = (path as NSString).lastPathComponent + Self.unfinishedSuffix
        let names = (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
        for name in names where name.hasPrefix(prefix) {
            guard let process = Int32(name.dropFirst(prefix.count)), kill(process, 0) != 0, errno == ESRCH
            else { continue }
            try? FileManager.default.removeItem(atPath: folder + "/" + name)
        }
    }

    private func open(_ reactor: Reactor) throws -> ReactorDisk {
        do { return try ReactorDisk.open(reactor, path: isDevice ? path : unfinished) } catch {
            throw failure(error)
        }
    }
    /// The user's words for an error: without the name that a file has only meanwhile.
    private func failure(_ error: any Error) -> ToolError {
        .failed("\(error)".replacingOccurrences(of: unfinished, with: path))
    }
    private func format(_ identity: StoreIdentity, _ wholeDisk: DiskGeometry) throws -> StoreFormat {
        var geometry = wholeDisk
        if isDevice, let wantedBytes {
            guard wantedBytes <= geometry.size.bytes else {
                throw ToolError.failed(
                    "\(path) has only \(Text.size(geometry.size.bytes)); choose a smaller --size")
            }
            geometry = DiskGeometry(
                size: ByteCount(bytes: wantedBytes), sectorBytes: geometry.sectorBytes,
                hasVolatileCache: geometry.hasVolatileCache)
        }
        do {
            return try StoreFormat(
                identity: identity, geometry: geometry,
                journalBytes: StoreFormat.defaultJournalBytes(for: geometry.size),
                isLazilyGrown: isLazy && !isDevice)
        } catch { throw ToolError.failed("\(path): \(error)") }
    }

    /// Writes the empty store and makes it durable.
    func write(_ identity: StoreIdentity) throws {
        let reactor = try Self.makeReactor()
        let disk = try open(reactor)
        var failure: ToolError?
        let formatter = StoreFormatter(try format(identity, disk.geometry))
        var effects: [StoreFormatter.Effect] = []
        func pump() {
            effects.removeAll(keepingCapacity: true)
            formatter.takeEffects(&effects)
            for effect in effects {
                switch effect {
                case .disk(let request): disk.submit(request)
                case .formatted: reactor.stop()
                case .failed(.full):
                    failure = noRoom
                    reactor.stop()
                case .failed(.io(let errno)):
                    failure = .failed("\(path) cannot be written: \(systemWords(errno)); look at the device")
                    reactor.stop()
                case .failed(.short):
                    failure = .failed("\(path) ends before its size; look at the device")
                    reactor.stop()
                }
            }
        }
        disk.completed = { token, result in
            formatter.diskCompleted(token, result)
            pump()
        }
        formatter.start()
        pump()
        reactor.run()
        if let failure { throw failure }
    }

    /// Gives a file its name.
    func publish() throws {
        guard !isDevice else { return }
        // A link never replaces anything, not even what somebody made there a moment ago.
        var code = mayOverwrite ? rename(unfinished, path) : link(unfinished, path)
        if code != 0, [EPERM, EOPNOTSUPP].contains(errno), !FileManager.default.fileExists(atPath: path) {
            code = rename(unfinished, path)  // A file system without links.
        }
        guard code == 0 else {
            let why = errno
            throw ToolError.failed(
                why == EEXIST
                    ? "\(path) exists already; add --force to overwrite it for good"
                    : "cannot give the store its name \(path): \(systemWords(why))")
        }
        undo()
        // Or a power failure might forget the name.
        let parent = Glibc.open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard parent >= 0 else { return }
        fsync(parent)
        close(parent)
    }

    /// Leaves nothing half-made.
    func undo() { unlink(unfinished) }
}

/// How far the writing of a large file has come, on a terminal.
private final class FormatProgress {
    private let path: String
    private let total: UInt64
    private var shownPercent = -1
    private let isTerminal = isatty(2) == 1
    init(path: String, total: UInt64) { (self.path, self.total) = (path, total) }
    func show(_ done: UInt64) {
        let percent = Int(done * 100 / max(total, 1))
        guard isTerminal, percent != shownPercent else { return }
        shownPercent = percent
        FileHandle.standardError.write(Data("\rwriting \(path): \(percent) %".utf8))
    }
    func end() {
        if isTerminal, shownPercent >= 0 { FileHandle.standardError.write(Data("\n".utf8)) }
    }
}
