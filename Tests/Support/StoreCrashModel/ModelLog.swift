import BlockTypes

/// What one leader's log says, and what a store must show at each index: the truth that the store is judged
/// by.
struct ModelCopyset {
    let id: CopysetID
    var term: UInt32 = 1
    /// The leader's log; index 1 is at place 0.
    var log: [ModelEntry] = []
    var committed = 0
    var nextTag: UInt64 = 1
    var epoch: UInt32 = 1
    /// Of the volumes' fences, both counted together.
    var change: UInt32 = 0

    // What the store has been told and what it has answered.
    var sent: [ModelEntry] = []
    var acknowledged = 0
    var told = 0
    var vote: (Term, ServerID?) = (Term(0), nil)
    var storedVote = Term(0)
    var isCreated = false
    var sync = ModelSync.none
    /// The term of the leader that the copy comes from.
    var sourceTerm = Term(0)
    /// The highest term up to which its log was durable since then.
    var reachedTerm = Term(0)
    var isSyncing: Bool { if case .none = sync { false } else { true } }
}

struct ModelEntry: Equatable {
    var term: UInt32
    var change: ModelChange
}

enum ModelChange: Equatable {
    case noop
    case write(ModelRun, RequestTag, ids: [UInt64])
    case trim(ModelRun, RequestTag)
    case fence(VolumeID, VolumeFence)
    case delete(VolumeID)
}

struct ModelRun: Equatable {
    var chunk: ChunkKey
    var first: Int
    var count: Int
    var run: BlockRun {
        guard let run = BlockRun(chunk: chunk, firstBlock: first, blockCount: count) else {
            preconditionFailure("a model run outside a chunk")
        }
        return run
    }
}

/// A block's place on a volume.
struct ModelBlock: Hashable {
    var chunk: UInt64
    var block: Int
}

/// The state of a copyset after some entries: which content each block has.
struct ModelState {
    var content: [ModelBlock: UInt64] = [:]
    var volumes: [UInt64: ModelVolume] = [:]
    struct ModelVolume {
        var epoch: UInt32
        var size: UInt64
        var change: UInt32
        var done: Set<UInt64> = []
        var isDeleted = false
    }

    mutating func apply(_ change: ModelChange) {
        switch change {
        case .noop: break
        case .write(let run, let tag, let ids):
            guard admit(run, tag) else { return }
            for place in 0..<run.count {
                content[ModelBlock(chunk: run.chunk.rawValue, block: run.first + place)] = ids[place]
            }
        case .trim(let run, let tag):
            guard admit(run, tag) else { return }
            for place in 0..<run.count {
                content[ModelBlock(chunk: run.chunk.rawValue, block: run.first + place)] = nil
            }
        case .fence(let volume, let fence): apply(volume, fence)
        case .delete(let volume):
            volumes[volume.rawValue, default: ModelVolume(epoch: 0, size: 0, change: 0)].isDeleted = true
            content = content.filter { ChunkKey(rawValue: $0.key.chunk).volume != volume }
        }
    }
    private mutating func admit(_ run: ModelRun, _ tag: RequestTag) -> Bool {
        let id = run.chunk.volume.rawValue
        guard var volume = volumes[id], !volume.isDeleted, volume.epoch == tag.session.rawValue,
            !volume.done.contains(tag.sequence)
        else { return false }
        let end = UInt64(run.chunk.index) << 24 + UInt64((run.first + run.count) * 4096)
        guard end <= volume.size else { return false }
        volume.done.insert(tag.sequence)
        volumes[id] = volume
        return true
    }
    private mutating func apply(_ id: VolumeID, _ fence: VolumeFence) {
        guard var volume = volumes[id.rawValue] else {
            volumes[id.rawValue] = ModelVolume(
                epoch: fence.epoch.rawValue, size: fence.size.bytes, change: fence.change)
            return
        }
        let isSameEpoch = fence.epoch.rawValue == volume.epoch
        guard fence.epoch.rawValue > volume.epoch || isSameEpoch && fence.change > volume.change else {
            return
        }
        if !isSameEpoch { volume.done = [] }
        (volume.epoch, volume.size) = (fence.epoch.rawValue, fence.size.bytes)
        volume.change = fence.change
        volumes[id.rawValue] = volume
        content = content.filter { place, _ in
            let key = ChunkKey(rawValue: place.chunk)
            return key.volume != id || UInt64(key.index) << 24 + UInt64(place.block * 4096) < fence.size.bytes
        }
    }
}

/// Bytes that name themselves: every 8 bytes of a block hold the write's number.
package enum ModelBytes {
    package static func payload(_ ids: [UInt64]) -> (Payload, [CRC32C]) {
        let buffer = BlockBuffer(byteCount: ids.count * 4096)
        for (place, id) in ids.enumerated() {
            UnsafeMutableRawBufferPointer(rebasing: buffer.bytes[(place * 4096)..<(place * 4096 + 4096)])
                .initializeMemory(as: UInt64.self, repeating: id)
        }
        let payload = Payload(buffer, byteCount: ids.count * 4096)
        return (payload, CRC32C.perBlock(of: payload))
    }
    /// - Returns: the number that the whole block carries, `nil` when it is torn.
    package static func id(of payload: Payload, block: Int) -> UInt64? {
        payload.withBytes { bytes in
            let words = UnsafeRawBufferPointer(rebasing: bytes[(block * 4096)..<(block * 4096 + 4096)])
            let first = words.loadUnaligned(as: UInt64.self)
            for offset in stride(from: 0, to: 4096, by: 512)
            where words.loadUnaligned(fromByteOffset: offset, as: UInt64.self) != first { return nil }
            return first
        }
    }
}
