import BlockTypes
import SCSIBoundary

/// Names an EXTENDED COPY under way.
struct CopyNumber: Hashable, Sendable { let rawValue: UInt64 }

/// A step of a copy that a unit has ended.
struct EndedTransfer: Sendable {
    let copy: CopyNumber
    let result: Result<[ReadSegment], Sense>
}

/// Blocks to be copied.
struct CopySegment: Hashable, Sendable {
    var source: UnitNumber
    var sourceRun: ByteRun
    var target: UnitNumber
    var targetStart: UInt64
}

/// An EXTENDED COPY under way: segment by segment, a step read, then written.
struct RunningCopy: Sendable {
    let number: CopyNumber
    let coordinator: UnitNumber
    let task: TaskNumber
    let nexus: NexusID
    let initiatorPort: String
    /// Nil when the initiator does not want to ask about it.
    let listID: UInt8?
    var segments: [CopySegment]
    var doneSegments = 0
    var movedBytes: UInt64 = 0
    var isWriting = false
}

/// What is left of an ended copy, for RECEIVE COPY RESULTS.
struct CopyResult: Hashable, Sendable {
    let initiatorPort: String
    let listID: UInt8
    let isGood: Bool
    let segments: Int
    let bytes: UInt64
}

/// EXTENDED COPY(LID1) and RECEIVE COPY RESULTS (SPC-4, sections 6.4, 6.18 and 6.20), block to block.
///
/// Each step is a read of one unit and a write of another under the locks, reservations and write protection
/// of those units; only units that the initiator sees can be named.
extension Target {
    mutating func startCopy(
        _ request: LogicalUnit.Request, _ index: Int, effects: inout [Effect]
    ) throws(Sense) {
        guard request.wantedOutBytes > 0 else {
            return units[index].answer(request, effects: &effects)
        }
        guard request.wantedOutBytes <= limits.copyListBytesMax + 16 else { throw .shortParameters }
        let list = request.parameters(limits)
        guard list.count == request.wantedOutBytes, list.count >= 16 else { throw .shortParameters }
        let (targetBytes, segmentBytes) = (list.half(at: 2), Int(list.word(at: 8)))
        guard list.word(at: 12) == 0 else { throw .invalidParameter(12) }
        guard targetBytes + segmentBytes <= list.count - 16 else { throw .shortParameters }
        guard targetBytes % 32 == 0 else { throw .invalidParameter(2) }
        guard targetBytes / 32 <= limits.copyTargetsMax else {
            throw Sense(.illegalRequest, .tooManyTargetDescriptors)
        }
        let port = request.party.names.initiatorPort
        let listID: UInt8? = list[1] >> 3 & 3 == 3 ? nil : list[0]
        if let listID, copies.contains(where: { $0.initiatorPort == port && $0.listID == listID }) {
            throw Sense(.illegalRequest, .operationInProgress)
        }
        guard copies.count < limits.copiesMax else { throw Sense(.illegalRequest, .tooManyCopies) }
        let targets = try copyTargets(list, bytes: targetBytes, for: request.party.nexus)
        let segments = try copySegments(
            list, from: 16 + targetBytes, bytes: segmentBytes, targets: targets)
        copyCount += 1
        let number = CopyNumber(rawValue: copyCount)
        let task = units[index].tasks.add(
            RunningTask(
                origin: .command(request.task), nexus: request.party.nexus, stage: .copying,
                wantedOutBytes: request.wantedOutBytes, work: .copy))
        let copy = RunningCopy(
            number: number, coordinator: units[index].number, task: task, nexus: request.party.nexus,
            initiatorPort: port, listID: listID, segments: segments)
        copies.append(copy)
        if let listID {
            copyResults.removeAll { $0.initiatorPort == port && $0.listID == listID }
        }
        nextStep(copies.count - 1, effects: &effects)
    }

