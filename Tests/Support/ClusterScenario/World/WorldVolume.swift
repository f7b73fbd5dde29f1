import BlockTypes
import Checkers

/// One volume of a world, as the judge knows it: what was done to it, by whom, and what may have become of
/// it.
final class WorldVolume {
    let number: Int
    let plan: WorldVolumePlan
    let record = LoadRecord()
    /// Its newest name. No name is ever used for two volumes.
    var path: String
    /// A name that somebody has asked for without hearing what came of it.
    var rumouredPath: String?
    /// Counts what happened to its name.
    var nameChanges = 0
    /// Somebody has asked to delete or purge it: from then on it may be gone.
    var isDeletionAsked = false
    /// When the metadata server said that it was deleted for good.
    var purgedAt: Duration?
    var isPurged: Bool { purgedAt != nil }
    /// It lies in the recycle bin, as far as its owner knows.
    var isRecycled = false
    /// Somebody resized it without holding it: that fences whoever held it last.
    var isShrunkUnheld = false
    /// The metadata server's database was put back and may know it otherwise, or not at all.
    private(set) var isDoubtful = false
    /// What the copy of the database says of it; `nil`: the copy does not know it.
    private var backup: (paths: [String], isDeletionAsked: Bool, isPurged: Bool)?
    /// The names that it may have in a database that was put back.
    private var oldPaths: [String] = []
    private var isRenamedSince = false
    /// The clients that ever tried to attach it, in order.
    var clients: [WorldClient] = []

    init(number: Int, _ plan: WorldVolumePlan) {
        (self.number, self.plan) = (number, plan)
        path = "/v\(number)"
        record.sizes = VolumeSizes(bytes: plan.sizes[0])
    }
    /// The newest client that may still be of use.
    var client: WorldClient? { clients.last }
    var openCount: Int { clients.reduce(0) { $0 + $1.openCount } }
    var isBusy: Bool { !isPurged && !isRecycled && record.issued < plan.load.operations }
    /// Where a client may find it.
    var paths: [String] { [path] + (rumouredPath.map { [$0] } ?? []) + oldPaths }
    /// True when a name that is not found proves something.
    var isNameSure: Bool { rumouredPath == nil && !isRenamedSince && !isDoubtful }
    /// A copy of the database is taken.
    func isBackedUp() { backup = (paths, isDeletionAsked, isPurged) }
    /// The copy takes the database's place.
    func isPutBack() {
        guard let backup else { return (isDoubtful, isDeletionAsked) = (true, true) }
        isRenamedSince = paths != backup.paths || rumouredPath != nil
        oldPaths = backup.paths.filter { $0 != path }
        guard isDeletionAsked || backup.isDeletionAsked else { return }
        (isDoubtful, isDeletionAsked) = (true, true)
        if !backup.isPurged { purgedAt = nil }
    }

    // MARK: Sizes

    /// The sectors of the load that lie in these bytes.
    private func sectors(in bytes: Range<UInt64>) -> [Range<UInt64>] {
        let unit = UInt64(Geometry.sectorBytes)
        return plan.load.hotSpots.compactMap { spot in
            let touched =
                UInt64(spot.lowerBound * Geometry.blockBytes)..<UInt64(spot.upperBound * Geometry.blockBytes)
            let both = touched.clamped(to: bytes)
            return both.isEmpty ? nil : (both.lowerBound / unit)..<(both.upperBound / unit)
        }
    }
    /// Somebody asks for another size. What a smaller one cuts off reads as zeroes when it is grown again.
    /// - Returns: the writes of zeroes that this means, for ``sizeSettled(_:_:isDone:session:)``.
    func sizeAsked(_ size: UInt64) -> [UInt64] {
        record.sizes?.ask(size)
        return sectors(in: size..<max(size, plan.sizes.max() ?? size)).map { range in
            let id = record.newID()
            record.history.startWrite(id, range, value: 0)
            return id
        }
    }
    func sizeSettled(_ size: UInt64, _ writes: [UInt64], isDone: Bool, session: UInt32) {
        record.sizes?.settle(size, isDone: isDone)
        for id in writes {
            if isDone { record.history.finishWrite(id) } else { record.leaveOpen(id, session: session) }
        }
    }
}
