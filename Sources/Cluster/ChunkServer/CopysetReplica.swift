import BlockTypes
import ChunkStore
import CurveWire
import Raft

/// Who gets the answer to a client's request.
struct Responder {
    let session: ClientSession
    let requestID: UInt64
    /// Payload bytes that the request holds in memory.
    let bytesHeld: Int
}

/// Names one request of all that a copyset sees: attachments of different volumes have the same numbers.
struct VolumeTag: Hashable {
    let volume: VolumeID
    let tag: RequestTag
}

/// A change that this leader has put into its log and not yet answered.
struct PendingChange {
    /// The request's tag; nil for what the MDS asked for.
    let tag: VolumeTag?
    /// The volume, when the change is a fence or a deletion: other requests for it wait until it is applied.
    let gatedVolume: VolumeID?
    /// The MDS's task, if it is one.
    let task: UInt64?
    /// Empty once answered: the change then only waits to be applied.
    var responders: [Responder]
    /// Blocks that its members are counted to need for it.
    var growthBlocks = 0
    /// The blocks it changes, of a client's request.
    var run: BlockRun?
    /// What its responders are told once it is committed.
    var answer = BlockReply(status: .ok)
    var isCommitted = false
}

/// A request that waits for a volume's fence.
struct GatedRequest {
    let request: BlockRequest
    let responder: Responder
}

/// An amendment that waits for earlier changes of its blocks, or for the bytes that they hold.
struct PendingAmendment {
    let number: UInt64
    let name: VolumeTag
    let request: BlockRequest
    let amendment: Amendment
    /// The leader's term when the blocks were last read: what was read in an older one may be out of date.
    var term = Term(0)
    var isReading = false
    /// Attempts to find a good copy of a bad block, of the repair that is under way or was.
    var repairAttempts = 0
    var responders: [Responder]
    /// Changes of the same blocks that came later.
    var waiting: [GatedRequest] = []
}

/// One copyset on this server: its Raft machine and what the leader has promised to answer.
///
/// Only ``ChunkServer`` touches it; the machine decides, this remembers.
final class CopysetReplica {
    let id: CopysetID
    let members: [ServerID]
    /// The members that are not this server.
    let followers: [ServerID]
    var raft: RaftReplica
    /// Growth let into the log in this term of leadership.
    var growth: GrowthLog
    /// Proposals handed to Raft that it has not placed yet. Filled and emptied within one step.
    var proposals: [ProposalToken: PendingChange] = [:]
    /// Accepted changes by log index, this term's only.
    var pending: [LogIndex: PendingChange] = [:]
    /// Accepted indices in order; `pendingHead` is the first not yet applied.
    var pendingOrder: [LogIndex] = []
    var pendingHead = 0
    /// Where a client's request sits in the log, so that its repetition does not enter twice.
    var indexByTag: [VolumeTag: LogIndex] = [:]
    /// Volumes whose fence or deletion is in the log but not applied, with who waits for it.
    var gates: [VolumeID: [GatedRequest]] = [:]
    /// Amendments that have not entered the log, in the order in which they came; none touches another's
    /// blocks.
    var amendments: [PendingAmendment] = []
    var applied: LogIndex
    /// The full copy this server is making, if any.
    var sync: SyncPull?
    /// Volume records that came with the newest sync offer, until Raft decides to begin.
    var offered: (base: LogPosition, blocks: Int, volumes: [(VolumeID, VolumeRecord)])?

    init(id: CopysetID, server: ServerID, members: [ServerID], raft: RaftReplica, applied: LogIndex) {
        (self.id, self.members, self.raft, self.applied) = (id, members, raft, applied)
        followers = members.filter { $0 != server }
        growth = GrowthLog(followers: followers.count)
    }

    /// Notes where Raft put a change.
    func place(_ change: PendingChange, at index: LogIndex) {
        pending[index] = change
        pendingOrder.append(index)
        growth.placed(change.growthBlocks, at: index)
        if let tag = change.tag { indexByTag[tag] = index }
    }

    /// Forgets what was applied and returns it, oldest first.
    func takeApplied(through index: LogIndex) -> [PendingChange] {
        var taken: [PendingChange] = []
        while pendingHead < pendingOrder.count, pendingOrder[pendingHead] <= index {
            if let change = pending.removeValue(forKey: pendingOrder[pendingHead]) {
                if let tag = change.tag { indexByTag[tag] = nil }
                taken.append(change)
            }
            pendingHead += 1
        }
        if pendingHead > 1024, pendingHead * 2 > pendingOrder.count {
            pendingOrder.removeFirst(pendingHead)
            pendingHead = 0
        }
        return taken
    }

    /// Gives up everything that was promised: the outcome is now the next leader's to know.
    func takeEverything() -> (
        changes: [PendingChange], amendments: [PendingAmendment], gated: [GatedRequest]
    ) {
        var changes: [PendingChange] = []
        for index in pendingOrder[pendingHead...] {
            if let change = pending[index] { changes.append(change) }
        }
        let taken = amendments
        let gated = gates.keys.sorted().flatMap { gates[$0] ?? [] } + taken.flatMap(\.waiting)
        amendments.removeAll()
        pending.removeAll()
        pendingOrder.removeAll()
        pendingHead = 0
        indexByTag.removeAll()
        gates.removeAll()
        return (changes, taken, gated)
    }
}

/// Where a full copy stands at the replica that makes it.
struct SyncPull {
    let leader: ServerID
    let base: LogPosition
    var cursor: SyncCursor
    /// The pull that is on its way, and when it was sent.
    var outstanding: (id: UInt64, sentAt: Duration)?
    /// True once the store has dropped the old copy.
    var hasBegun = false
    /// True while a piece is being written.
    var isInstalling = false
    /// True once the last piece has arrived.
    var isLast = false
}