    /// The units that the descriptors name; nil for one that is not to be had.
    private func copyTargets(
        _ list: [UInt8], bytes: Int, for nexus: NexusID
    ) throws(Sense) -> [LogicalUnit?] {
        var targets: [LogicalUnit?] = []
        for at in stride(from: 16, to: 16 + bytes, by: 32) {
            // E4h: by identification descriptor.
            guard list[at] == 0xe4 else { throw Sense(.illegalRequest, .unsupportedTargetDescriptor) }
            // LU ID TYPE is about a LU IDENTIFIER, which this descriptor has none of.
            guard list[at + 1] & 0x1f == 0 else { throw .invalidParameter(at + 1, bit: 4) }
            let count = Int(list[at + 7])
            guard count <= 20 else { throw .invalidParameter(at + 7) }
            let (association, type) = (list[at + 5] >> 4 & 3, list[at + 5] & 0x0f)
            let designator = Array(list[(at + 8)..<(at + 8 + count)])
            let unit = units.first {
                association == 0 && $0.configuration.allowsCopies && isVisible($0, to: nexus)
                    && $0.isNamed(designator, type: type)
            }
            let blockBytes = Int(list.number(at: at + 29, bytes: 3))
            if let unit, blockBytes != 0, blockBytes != unit.blockBytes {
                throw .invalidParameter(at + 29)
            }
            targets.append(unit)
        }
        return targets
    }
    private func copySegments(
        _ list: [UInt8], from start: Int, bytes: Int, targets: [LogicalUnit?]
    ) throws(Sense) -> [CopySegment] {
        var segments: [CopySegment] = []
        var at = start
        while at < start + bytes {
            guard list[at] == 0x02 else { throw Sense(.illegalRequest, .unsupportedSegmentDescriptor) }
            guard segments.count < limits.copySegmentsMax else {
                throw Sense(.illegalRequest, .tooManySegmentDescriptors)
            }
            guard start + bytes - at >= 28 else { throw .shortParameters }
            guard list.half(at: at + 2) == 24 else { throw .invalidParameter(at + 2) }
            let (from, to) = (list.half(at: at + 4), list.half(at: at + 6))
            guard targets.indices.contains(from), targets.indices.contains(to), let source = targets[from],
                let target = targets[to]
            else { throw Sense(.copyAborted, .unreachableCopyTarget) }
            // DC: the count is of the target's blocks, else of the source's.
            let isOfTarget = list[at + 1] & 0x02 != 0
            let counted = isOfTarget ? target : source
            let count = UInt64(list.half(at: at + 10) * counted.blockBytes)
            guard count <= UInt64(limits.copySegmentBytesMax) else { throw .invalidParameter(at + 10) }
            guard let sourceRun = source.copyRun(list.long(at: at + 12), count),
                let targetRun = target.copyRun(list.long(at: at + 20), count)
            else { throw Sense(.copyAborted, .none) }
            segments.append(
                CopySegment(
                    source: source.number, sourceRun: sourceRun, target: target.number,
                    targetStart: targetRun.start))
            at += 28
        }
        return segments
    }

    // MARK: Steps

