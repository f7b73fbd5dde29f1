import BlockTypes

// How a sub-request is sent, answered and tried again.
extension VolumeCore {
    /// Sends an attempt, or parks the sub-request while another one looks for the copyset's leader.
    mutating func dispatch(_ slot: Int, now: Duration, effects: inout [Effect]) {
        let index = subs[slot].copyset
        if !copysets[index].isConfirmed {
            if copysets[index].prober >= 0, copysets[index].prober != slot {
                subs[slot].phase = .parked
                copysets[index].parked.append(slot)
                return
            }
            copysets[index].prober = slot
        }
        if isPlanted(.retryRetagged), subs[slot].wasSent, subs[slot].sequence > 0,
            subs[slot].work != .compare, let sequence = tags.take()
        {
            tags.finish(subs[slot].sequence)
            subs[slot].sequence = sequence
        }
        lastSerial += 1
        subs[slot].phase = .flying
        subs[slot].serial = lastSerial
        subs[slot].server = copysets[index].members[copysets[index].target]
        (subs[slot].sentAt, subs[slot].deadline) = (now, now + patience(slot))
        if !subs[slot].isReading { subs[slot].wasSent = true }
        effects.append(
            .send(
                AttemptID(slot: slot, serial: lastSerial), to: servers[subs[slot].server], copysets[index].id,
                subs[slot].command(from: configuration.epoch, configuration.snapshot)
                    ?? .fence(configuration.volume, lifecycle.fence)))
        arm(at: subs[slot].deadline, now: now, effects: &effects)
    }

    private func patience(_ slot: Int) -> Duration {
        silentSince[subs[slot].server] == nil ? limits.attemptTimeout : limits.suspectTimeout
    }
    /// The server was silent a short while ago: others are asked first.
    private func isResting(_ server: Int, now: Duration) -> Bool {
        silentSince[server].map { now < $0 + limits.suspectRest } ?? false
    }

    mutating func answered(
        _ attempt: AttemptID, _ answer: BlockAnswer, now: Duration, effects: inout [Effect]
    ) {
        let slot = attempt.slot
        guard slot < subs.count, subs[slot].isUnderWay, attempt.serial >= subs[slot].firstSerial,
            attempt.serial <= lastSerial
        else { return }
        let copyset = subs[slot].copyset
        let isCurrent = subs[slot].phase == .flying && subs[slot].serial == attempt.serial
        if isCurrent { hear(subs[slot].server, now: now) }
        if let silent = subs[slot].silentAttempt, silent.serial == attempt.serial {
            hear(silent.server, now: now)
        }
        // An older attempt that was given up for silent may still have done it. Any other answer to it says
        // nothing about the attempt that is under way.
        switch answer {
        case .done(let segments):
            if isCurrent { confirm(slot) }
            succeed(slot, segments, isCurrent: isCurrent, now: now, effects: &effects)
        // Told by any attempt: they share a name, and with it what was found.
        case .miscompare(let byte) where subs[slot].work == .compare:
            if isCurrent { confirm(slot) }
            miscompared(slot, atByte: byte, now: now, effects: &effects)
        case .staleEpoch: die(.fenced, effects: &effects)
        case .deleted: die(.deleted, effects: &effects)
        case _ where !isCurrent: return
        case .notLeader(let hint): follow(slot, hint: hint, now: now, effects: &effects)
        case .unreachable: passOver(slot, .unreachable, now: now, effects: &effects)
        case .wrongCopyset: passOver(slot, .refused, now: now, effects: &effects)
        case .notReady:
            unconfirm(subs[slot].copyset, asking: subs[slot].server)
            pause(slot, .notReady, now: now, effects: &effects)
        case .overloaded: pause(slot, .overloaded, now: now, effects: &effects)
        case .needsFence:
            confirm(slot)
            announceAgain(subs[slot].copyset)
            pause(slot, .needsFence, now: now, effects: &effects)
        case .damaged:
            subs[slot].damages += 1
            if subs[slot].damages <= limits.damagesMax {
                pause(slot, .damaged, now: now, effects: &effects)
            } else {
                giveUp(slot, .checksumMismatch, now: now, effects: &effects)
            }
        case .outOfRange, .refused, .miscompare: giveUp(slot, .outOfRange, now: now, effects: &effects)
        case .noSpace: giveUp(slot, .noSpace, now: now, effects: &effects)
        // The window forbids it, so the server is wrong; asking again would bring the same answer.
        case .forgotten: giveUp(slot, .replicasUnavailable, now: now, effects: &effects)
        }
        unpark(copyset, now: now, effects: &effects)
    }

