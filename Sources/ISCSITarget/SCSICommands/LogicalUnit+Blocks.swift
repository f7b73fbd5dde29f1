import BlockTypes
import SCSIBoundary

/// Commands that read and write blocks (SBC-4, section 5).
extension LogicalUnit {
    /// The run of the volume that a CDB names, checked against the end and the longest transfer.
    /// - Parameter max: the most blocks that the command may name.
    @inline(__always) func run(_ request: Request, atMost max: Int) throws(Sense) -> ByteRun {
        let (first, count) = (request.firstBlock, request.blockCount)
        guard first <= blockCount, UInt64(count) <= blockCount - first else {
            throw Sense(.illegalRequest, .blockOutOfRange, information: first)
        }
        guard count <= max else { throw .invalidField(request.row.blocks?.countAt ?? 0) }
        return bytes(first..<(first + UInt64(count)))
    }
    func bytes(_ blocks: Range<UInt64>) -> ByteRun {
        ByteRun(
            start: blocks.lowerBound * UInt64(blockBytes),
            count: (blocks.upperBound - blocks.lowerBound) * UInt64(blockBytes))
    }
    var transferBlocksMax: Int { limits.transferBytesMax / blockBytes }

    /// RDPROTECT, WRPROTECT, VRPROTECT: there is no protection information.
    func checkProtection(_ request: Request) throws(Sense) {
        if request.row.cdbBytes > 6, request.has(0xe0, at: 1) { throw .invalidField(1, bit: 7) }
    }
    /// What a write does at its end. Without a volatile cache every write is durable when it is answered.
    @inline(__always) func flushes(_ request: Request) -> Bool {
        configuration.hasWriteCache && request.forcesAccess
    }

    mutating func read(_ request: Request, effects: inout [Effect]) throws(Sense) {
        try checkProtection(request)
        let run = try run(request, atMost: transferBlocksMax)
        guard run.count > 0 else { return answer(request, effects: &effects) }
        start(.read(run), of: request, locking: request.blocks, effects: &effects)
    }

    mutating func write(_ request: Request, effects: inout [Effect]) throws(Sense) {
        try checkProtection(request)
        let checks = request.operation == .writeAndVerify
        let mode = checks ? request.cdb[1] >> 1 & 3 : 0
        guard mode < 2 else { throw .invalidField(1, bit: 2) }
        let whole = try run(request, atMost: transferBlocksMax)
        // Fewer data than the CDB asks for: the whole blocks that came are written (the residual tells).
        let (run, data) = offered(whole, request)
        guard run.count > 0 else { return answer(request, effects: &effects) }
        let after: AfterWrite =
            checks ? .verify(compares: mode == 1) : flushes(request) ? .flush : .nothing
        start(
            .write(run, data, then: after), of: request, locking: locked(run), exclusive: checks,
            effects: &effects)
    }
    @inline(__always) private func offered(_ run: ByteRun, _ request: Request) -> (ByteRun, [Payload]) {
        let had = request.data.reduce(0) { $0 + $1.byteCount }
        guard had < run.count else {
            return (run, had > run.count ? ByteRuns.slice(request.data, 0, Int(run.count)) : request.data)
        }
        let whole = had / blockBytes * blockBytes
        return (ByteRun(start: run.start, count: UInt64(whole)), ByteRuns.slice(request.data, 0, whole))
    }
    @inline(__always) private func locked(_ run: ByteRun) -> Range<UInt64> {
        (run.start / UInt64(blockBytes))..<(run.end / UInt64(blockBytes))
    }
    /// Commands that make no sense with a part of their data.
    private func checkComplete(_ request: Request) throws(Sense) {
        let had = request.data.reduce(0) { $0 + $1.byteCount }
        guard had == request.wantedOutBytes, request.offeredOutBytes == had else {
            throw .invalidField(request.row.blocks?.countAt ?? 0)
        }
    }

    /// WRITE ATOMIC(16): inside one run of the layout the volume stores all or nothing; the lock keeps
    /// readers of this unit from seeing a part.
    mutating func writeAtomic(_ request: Request, effects: inout [Effect]) throws(Sense) {
        try checkProtection(request)
        let boundary = request.cdb.number(at: 10, bytes: 2)
        guard boundary == 0 else { throw .invalidField(10) }
        let atomicBytes = UInt64(configuration.atomicBytes)
        let run = try run(request, atMost: configuration.atomicBytes / blockBytes)
        guard run.count > 0 else { return answer(request, effects: &effects) }
        // ATOMIC ALIGNMENT and ATOMIC TRANSFER LENGTH GRANULARITY: blocks of the store. No field tells of the
        // runs; who aligns writes to their own length, as Linux does, stays inside of them.
        guard run.start % UInt64(Geometry.blockBytes) == 0 else { throw .invalidField(2) }
        guard run.count % UInt64(Geometry.blockBytes) == 0 else { throw .invalidField(12) }
        guard run.start / atomicBytes == (run.end - 1) / atomicBytes else { throw .invalidField(2) }
        try checkComplete(request)
        start(
            .write(run, request.data, then: flushes(request) ? .flush : .nothing), of: request,
            locking: request.blocks, exclusive: true, effects: &effects)
    }

