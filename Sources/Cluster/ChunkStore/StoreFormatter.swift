import BlockTypes
import Environment

/// Writes an empty store: a cleared journal and four superblocks.
public final class StoreFormatter {
    /// What it wants done, and how it ended.
    public enum Effect: Sendable {
        /// Hand to the disk.
        case disk(DiskRequest)
        /// The store is durable.
        case formatted
        /// The device failed.
        case failed(DiskError)
    }
    private enum Stage: Int {
        case journal, journalFlush, firstCopies, firstFlush, lastCopies, lastFlush, ended
    }

    private let format: StoreFormat
    private let superblock: Superblock
    private var stage = Stage.journal
    private var effects: [Effect] = []
    private var pending: Set<UInt64> = []
    private var nextToken: UInt64 = 1
    private var cleared: UInt64 = 0
    private let clearedBytes: UInt64
    private static let clearStepBytes = 1 << 20
    private static let clearsMax = 4

    /// A formatter for `format`.
    public init(_ format: StoreFormat) {
        self.format = format
        superblock = Superblock(format)
        // A ring that is written once never asks the file system below for space again.
        clearedBytes = format.isLazilyGrown ? format.journalBytes : min(format.journalBytes, 1 << 20)
    }
    /// Begins.
    public func start() { clearMore() }
    /// A request has ended.
    public func diskCompleted(_ token: DiskToken, _ result: Result<Void, DiskError>) {
        guard pending.remove(token.rawValue) != nil, stage != .ended else { return }
        if case .failure(let error) = result {
            stage = .ended
            effects.append(.failed(error))
            return
        }
        if stage == .journal { clearMore() }
        guard pending.isEmpty else { return }
        advance()
    }
    /// Appends what is to be done and forgets it.
    public func takeEffects(_ into: inout [Effect]) {
        into.append(contentsOf: effects)
        effects.removeAll()
    }

    private func clearMore() {
        while cleared < clearedBytes && pending.count < Self.clearsMax {
            let byteCount = Int(min(UInt64(Self.clearStepBytes), clearedBytes - cleared))
            var page = PageWriter(BlockBuffer(byteCount: byteCount))
            page.pad(to: byteCount)
            let offset = ByteOffset(bytes: StoreLayout.journalStart + cleared)
            cleared += UInt64(byteCount)
            submit { .write($0, at: offset, [Payload(page.buffer, byteCount: byteCount)]) }
        }
    }
    private func advance() {
        switch stage {
        case .journal, .firstCopies, .lastCopies:
            stage = Stage(rawValue: stage.rawValue + 1) ?? .ended
            submit { .flush($0) }
        case .journalFlush:
            stage = .firstCopies
            writeCopies(superblock.layout.superblockBlocks[0..<2])
        case .firstFlush:
            stage = .lastCopies
            writeCopies(superblock.layout.superblockBlocks[2..<4])
        case .lastFlush:
            stage = .ended
            effects.append(.formatted)
        case .ended: break
        }
    }
    private func writeCopies(_ blocks: ArraySlice<UInt32>) {
        let payload = superblock.encode(into: BlockBuffer(byteCount: Geometry.blockBytes))
        for block in blocks { submit { .write($0, at: ByteOffset(bytes: UInt64(block) * 4096), [payload]) } }
    }
    private func submit(_ make: (DiskToken) -> DiskRequest) {
        let token = nextToken
        nextToken += 1
        pending.insert(token)
        effects.append(.disk(make(DiskToken(rawValue: token))))
    }
}