    private mutating func hear(_ server: Int, now: Duration) {
        lastHeard[server] = now
        silentSince[server] = nil
    }

    private mutating func succeed(
        _ slot: Int, _ segments: [ReadSegment], isCurrent: Bool, now: Duration, effects: inout [Effect]
    ) {
        let sub = subs[slot]
        if sub.isReading {
            let isFitting = segments.allSatisfy { $0.answers(sub.work) }
            guard isFitting,
                segments.reduce(0, { $0 + $1.byteCount }) == sub.blocks.count * Geometry.blockBytes
            else {
                // The server broke the protocol; perhaps the next one keeps it.
                if isCurrent { passOver(slot, .refused, now: now, effects: &effects) }
                return
            }
        }
        if sub.work == .edge, !sub.isMerged { return merge(slot, segments, now: now, effects: &effects) }
        if sub.work == .read || sub.work == .status, sub.request >= 0 {
            requests[sub.request].results[sub.ordinal] = segments
        }
        if sub.work == .fence { fenceDone(sub) }
        drop(slot, now: now, effects: &effects)
        finishPiece(of: sub.request, failure: nil, now: now, effects: &effects)
    }

    /// Puts the request's bytes into the block that was read, and goes on to write it.
    private mutating func merge(
        _ slot: Int, _ old: [ReadSegment], now: Duration, effects: inout [Effect]
    ) {
        let edge = subs[slot].piece.edge
        let block = ScatteredBlocks.patched(
            old, start: edge.lowerBound, byteCount: edge.count, with: subs[slot].payloads, pool: pool)
        subs[slot].payloads = [block]
        subs[slot].isMerged = true
        subs[slot].firstSerial = lastSerial + 1
        (subs[slot].failures, subs[slot].hints, subs[slot].damages) = (0, 0, 0)
        startChange(slot, now: now, effects: &effects)
    }

    private mutating func miscompared(
        _ slot: Int, atByte byte: Int?, now: Duration, effects: inout [Effect]
    ) {
        let (request, bytes) = (subs[slot].request, subs[slot].bytes)
        // Who failed because of its age is not waited for.
        guard let byte, bytes.contains(byte) || request < 0 else {
            guard request < 0 else { return compareAgain(slot, now: now, effects: &effects) }
            return drop(slot, now: now, effects: &effects)
        }
        drop(slot, now: now, effects: &effects)
        let failure = VolumeError.miscompare(atByte: byte - bytes.lowerBound)
        finishPiece(of: request, failure: failure, now: now, effects: &effects)
    }

    /// Ends a sub-request with a refusal that repeating would not change.
    private mutating func giveUp(
        _ slot: Int, _ error: VolumeError, now: Duration, effects: inout [Effect]
    ) {
        // A fence has nobody to fail: what it announces must become known.
        if subs[slot].work == .fence { return pause(slot, .refused, now: now, effects: &effects) }
        confirm(slot)
        let request = subs[slot].request
        drop(slot, now: now, effects: &effects)
        finishPiece(of: request, failure: error, now: now, effects: &effects)
    }
}