    /// Takes what units have read and written, as long as there is any.
    mutating func goOnCopying(effects: inout [Effect]) {
        guard !copies.isEmpty else { return }
        while let ended = takeEnded() {
            guard let index = copies.firstIndex(where: { $0.number == ended.copy }) else { continue }
            switch ended.result {
            case .failure(let sense):
                end(index, .failure(Self.copySense(for: sense)), effects: &effects)
            case .success(let segments): advance(index, segments, effects: &effects)
            }
        }
    }
    private mutating func takeEnded() -> EndedTransfer? {
        for index in units.indices where !units[index].endedTransfers.isEmpty {
            return units[index].endedTransfers.removeFirst()
        }
        for index in leaving.indices where !leaving[index].endedTransfers.isEmpty {
            return leaving[index].endedTransfers.removeFirst()
        }
        return nil
    }
    private mutating func advance(_ index: Int, _ data: [ReadSegment], effects: inout [Effect]) {
        guard let segment = copies[index].segments.first else { return }
        let step = segment.sourceRun.prefix(limits.stepBytesMax)
        if !copies[index].isWriting {
            copies[index].isWriting = true
            let (copy, nexus) = (copies[index].number, copies[index].nexus)
            let run = ByteRun(start: segment.targetStart, count: step.count)
            let isZero = data.allSatisfy { if case .zeroes = $0 { true } else { false } }
            let work: Work = isZero ? .zero(run) : .write(run, Self.payloads(data), then: .nothing)
            return transfer(work, run, in: segment.target, copy, nexus, writes: true, effects: &effects)
        }
        copies[index].isWriting = false
        copies[index].movedBytes += step.count
        copies[index].segments[0].sourceRun = segment.sourceRun.dropping(step.count)
        copies[index].segments[0].targetStart += step.count
        nextStep(index, effects: &effects)
    }
    private mutating func nextStep(_ index: Int, effects: inout [Effect]) {
        while copies[index].segments.first?.sourceRun.count == 0 {
            copies[index].segments.removeFirst()
            copies[index].doneSegments += 1
        }
        guard let segment = copies[index].segments.first else {
            return end(index, .success([]), effects: &effects)
        }
        if isEnding(copies[index]) {
            return end(index, .failure(Sense(.copyAborted, .none)), effects: &effects)
        }
        let step = segment.sourceRun.prefix(limits.stepBytesMax)
        let (copy, nexus) = (copies[index].number, copies[index].nexus)
        transfer(.read(step), step, in: segment.source, copy, nexus, writes: false, effects: &effects)
    }
    private func isEnding(_ copy: RunningCopy) -> Bool {
        let unit =
            units.first { $0.number == copy.coordinator } ?? leaving.first { $0.number == copy.coordinator }
        guard let task = unit?.tasks[copy.task.rawValue] else { return true }
        return task.isAborting || task.isPreempted
    }
    private mutating func transfer(
        _ work: Work, _ run: ByteRun, in number: UnitNumber, _ copy: CopyNumber, _ nexus: NexusID,
        writes: Bool, effects: inout [Effect]
    ) {
        var isThere = false
        with(number, &effects) { unit, effects in
            isThere = true
            unit.transfer(work, run, copy, nexus, writes: writes, effects: &effects)
        }
        guard !isThere, let index = copies.firstIndex(where: { $0.number == copy }) else { return }
        end(index, .failure(Sense(.copyAborted, .copyTargetNotReachable)), effects: &effects)
    }
    private mutating func end(
        _ index: Int, _ result: Result<[ReadSegment], Sense>, effects: inout [Effect]
    ) {
        let copy = copies.remove(at: index)
        if let listID = copy.listID {
            let isGood = if case .success = result { true } else { false }
            copyResults.append(
                CopyResult(
                    initiatorPort: copy.initiatorPort, listID: listID, isGood: isGood,
                    segments: copy.doneSegments, bytes: copy.movedBytes))
            if copyResults.count > limits.copyResultsMax { copyResults.removeFirst() }
        }
        with(copy.coordinator, &effects) { $0.finish(copy.task, result, effects: &$1) }
    }
    private static func copySense(for sense: Sense) -> Sense {
        sense.key == .copyAborted ? sense : Sense(.copyAborted, .thirdPartyDeviceFailure)
    }
    private static func payloads(_ data: [ReadSegment]) -> [Payload] {
        data.map { segment in
            switch segment {
            case .data(let payload): payload
            case .zeroes(let count), .stored(let count): ByteRuns.repeated([0], byteCount: count)
            }
        }
    }

    // MARK: RECEIVE COPY RESULTS

