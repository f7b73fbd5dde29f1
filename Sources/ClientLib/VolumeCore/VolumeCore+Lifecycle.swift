import BlockTypes

/// Where an attachment stands between its first fence and its end.
struct Lifecycle {
    /// A change of the volume's edge, the first attachment included.
    enum Change {
        case none
        /// Requests that reach past the new end are being finished.
        case draining(to: ByteCount)
        /// What lies behind the end in the last stripe group is being trimmed.
        case trimming(to: ByteCount)
        /// Copysets are being told.
        case fencing(to: ByteCount)
    }
    var change = Change.none
    var isAttached = false
    /// What the metadata server wants the size to be, and its change that says so.
    var wanted: (size: ByteCount, change: UInt32)?
    /// The change that is being announced, or was last.
    var newestChange: UInt32 = 0
    /// Requests past this are refused; below the size while the volume shrinks.
    var acceptEnd = ByteCount.zero
    /// What is announced.
    var fence = VolumeFence.unknown
    /// A generation of the group that is to be announced, newer than the announced one.
    var wantedGroup: (epoch: Epoch, change: UInt32, group: [Epoch], size: ByteCount)?
    /// The campaign is about a generation of the group.
    var isRegrouping = false
    var tailIsTrimmed = false
    /// An attachment frees what lies behind the end once its fence holds everywhere, and not before: what an
    /// older one still sends might come after.
    var tailIsDue = false
    /// Copysets of the campaign that are not announced yet; `nil` when it waits for older fences to end, so
    /// that none of them lands after one that says something else.
    var campaignLeft: Int?
    var campaignCopysets = 0
    var fenceQueue = Queue<(copyset: Int, isCampaign: Bool)>()
    var fencesActive = 0
    var isClosing = false
    var isClosed = false
    /// Why every request fails from now on.
    var death: VolumeError?
}

extension VolumeCore {
    mutating func startAttaching() {
        guard case .none = lifecycle.change, !lifecycle.isAttached else { return }
        (lifecycle.newestChange, lifecycle.tailIsDue) = (configuration.change, configuration.trimsTail)
        (lifecycle.fence.epoch, lifecycle.fence.group) = (configuration.epoch, configuration.group)
        beginFencing(to: size, chunksOf: size)
    }

    mutating func want(_ size: ByteCount, change: UInt32) {
        let known = max(lifecycle.wanted?.change ?? 0, lifecycle.newestChange, configuration.change)
        guard change > known, size.bytes > 0, size.bytes % UInt64(Geometry.blockBytes) == 0,
            configuration.stripes.limit(forSize: size) != nil
        else { return }
        lifecycle.wanted = (size, change)
    }

    /// The metadata server has given the group other members, or the volume another size: copysets must know
    /// before whoever is no member any more counts as gone, and before anybody writes to the new end.
    ///
    /// What a group holds only grows: each member may write behind the old end as soon as it knows of the
    /// growth, so nobody trims there.
    mutating func regroup(_ epoch: Epoch, change: UInt32, group: [Epoch], size: ByteCount) {
        let newest = max(lifecycle.wantedGroup?.epoch ?? Epoch(0), lifecycle.fence.epoch, configuration.epoch)
        guard !configuration.group.isEmpty, epoch > newest, group.contains(configuration.epoch),
            VolumeFence.isGroup(group, at: epoch)
        else { return }
        let isSize =
            size.bytes % UInt64(Geometry.blockBytes) == 0 && configuration.stripes.limit(forSize: size) != nil
        let known = lifecycle.wantedGroup?.size ?? self.size
        lifecycle.wantedGroup = (epoch, change, group, isSize ? max(size, known) : known)
    }
    /// The generation of the membership that every copyset knows; 0 before the first one does.
    public var announcedEpoch: Epoch {
        guard lifecycle.isAttached, case .none = lifecycle.change else { return Epoch(0) }
        return lifecycle.wantedGroup == nil ? lifecycle.fence.epoch : Epoch(0)
    }

    /// - Parameter widest: the size whose chunks name the copysets that must know.
    private mutating func beginFencing(to target: ByteCount, chunksOf widest: ByteCount) {
        let limit = configuration.stripes.limit(forSize: widest) ?? widest
        lifecycle.change = .fencing(to: target)
        lifecycle.campaignCopysets = Int(min(StripeMap.chunkCount(below: limit), UInt64(copysets.count)))
        lifecycle.campaignLeft = nil
    }

    mutating func sendFences(now: Duration, effects: inout [Effect]) {
        if case .fencing(let target) = lifecycle.change, lifecycle.campaignLeft == nil,
            lifecycle.fencesActive == 0, lifecycle.fenceQueue.isEmpty
        {
            lifecycle.fence.size = configuration.stripes.limit(forSize: target) ?? target
            lifecycle.fence.change = lifecycle.newestChange
            lifecycle.campaignLeft = lifecycle.campaignCopysets
            for index in 0..<lifecycle.campaignCopysets { lifecycle.fenceQueue.append((index, true)) }
        }
        while lifecycle.fencesActive < limits.fencesMax, let fence = lifecycle.fenceQueue.first,
            let slot = freeSubs.popLast()
        {
            _ = lifecycle.fenceQueue.popFirst()
            lifecycle.fencesActive += 1
            subs[slot] = SubRequest()
            subs[slot].work = .fence
            subs[slot].copyset = fence.copyset
            subs[slot].ordinal = fence.isCampaign ? 1 : 0
            subs[slot].firstSerial = lastSerial + 1
            dispatch(slot, now: now, effects: &effects)
        }
    }