// Who leads, and when to try again.
extension VolumeCore {
    /// The server that was asked has answered as a leader does.
    private mutating func confirm(_ slot: Int) {
        let index = subs[slot].copyset
        if let member = copysets[index].members.firstIndex(of: subs[slot].server) {
            copysets[index].target = member
        }
        copysets[index].isConfirmed = true
        copysets[index].prober = -1
        copysets[index].failingSince = nil
        (subs[slot].failures, subs[slot].hints) = (0, 0)
    }
    /// Lets those go that waited for a leader, if there is one.
    private mutating func unpark(_ index: Int, now: Duration, effects: inout [Effect]) {
        while copysets[index].isConfirmed, let next = copysets[index].parked.popFirst() {
            if subs[next].phase == .parked, subs[next].copyset == index {
                dispatch(next, now: now, effects: &effects)
            }
        }
    }
    private mutating func unconfirm(_ index: Int, asking server: Int) {
        if copysets[index].members[copysets[index].target] == server { copysets[index].isConfirmed = false }
    }
    /// Asks the next member from now on: one that rests only if all the others do.
    private mutating func moveOn(_ index: Int, from server: Int, now: Duration) {
        let (members, target) = (copysets[index].members, copysets[index].target)
        guard members[target] == server else { return }
        let others = (1..<max(members.count, 2)).map { (target + $0) % members.count }
        copysets[index].isConfirmed = false
        copysets[index].target = others.first { !isResting(members[$0], now: now) } ?? others[0]
    }
    private mutating func follow(
        _ slot: Int, hint: ServerID?, now: Duration, effects: inout [Effect]
    ) {
        let (index, server) = (subs[slot].copyset, subs[slot].server)
        guard let hint, hint != servers[server], subs[slot].hints < limits.hintsMax,
            let member = copysets[index].members.firstIndex(where: { servers[$0] == hint }),
            !isResting(copysets[index].members[member], now: now)
        else { return passOver(slot, .noLeader, now: now, effects: &effects) }
        if copysets[index].members[copysets[index].target] == server {
            (copysets[index].target, copysets[index].isConfirmed) = (member, false)
        }
        subs[slot].hints += 1
        retry(slot, .noLeader, after: .zero, now: now, effects: &effects)
    }
    /// The server asked is of no use: each member is tried once at once, then after pauses.
    private mutating func passOver(
        _ slot: Int, _ failure: AttemptFailure, now: Duration, effects: inout [Effect]
    ) {
        let index = subs[slot].copyset
        moveOn(index, from: subs[slot].server, now: now)
        // Who was waited for in vain has had its pause.
        if failure == .silent || subs[slot].failures + 1 < copysets[index].members.count {
            retry(slot, failure, after: .zero, now: now, effects: &effects)
        } else {
            subs[slot].hints = 0
            pause(slot, failure, now: now, effects: &effects)
        }
    }
    private mutating func pause(
        _ slot: Int, _ failure: AttemptFailure, now: Duration, effects: inout [Effect]
    ) {
        let doubled = limits.backoffMin * (1 << min(subs[slot].failures, 16))
        let isSearching = !copysets[subs[slot].copyset].isConfirmed && failure != .overloaded
        let whole = min(doubled, isSearching ? limits.searchPauseMax : limits.backoffMax)
        // Between three and five quarters, so that clients that failed together do not come back together.
        let jittered = whole * 3 / 4 + whole * Int.random(in: 0..<512, using: &random) / 1024
        retry(slot, failure, after: jittered, now: now, effects: &effects)
    }
    private mutating func retry(
        _ slot: Int, _ failure: AttemptFailure, after delay: Duration, now: Duration,
        effects: inout [Effect]
    ) {
        let index = subs[slot].copyset
        counters.retries += 1
        subs[slot].failures += 1
        copysets[index].lastFailure = failure
        if copysets[index].failingSince == nil { copysets[index].failingSince = now }
        guard delay > .zero else { return dispatch(slot, now: now, effects: &effects) }
        if !copysets[index].isConfirmed, copysets[index].prober < 0 { copysets[index].prober = slot }
        subs[slot].phase = .pausing
        subs[slot].deadline = now + delay
        arm(at: subs[slot].deadline, now: now, effects: &effects)
    }
    /// A sub-request goes away; if it was looking for the leader, the next one does.
    mutating func leaveProbing(_ slot: Int, of index: Int, now: Duration, effects: inout [Effect]) {
        guard copysets[index].prober == slot else { return }
        copysets[index].prober = -1
        while let next = copysets[index].parked.popFirst() {
            if subs[next].phase == .parked, subs[next].copyset == index {
                return dispatch(next, now: now, effects: &effects)
            }
        }
    }

