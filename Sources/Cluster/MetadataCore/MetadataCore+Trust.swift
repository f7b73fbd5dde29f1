import BlockTypes

/// What this process has heard about how new its database is.
struct TrustLedger {
    /// Chunkservers that registered before this process started and have not spoken since.
    private(set) var unheard: Set<ServerID>
    private let knownCount: Int
    /// An operator goes on without those who were not heard.
    var isOverruled = false
    /// The highest revision and address book that anybody remembers.
    var heardRevision: UInt64 = 0
    var heardBookVersion: UInt64 = 0
    /// Stores that carry numbers which this database never gave, by number.
    var strangers: [ServerID: ServerRow] = [:]
    /// What stores know of volumes and the rows do not say. Asked for while the database is known to be old.
    var found: [VolumeID: KnownVolume] = [:]
    private var asked: [ServerID: Page] = [:]
    private struct Page {
        var after = VolumeID(0)
        var isComplete = false
    }

    init(_ state: MetadataState) {
        unheard = Set(state.servers.values.filter { !$0.addresses.isEmpty }.map(\.id))
        knownCount = unheard.count
    }
    /// A majority of those who could remember more than the database says have spoken. What was known to a
    /// majority is then known here.
    var hasHeardMajority: Bool {
        isOverruled || knownCount == 0 || (knownCount - unheard.count) * 2 > knownCount
    }
    var heardText: String { "\(knownCount - unheard.count) of \(knownCount)" }

    mutating func spoke(_ server: ServerID) { unheard.remove(server) }
    /// What was heard of the lost database is settled.
    mutating func adopted() { (heardRevision, strangers, found, asked) = (0, [:], [:], [:]) }
    /// After which volume to ask a server for more; `nil` when it has said all.
    func inquiry(of server: ServerID) -> VolumeID? {
        let page = asked[server] ?? Page()
        return page.isComplete ? nil : page.after
    }
    func isComplete(_ server: ServerID) -> Bool { asked[server]?.isComplete ?? false }
    /// Takes a page, and keeps of it what `isNews` says.
    mutating func take(
        _ inventory: VolumeInventory, from server: ServerID, volumesMax: Int,
        isNews: (KnownVolume) -> Bool
    ) {
        guard inventory.after == inquiry(of: server) else { return }
        for known in inventory.volumes where isNews(known) {
            guard var old = found[known.volume] else {
                if found.count < volumesMax { found[known.volume] = known }
                continue
            }
            if known.fence.isNewer(than: old.fence) { old.fence = known.fence }
            old.isDeleted = old.isDeleted || known.isDeleted
            found[known.volume] = old
        }
        let last = inventory.volumes.last?.volume ?? inventory.after
        asked[server] = Page(after: last, isComplete: inventory.isLast || last <= inventory.after)
    }
}

/// A database that was put back from an older copy would give epochs and numbers twice and bring back what
/// is gone. So every transaction that gives or changes something raises a revision, whoever is answered
/// hears it, chunkservers keep the highest they heard, and whoever remembers more than we do proves that
/// our database is old.
extension MetadataCore {
    /// Counts the transactions that gave or changed something.
    public var revision: UInt64 { state.cluster.revision ?? 0 }
    var heardRevision: UInt64 { max(trustLedger.heardRevision, state.cluster.heardRevision ?? 0) }
    /// Whether the database may be relied on.
    var trust: DatabaseTrust {
        if isPlanted(.databaseBelieved) { return .current }
        if heardRevision > revision { return .wentBack }
        return trustLedger.hasHeardMajority ? .current : .waiting
    }

    /// Somebody of this cluster remembers `revision`.
    mutating func heard(revision: UInt64) {
        guard revision > self.revision, revision - self.revision <= limits.revisionGapMax else { return }
        trustLedger.heardRevision = max(trustLedger.heardRevision, revision)
    }
    /// Somebody of this cluster has an address book of this version.
    mutating func heard(addressBookVersion version: UInt64) {
        let ours = state.cluster.addressBookVersion
        guard version > ours, version - ours <= limits.revisionGapMax else { return }
        trustLedger.heardBookVersion = max(trustLedger.heardBookVersion, version)
    }
    /// A registered chunkserver has spoken for itself.
    mutating func spoke(_ server: ServerID, revision: UInt64) {
        heard(revision: revision)
        trustLedger.spoke(server)
    }
    /// A store of this cluster carries a number that this database never gave.
    mutating func metStranger(_ registration: ServerRegistration) {
        guard registration.server.rawValue >= state.cluster.nextServer,
            registration.server.rawValue - state.cluster.nextServer <= limits.revisionGapMax,
            state.serverOfDevice[registration.device] == nil
        else { return }
        heard(revision: max(registration.revision, revision + 1))
        guard trustLedger.strangers.count < limits.serversMax else { return }
        trustLedger.strangers[registration.server] = ServerRow(
            id: registration.server, device: registration.device, host: registration.host)
    }
    mutating func take(_ inventory: VolumeInventory, from server: ServerID) {
        guard trust == .wentBack else { return }
        let (volumes, nextVolume) = (state.volumes, state.cluster.nextVolume)
        trustLedger.take(inventory, from: server, volumesMax: limits.volumesMax) { known in
            guard let row = volumes[known.volume] else {
                return known.volume.rawValue >= nextVolume && !known.isDeleted
            }
            let fence = VolumeFence(epoch: row.epoch, size: .zero, change: row.change ?? 0)
            return known.fence.isNewer(than: fence) || known.isDeleted && !row.isPurging
        }
    }

    /// Refuses for as long as somebody remembers more than the database says.
    func databaseWentBack() -> MetadataRefusal {
        MetadataRefusal(.databaseWentBack, wentBackText)
    }
    var wentBackText: String {
        "the metadata server's database is older than what chunkservers or clients remember (revision"
            + " \(revision), they have heard \(heardRevision)): it was put back from a backup, or its disk"
            + " forgot. I/O of attached volumes goes on; nothing is attached, made, changed or deleted. Put"
            + " the newest database back, or go on with this one: \"curve mds adopt\""
    }
    var waitingText: String {
        "the metadata server has just started and has heard \(trustLedger.heardText) chunkservers; it gives"
            + " nothing before a majority has said that its database is the newest; try again, or start more"
            + " chunkservers; if they are gone for good: \"curve mds adopt --force\""
    }
    /// The transaction that remembers that the database went back, if it does not yet.
    func notice() -> Decision? {
        let heard = heardRevision
        guard heard > revision, heard > state.cluster.heardRevision ?? 0 else { return nil }
        var cluster = state.cluster
        cluster.heardRevision = heard
        return Decision(bookkeeping: .done, [.put(.cluster(cluster))], [.log(wentBackText)])
    }
}

extension MetadataRequest {
    /// True for a question about what a path names.
    var looksUpPath: Bool {
        switch self {
        case .volume, .list: true
        default: false
        }
    }
    /// True for what gives or changes something that an older database could give twice or bring back.
    var needsTrust: Bool {
        switch self {
        case .cluster, .registerServer, .heartbeat, .status, .volume, .list, .listRecycled, .renewLease,
            .detach, .addressBook, .adoptDatabase:
            false
        case .allocateServer, .createPool, .createVolume, .resize, .rename, .deleteVolume, .restore, .purge,
            .createDirectory, .deleteDirectory, .attach, .removeMember, .value, .swapValue:
            true
        }
    }
}
