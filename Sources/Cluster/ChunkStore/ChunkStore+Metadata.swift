import BlockTypes

/// What the store remembers on the metadata server's behalf: so an older copy of its database is noticed.
extension ChunkStore {
    /// A revision becomes durable with the next root; one that is due only for it waits this long after the
    /// last, so that busy metadata costs data no write amplification.
    static let revisionRootAfter = Duration.seconds(5)

    /// The highest revision of the metadata server's database that was heard of.
    public var metadataRevision: UInt64 { heardRevision }
    /// What of ``metadataRevision`` a power loss cannot take.
    public var durableMetadataRevision: UInt64 { durableRevision }

    /// Keeps a revision of the metadata server's database, if it is higher than the one known.
    public func remember(metadataRevision revision: UInt64) { heardRevision = max(heardRevision, revision) }

    func tickRevision() {
        guard heardRevision > durableRevision, now - lastCheckpoint >= Self.revisionRootAfter else { return }
        wantsCheckpoint = true
    }

    /// What the copysets here know of one volume, taken together.
    public struct VolumeKnowledge: Hashable, Sendable {
        /// Which volume.
        public var volume: VolumeID
        /// The newest fence.
        public var fence: VolumeFence
        /// True when a copyset has deleted it.
        public var isDeleted: Bool
    }
    /// The next volumes after `volume`, ascending, `countMax` at most.
    public func volumes(after volume: VolumeID, countMax: Int) -> [VolumeKnowledge] {
        var known: [VolumeID: VolumeKnowledge] = [:]
        for id in copysetIDs {
            guard let copyset = copysetsByID[id] else { continue }
            var count = 0
            for volumeID in copyset.volumeIDs where volumeID > volume {
                guard count < countMax, let record = copyset.volumes[volumeID]?.record else { break }
                count += 1
                var knowledge =
                    known[volumeID]
                    ?? VolumeKnowledge(volume: volumeID, fence: record.fence, isDeleted: false)
                if record.fence.isNewer(than: knowledge.fence) { knowledge.fence = record.fence }
                if record.isDeleted { knowledge.isDeleted = true }
                known[volumeID] = knowledge
            }
        }
        return known.keys.sorted().prefix(countMax).compactMap { known[$0] }
    }
}
