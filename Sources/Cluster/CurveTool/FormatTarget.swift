import BlockTypes
import ChunkStore
import Environment
import Foundation
import Reactor
import ToolSupport

/// What `curve chunkserver format` writes to. Everything that can refuse is asked before anything changes.
final class FormatTarget {
    private let path: String
    private let wantedBytes: UInt64?
    private let isLazy: Bool
    private let mayOverwrite: Bool
    private var hasMadeFile = false
    /// How much of a device is looked at for data: superblocks and partition tables of everybody lie there.
    private static let probeBytes = 1 << 20

    init(path: String, sizeBytes: UInt64?, isLazy: Bool, mayOverwrite: Bool) {
        (self.path, wantedBytes) = (path, sizeBytes)
        (self.isLazy, self.mayOverwrite) = (isLazy, mayOverwrite)
    }

    private var isDevice: Bool {
        (try? FileManager.default.attributesOfItem(atPath: path))?[.type] as? FileAttributeType
            == .typeBlockSpecial
    }

    /// Refuses what already holds data, and sizes that cannot be.
    func check() throws {
        let exists = FileManager.default.fileExists(atPath: path)
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

    /// Makes the file. A device is there already.
    func prepare() throws {
        guard !isDevice, let wantedBytes else { return }
        if FileManager.default.fileExists(atPath: path) { try FileManager.default.removeItem(atPath: path) }
        do {
            let progress = FormatProgress(path: path, total: wantedBytes)
            try ReactorDisk.create(
                path: path, size: ByteCount(bytes: wantedBytes), provisioning: isLazy ? .lazy : .prewritten,
                progress: { progress.show($0.bytes) })
            progress.end()
            hasMadeFile = true
        } catch { throw ToolError.failed("\(error)") }
    }

    /// Writes the empty store and makes it durable.
    func write(_ identity: StoreIdentity) throws {
        let reactor = try Self.makeReactor()
        let disk: ReactorDisk
        do { disk = try ReactorDisk.open(reactor, path: path) } catch { throw ToolError.failed("\(error)") }
        var geometry = disk.geometry
        if isDevice, let wantedBytes {
            guard wantedBytes <= geometry.size.bytes else {
                throw ToolError.failed(
                    "\(path) has only \(Text.size(geometry.size.bytes)); choose a smaller --size")
            }
            geometry = DiskGeometry(
                size: ByteCount(bytes: wantedBytes), sectorBytes: geometry.sectorBytes,
                hasVolatileCache: geometry.hasVolatileCache)
        }
        let format: StoreFormat
        do {
            format = try StoreFormat(
                identity: identity, geometry: geometry,
                journalBytes: StoreFormat.defaultJournalBytes(for: geometry.size),
                isLazilyGrown: isLazy && !isDevice)
        } catch { throw ToolError.failed("\(path): \(error)") }
        var failure: ToolError?
        let formatter = StoreFormatter(format)
        var effects: [StoreFormatter.Effect] = []
        func pump() {
            effects.removeAll(keepingCapacity: true)
            formatter.takeEffects(&effects)
            for effect in effects {
                switch effect {
                case .disk(let request): disk.submit(request)
                case .formatted: reactor.stop()
                case .failed(let why):
                    failure = .failed("formatting \(path) failed: \(why)")
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

    /// Leaves nothing half-made.
    func undo() {
        if hasMadeFile { try? FileManager.default.removeItem(atPath: path) }
    }
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