    /// A copyset has lost, or never had, the announcement.
    mutating func announceAgain(_ index: Int) {
        guard !copysets[index].isFencePending else { return }
        copysets[index].isFencePending = true
        lifecycle.fenceQueue.append((index, false))
    }

    mutating func fenceDone(_ sub: SubRequest) {
        lifecycle.fencesActive -= 1
        if sub.ordinal == 1 {
            lifecycle.campaignLeft = lifecycle.campaignLeft.map { $0 - 1 }
        } else {
            copysets[sub.copyset].isFencePending = false
        }
    }

    /// Takes every step of attaching and resizing that can be taken now.
    /// - Returns: true when it took one.
    mutating func advanceLifecycle(now: Duration, effects: inout [Effect]) -> Bool {
        var hasAdvanced = false
        while lifecycle.death == nil, advanceOnce(now: now, effects: &effects) { hasAdvanced = true }
        return hasAdvanced
    }

    private mutating func advanceOnce(now: Duration, effects: inout [Effect]) -> Bool {
        switch lifecycle.change {
        case .none:
            if lifecycle.isAttached, let wanted = lifecycle.wantedGroup {
                lifecycle.wantedGroup = nil
                (lifecycle.fence.epoch, lifecycle.fence.group) = (wanted.epoch, wanted.group)
                lifecycle.newestChange = max(lifecycle.newestChange, wanted.change)
                lifecycle.isRegrouping = true
                if isPlanted(.removalUnfenced) { lifecycle.fence.group = configuration.group }
                beginFencing(to: wanted.size, chunksOf: wanted.size)
                return true
            }
            guard lifecycle.isAttached, let wanted = lifecycle.wanted else { return false }
            // Also when the size is the same as before: it may have been another one in between.
            (lifecycle.wanted, lifecycle.newestChange) = (nil, wanted.change)
            lifecycle.acceptEnd = min(wanted.size, size)
            lifecycle.change = .draining(to: wanted.size)
        case .draining(let target):
            let reachesPast = requests.contains { !$0.isAnswered && $0.range.upperBound > target.bytes }
            if target < size, reachesPast { return false }
            lifecycle.change = .trimming(to: target)
            // Growing uncovers what lies between the end and the end of the last group; shrinking leaves it.
            trimTail(behind: min(target, size), now: now)
        case .trimming(let target):
            guard lifecycle.tailIsTrimmed else { return false }
            beginFencing(to: target, chunksOf: max(target, size))
        case .fencing(let target):
            guard lifecycle.campaignLeft == 0 else { return false }
            if lifecycle.tailIsDue {
                (lifecycle.tailIsDue, lifecycle.campaignLeft) = (false, nil)
                lifecycle.change = .trimming(to: target)
                trimTail(behind: target, now: now)
                return true
            }
            lifecycle.change = .none
            lifecycle.campaignLeft = nil
            lifecycle.acceptEnd = target
            if !lifecycle.isAttached {
                lifecycle.isAttached = true
                effects.append(.attached)
            } else if lifecycle.isRegrouping {
                lifecycle.isRegrouping = false
                effects.append(.regrouped(lifecycle.fence.epoch))
            }
            let isNews = target != size
            size = target
            if isNews { effects.append(.resized(target)) }
        }
        return true
    }

    private mutating func trimTail(behind end: ByteCount, now: Duration) {
        let limit = configuration.stripes.limit(forSize: end) ?? end
        lifecycle.tailIsTrimmed = end >= limit || isPlanted(.tailUntrimmed)
        if !lifecycle.tailIsTrimmed { accept(.tail, .trim, end.bytes..<limit.bytes, nil, now: now) }
    }
    /// The volume's change whose size is in force, with nothing stored behind its end; 0 before the first.
    public var settledChange: UInt32 {
        guard lifecycle.isAttached, case .none = lifecycle.change else { return 0 }
        return lifecycle.newestChange
    }

    /// Ends the attachment: every request, accepted or to come, fails with `error`.
    mutating func die(_ error: VolumeError, effects: inout [Effect]) {
        guard lifecycle.death == nil else { return }
        lifecycle.death = error
        for index in requests.indices {
            let owner = requests[index].owner
            requests[index].owner = .nobody
            if case .frontend(let token) = owner {
                counters.failures += 1
                effects.append(.complete(token: token, .failure(error)))
            }
        }
        forgetWork()
        effects.append(.lost(error))
    }

    private mutating func forgetWork() {
        (requests, freeRequests, queuedRequests, bulk, activeBytes) = ([], [], 0, -1, 0)
        readQueue.removeAll()
        changeQueue.removeAll()
        windowWaiters.removeAll()
        for slot in subs.indices { subs[slot] = SubRequest() }
        freeSubs = Array(subs.indices.reversed())
        locks = BlockLocks(ownersMax: subs.count)
        for index in copysets.indices {
            (copysets[index].prober, copysets[index].isFencePending) = (-1, false)
            copysets[index].parked.removeAll()
            copysets[index].failingSince = nil
        }
        lifecycle.fenceQueue.removeAll()
        lifecycle.fencesActive = 0
    }

    mutating func finishClosing(effects: inout [Effect]) {
        guard lifecycle.isClosing, !lifecycle.isClosed, queuedRequests == 0 else { return }
        lifecycle.isClosed = true
        // What is still under way belongs to requests that were answered; the next attachment's fence stops
        // it.
        if lifecycle.death == nil {
            lifecycle.death = .shuttingDown
            forgetWork()
        }
        effects.append(.closed)
    }
}