    mutating func lost(_ server: ServerID, now: Duration, effects: inout [Effect]) {
        guard let index = servers.firstIndex(of: server) else { return }
        for slot in subs.indices where subs[slot].phase == .flying && subs[slot].server == index {
            passOver(slot, .unreachable, now: now, effects: &effects)
        }
    }
}

// Time.
extension VolumeCore {
    /// A timer this little early counts as due, lest rounding in a shell lose it; what is not due then waits
    /// for the next.
    private static let timerSlack = Duration.milliseconds(1)

    /// Makes sure of a wake-up no later than `deadline`.
    mutating func arm(at deadline: Duration, now: Duration, effects: inout [Effect]) {
        if let armedAt, armedAt <= deadline { return }
        armedAt = deadline
        effects.append(.wakeAfter(max(deadline - now, .zero)))
    }

    mutating func timerFired(now: Duration, effects: inout [Effect]) {
        // An earlier wake-up replaced the one that fired: the armed one is still to come.
        guard let due = armedAt, due <= now + Self.timerSlack else { return }
        armedAt = nil
        for slot in subs.indices where subs[slot].deadline <= now {
            switch subs[slot].phase {
            case .flying: overdue(slot, now: now, effects: &effects)
            case .pausing: dispatch(slot, now: now, effects: &effects)
            case .free, .lock, .window, .parked: break
            }
        }
        failOld(now: now, effects: &effects)
        var next: Duration?
        for sub in subs where sub.phase == .flying || sub.phase == .pausing {
            next = min(next ?? sub.deadline, sub.deadline)
        }
        if case .errorAfter(let patience) = configuration.policy {
            for request in requests {
                guard case .frontend = request.owner else { continue }
                let end = lastProgress(of: request) + patience
                next = min(next ?? end, end)
            }
        }
        if let next { arm(at: next, now: now, effects: &effects) }
    }

    /// A server that answers others is not silent: on a slow link a request waits behind many. It is borne
    /// with for so long and no longer.
    private mutating func overdue(_ slot: Int, now: Duration, effects: inout [Effect]) {
        let end = subs[slot].sentAt + limits.attemptTimeout * limits.attemptExtensionsMax
        if now < end, lastHeard[subs[slot].server] + limits.attemptTimeout > now {
            subs[slot].deadline = min(now + limits.attemptTimeout, end)
        } else {
            silentSince[subs[slot].server] = now
            subs[slot].silentAttempt = (subs[slot].serial, subs[slot].server)
            passOver(slot, .silent, now: now, effects: &effects)
        }
    }

    private mutating func failOld(now: Duration, effects: inout [Effect]) {
        guard case .errorAfter(let patience) = configuration.policy else { return }
        for index in requests.indices where lastProgress(of: requests[index]) + patience <= now {
            guard case .frontend = requests[index].owner else { continue }
            fail(index, .replicasUnavailable, now: now, effects: &effects)
        }
    }

    /// A request that waits for its turn does not age while those before it get on.
    private func lastProgress(of request: Request) -> Duration {
        request.outstanding == 0 ? max(request.progressAt, progressAt) : request.progressAt
    }
}

extension ReadSegment {
    /// False when a server sent bytes where only their places were asked for, or the other way round.
    fileprivate func answers(_ work: SubRequest.Work) -> Bool {
        switch self {
        case .zeroes: true
        case .data: work != .status
        case .stored: work == .status
        }
    }
}

extension SubRequest {
    /// What a chunkserver is asked; `nil` for a fence, which is the volume's and not this request's.
    fileprivate func command(from session: Epoch, _ snapshot: SnapshotNumber) -> BlockCommand? {
        guard let run else { return nil }
        let tag = RequestTag(session: session, sequence: sequence)
        switch work {
        case _ where work == .status: return .blockStatus(run)
        case _ where isReading: return .read(run)
        case .trim: return .trim(run, snapshot, tag)
        case .zero: return .zero(run, snapshot, tag)
        case .patch, .compare:
            return .amend(run, bytes: bytes, snapshot, tag, checksums: checksums, payload: payloads[0])
        case .read, .write, .edge, .fence, .status:
            return .write(run, snapshot, tag, checksums: checksums, payload: payloads)
        }
    }
}