    mutating func verify(_ request: Request, effects: inout [Effect]) throws(Sense) {
        try checkProtection(request)
        let mode = request.cdb[1] >> 1 & 3
        guard mode != 2 else { throw .invalidField(1, bit: 2) }
        let run = try run(request, atMost: mode == 0 ? Int(UInt32.max) : transferBlocksMax)
        guard run.count > 0 else { return answer(request, effects: &effects) }
        if mode != 0 { try checkComplete(request) }
        start(
            .verify(run, base: run.start, expected: mode == 0 ? [] : request.data, repeats: mode == 3),
            of: request, locking: request.blocks, effects: &effects)
    }

    mutating func orWrite(_ request: Request, effects: inout [Effect]) throws(Sense) {
        try checkProtection(request)
        let whole = try run(request, atMost: transferBlocksMax)
        let (run, data) = offered(whole, request)
        guard run.count > 0 else { return answer(request, effects: &effects) }
        start(
            .or(run, data, flushes: flushes(request)), of: request, locking: locked(run), exclusive: true,
            effects: &effects)
    }

    /// COMPARE AND WRITE: one step of the volume's where that can (``UnitConfiguration/compareUnitBytes``).
    /// Elsewhere the lock makes it one with respect to all commands of this unit, and what other gateways do
    /// to the same blocks at the same time is not seen.
    mutating func compareAndWrite(_ request: Request, effects: inout [Effect]) throws(Sense) {
        try checkProtection(request)
        let run = try run(request, atMost: limits.compareBlocksMax)
        // Data for no blocks comes from who counted 256 of them into one byte: GOOD would be to lose it.
        guard run.count > 0 || request.offeredOutBytes > 0 else { return answer(request, effects: &effects) }
        try checkComplete(request)
        let unit = UInt64(configuration.compareUnitBytes)
        if unit > 0 {
            let isShort = run.count <= UInt64(compareBlocksMax * blockBytes)
            guard isShort, run.start / unit == (run.end - 1) / unit else { throw .invalidField(13) }
        }
        let half = Int(run.count)
        start(
            .compare(
                run, expected: ByteRuns.slice(request.data, 0, half),
                new: ByteRuns.slice(request.data, half, half), flushes: flushes(request)),
            of: request, locking: request.blocks, exclusive: true, effects: &effects)
    }

    /// PRE-FETCH: there is no cache of the unit's own to fill, so not all fits, which GOOD says.
    mutating func prefetch(_ request: Request, effects: inout [Effect]) throws(Sense) {
        _ = try run(request, atMost: Int(UInt32.max))
        answer(request, effects: &effects)
    }
    mutating func synchronizeCache(_ request: Request, effects: inout [Effect]) throws(Sense) {
        _ = try run(request, atMost: Int(UInt32.max))
        // IMMED: the flush is started, and nobody waits for it.
        if request.has(0x02, at: 1) {
            start(
                .flush, from: .background, nexus: nil, locking: nil, exclusive: false, effects: &effects)
            return answer(request, effects: &effects)
        }
        start(.flush, of: request, effects: &effects)
    }

    /// WRITE SAME(10) and (16). A block of zeroes is written as zeroes, which need no storage.
    mutating func writeSame(_ request: Request, effects: inout [Effect]) throws(Sense) {
        try checkProtection(request)
        let (anchors, discards) = (request.has(0x10, at: 1), request.has(0x08, at: 1))
        let hasNoData = request.cdb.opcode == 0x93 && request.has(0x01, at: 1)
        // ANC_SUP is 0 (VPD B2h): blocks are mapped or not, nothing in between.
        guard !anchors else { throw .invalidField(1, bit: 4) }
        guard !discards || configuration.isThin else { throw .invalidField(1, bit: 3) }
        let run = try run(request, atMost: limits.sameBytesMax / blockBytes)
        // WSNZ is 1 (VPD B0h): no blocks does not mean all that follow.
        guard run.count > 0 else { throw .invalidField(request.row.blocks?.countAt ?? 0) }
        var block = [UInt8](repeating: 0, count: blockBytes)
        if !hasNoData {
            try checkComplete(request)
            block = ByteRuns.gather(request.data, atMost: blockBytes)
        }
        let isZero = !block.contains { $0 != 0 }
        let work: Work
        if isZero {
            work = discards ? .discard([run], zeroing: false) : .zero(run)
        } else {
            work = .same(run, block: block)
        }
        start(work, of: request, locking: request.blocks, effects: &effects)
    }