    mutating func receiveCopyResults(
        _ request: LogicalUnit.Request, _ index: Int, effects: inout [Effect]
    ) throws(Sense) {
        let port = request.party.names.initiatorPort
        let listID = request.cdb[2]
        switch request.cdb.serviceAction {
        case 0x00:
            var bytes: [UInt8] = [0, 0, 0, 8]
            if let copy = copies.first(where: { $0.initiatorPort == port && $0.listID == listID }) {
                bytes += [0x00]
                bytes.append(bigEndian: UInt16(clamping: copy.doneSegments))
                Self.appendAmount(copy.movedBytes, to: &bytes)
            } else if let ended = copyResults.first(where: {
                $0.initiatorPort == port && $0.listID == listID
            }) {
                bytes += [ended.isGood ? 0x01 : 0x02]
                bytes.append(bigEndian: UInt16(clamping: ended.segments))
                Self.appendAmount(ended.bytes, to: &bytes)
                // Told once (SPC-4, section 6.18.1).
                copyResults.removeAll { $0.initiatorPort == port && $0.listID == listID }
            } else {
                throw .invalidField(2)
            }
            units[index].answer(request, bytes, effects: &effects)
        case 0x03: units[index].answer(request, operatingParameters(units[index]), effects: &effects)
        // Nothing of failed copies is kept but their status.
        default: throw .invalidField(2)
        }
    }
    /// In KiB, so that it fits.
    private static func appendAmount(_ amount: UInt64, to bytes: inout [UInt8]) {
        bytes.append(0x01)
        bytes.append(bigEndian: UInt32(clamping: amount >> 10))
    }
    private func operatingParameters(_ unit: LogicalUnit) -> [UInt8] {
        // SNLID: the list identifier may be left out.
        var body: [UInt8] = [0x01, 0, 0, 0]
        body.append(bigEndian: UInt16(limits.copyTargetsMax))
        body.append(bigEndian: UInt16(limits.copySegmentsMax))
        body.append(bigEndian: UInt32(limits.copyListBytesMax))
        body.append(bigEndian: UInt32(limits.copySegmentBytesMax))
        for _ in 0..<3 { body.append(bigEndian: UInt32(0)) }  // Inline data, held data, streams.
        body += [0, 0]
        body.append(bigEndian: UInt16(limits.copiesMax))
        body += [UInt8(limits.copiesMax), UInt8(unit.blockBytes.trailingZeroBitCount), 0, 0]
        body += [0, 0, 0, 2, 0x02, 0xe4]
        var bytes: [UInt8] = []
        bytes.append(bigEndian: UInt32(body.count))
        return bytes + body
    }
}

extension LogicalUnit {
    /// Whether a designator of its Device Identification page is meant.
    func isNamed(_ designator: [UInt8], type: UInt8) -> Bool {
        switch type {
        case 0x03: designator == configuration.identifier
        case 0x01: designator == configuration.vendorDesignator
        default: false
        }
    }
    func copyRun(_ first: UInt64, _ count: UInt64) -> ByteRun? {
        let blocks = count / UInt64(blockBytes)
        guard count % UInt64(blockBytes) == 0, first <= blockCount, blocks <= blockCount - first else {
            return nil
        }
        return bytes(first..<(first + blocks))
    }
    /// One step of a copy, if this unit lets the initiator do that.
    mutating func transfer(
        _ work: Work, _ run: ByteRun, _ copy: CopyNumber, _ nexus: NexusID, writes: Bool,
        effects: inout [Effect]
    ) {
        let isAllowed =
            party(nexus).map { reservations.allows(writes ? .writes : .reads, from: $0.reservation) } ?? false
        let isProtected =
            configuration.isReadOnly || modes.isWriteProtected || party(nexus)?.right != .writes
        let isWritable = !writes || !isProtected
        guard isAllowed, isWritable, hasMedium, !isSuspended, sanitizeSense == nil, run.end <= sizeBytes,
            tasks.taskCount < limits.tasksMax
        else {
            endedTransfers.append(
                EndedTransfer(copy: copy, result: .failure(Sense(.copyAborted, .thirdPartyDeviceFailure))))
            return
        }
        let blocks = (run.start / UInt64(blockBytes))..<(run.end / UInt64(blockBytes))
        start(
            work, from: .transfer(copy), nexus: nexus, locking: blocks, exclusive: false,
            effects: &effects)
    }
}