    mutating func unmap(_ request: Request, effects: inout [Effect]) throws(Sense) {
        guard !request.has(0x01, at: 1) else { throw .invalidField(1, bit: 0) }
        guard request.wantedOutBytes > 0 else { return answer(request, effects: &effects) }
        let list = request.parameters(limits)
        guard list.count >= 8 else { throw .shortParameters }
        // Of what the list says of its length and what the CDB says, the lesser counts, and a descriptor
        // that is cut short does not (SBC-4, section 5.35).
        let listedEnd = min(8 + list.half(at: 2), request.wantedOutBytes)
        guard list.count >= listedEnd else { throw .shortParameters }
        let listed = max(0, listedEnd - 8) / 16 * 16
        guard listed / 16 <= limits.unmapDescriptorsMax else { throw .invalidParameter(2) }
        var runs: [ByteRun] = []
        var total = 0
        for at in stride(from: 8, to: 8 + listed, by: 16) {
            let (first, count) = (list.long(at: at), Int(list.word(at: at + 8)))
            guard first <= blockCount, UInt64(count) <= blockCount - first else {
                throw Sense(.illegalRequest, .blockOutOfRange, information: first)
            }
            total += count
            guard total <= limits.unmapBlocksMax else { throw .invalidParameter(at + 8) }
            if count > 0 { runs.append(bytes(first..<(first + UInt64(count)))) }
        }
        guard let lowest = runs.map(\.start).min(), let highest = runs.map(\.end).max() else {
            return answer(request, effects: &effects)
        }
        start(
            .discard(runs, zeroing: false), of: request,
            locking: locked(ByteRun(start: lowest, count: highest - lowest)), effects: &effects)
    }

    // MARK: The map

    mutating func getLBAStatus(_ request: Request, effects: inout [Effect]) throws(Sense) {
        let first = request.cdb.number(at: 2, bytes: 8)
        guard first < blockCount else {
            throw Sense(.illegalRequest, .blockOutOfRange, information: first)
        }
        // 0: all; the other report types ask for states that blocks do not have here.
        guard request.cdb[14] == 0 else { throw .invalidField(14) }
        let room = max(0, request.allocationBytes - 8) / 16
        let status = BlockStatusWork(
            run: bytes(first..<blockCount),
            descriptorsMax: max(1, min(room, limits.statusDescriptorsMax)),
            allocationBytes: request.allocationBytes)
        start(.status(status), of: request, effects: &effects)
    }
    /// Takes an answer of the volume's map in, until the list is full or the end is reached.
    func advanced(_ status: BlockStatusWork, _ segments: [ReadSegment]) -> Outcome {
        var next = status
        next.steps += 1
        var position = status.run.start / UInt64(blockBytes)
        var partBytes = 0
        for segment in segments {
            let isStored = if case .zeroes = segment { false } else { true }
            partBytes += segment.byteCount
            let blocks = UInt64(partBytes / blockBytes)
            partBytes %= blockBytes
            guard blocks > 0 else { continue }
            if let last = next.descriptors.last, last.isStored == isStored,
                last.blocks + blocks <= UInt64(UInt32.max)
            {
                next.descriptors[next.descriptors.count - 1].blocks += blocks
            } else if next.descriptors.count < next.descriptorsMax {
                next.descriptors.append((position, blocks, isStored))
            } else {
                return .done(encoded(next))
            }
            position += blocks
        }
        next.run = status.run.dropping(status.run.prefix(VolumeRequest.statusBytesMax).count)
        guard next.run.count > 0, next.steps < limits.statusStepsMax else { return .done(encoded(next)) }
        return .next(.status(next))
    }
    private func encoded(_ status: BlockStatusWork) -> [ReadSegment] {
        var bytes: [UInt8] = []
        bytes.append(bigEndian: UInt32(4 + 16 * status.descriptors.count))
        bytes += [0, 0, 0, 0]
        for descriptor in status.descriptors {
            bytes.append(bigEndian: descriptor.start)
            bytes.append(bigEndian: UInt32(truncatingIfNeeded: descriptor.blocks))
            bytes += [descriptor.isStored ? 0 : 1, 0, 0, 0]
        }
        let data = bytes.prefix(status.allocationBytes)
        return data.isEmpty ? [] : [.data(Payload(copying: Array(data)))]
    }
}
