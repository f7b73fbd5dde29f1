import BlockTypes
import SCSIBoundary

/// Whether a command may go on, in the order that SAM-5, SPC-5 and SBC-4 want: unit attentions, operation
/// code, reservations, port state, CDB, readiness, write protection.
extension LogicalUnit {
    /// A command with its row and what it came with.
    struct Request {
        let task: TaskID
        let party: Party.Identity
        let right: UnitAccess.Right
        let row: CommandRow
        let cdb: CDB
        let data: [Payload]
        /// Bytes to the initiator that the CDB allows.
        let allocationBytes: Int
        /// Bytes from the initiator that the CDB asks for.
        let wantedOutBytes: Int
        /// Bytes from the initiator that it announced.
        let offeredOutBytes: Int
        var operation: Operation { row.operation }
        var firstBlock: UInt64 { row.firstBlock(cdb) }
        var blockCount: Int { row.blockCount(cdb) }
        var blocks: Range<UInt64> { firstBlock..<(firstBlock + UInt64(blockCount)) }
        func has(_ mask: UInt8, at byte: Int) -> Bool { cdb.has(mask, at: byte) }
        /// FUA of reads and writes.
        var forcesAccess: Bool { row.cdbBytes > 6 && cdb.has(0x08, at: 1) }
        /// At most 64 KiB of what the initiator sent.
        func parameters(_ limits: SCSILimits) -> [UInt8] {
            ByteRuns.gather(data, atMost: min(wantedOutBytes, limits.parameterBytesMax))
        }
    }

    /// Begins a command. Its answer is among the effects, or comes later.
    mutating func execute(_ id: TaskID, _ command: borrowing SCSICommand, effects: inout [Effect]) {
        guard let index = place(of: command.nexus) else {
            effects.append(.answer(id, answer(status: Status.busy, wantedOutBytes: 0)))
            return
        }
        endOrphanedSanitize(by: index, effects: &effects)
        var wanted = TransferSizes(inBytes: 0, outBytes: 0)
        do throws(Sense) {
            guard let row = offered(command.cdb) else {
                try pendingAttention(index, nil)
                throw unknown(command.cdb)
            }
            wanted = row.transferSizes(command.cdb, blockBytes: blockBytes)
            try pendingAttention(index, row.operation)
            let request = Request(
                task: id, party: parties[index].identity, right: parties[index].right, row: row,
                cdb: command.cdb, data: command.dataOut, allocationBytes: wanted.inBytes,
                wantedOutBytes: wanted.outBytes, offeredOutBytes: command.expectedOutBytes)
            if let status = try refusal(request) {
                effects.append(.answer(id, answer(status: status, wantedOutBytes: wanted.outBytes)))
                return
            }
            try perform(request, effects: &effects)
        } catch {
            effects.append(.answer(id, failed(error, wantedOutBytes: wanted.outBytes)))
        }
    }

    /// The row of a CDB, if this unit has the command.
    @inline(__always) private func offered(_ cdb: CDB) -> CommandRow? {
        guard let row = CommandTable.row(cdb), offers(row) else { return nil }
        return row
    }
    /// Why a command that this unit does not have is refused: its service is unknown, or all of its code.
    private func unknown(_ cdb: CDB) -> Sense {
        let rows = CommandTable.rows(cdb.opcode)
        let hasOthers = CommandTable.row(cdb) == nil ? !rows.isEmpty : rows.contains { offers($0) }
        return hasOthers ? .invalidField(1, bit: 4) : Sense(.illegalRequest, .invalidOperationCode)
    }
    /// Whether this unit has a command at all.
    @inline(__always) func offers(_ row: CommandRow) -> Bool {
        switch row.operation {
        case .unmap: configuration.isThin
        case .sanitize: row.serviceAction != 0x02 || configuration.isThin
        case .preventAllowRemoval: configuration.isRemovable
        case .extendedCopy, .receiveCopyResults: configuration.allowsCopies
        case .setPortGroups: ports.allowsSetting
        case .writeAtomic: configuration.atomicBytes > 0
        default: true
        }
    }

    /// SAM-5, section 5.14: all but three commands tell what is pending, and do nothing else.
    private mutating func pendingAttention(
        _ index: Int, _ operation: Operation?
    ) throws(Sense) {
        switch operation {
        case .inquiry, .requestSense: return
        case .reportLUNs:
            parties[index].attentions.remove(.inventoryChanged)
            return
        default: break
        }
        if let attention = parties[index].attentions.takeFirst() { throw Sense(.unitAttention, attention) }
    }

    /// - Returns: a status without sense data, when there is such a reason not to go on.
    private func refusal(_ request: Request) throws(Sense) -> UInt8? {
        guard tasks.taskCount < limits.tasksMax else {
            // SAM-5, section 5.3.1: its own task set is full only for who has a task there.
            return tasks.hasTask(of: request.party.nexus) ? Status.taskSetFull : Status.busy
        }
        guard reservations.allows(reservationClass(request), from: request.party.reservation) else {
            return Status.reservationConflict
        }
        try checkPort(request)
        if request.has(0x04, at: request.row.controlByte) {
            throw .invalidField(request.row.controlByte, bit: 2)
        }
        if request.row.isStrict {
            for (byte, mask) in request.row.usage.enumerated() where request.cdb[byte] & ~mask != 0 {
                if byte > 0, byte != request.row.controlByte { throw .invalidField(byte) }
            }
        }
        try checkReady(request)
        if request.row.writes { try checkWritable(request.right) }
        return nil
    }
    private func reservationClass(_ request: Request) -> ReservationClass {
        switch request.operation {
        // SBC-4, table 15: starting is allowed to everybody, and so is allowing removal.
        case .startStopUnit: request.cdb[4] & 0xf3 == 0x01 ? .always : .writes
        case .preventAllowRemoval: request.cdb[4] & 0x03 == 0 ? .always : .writes
        case .persistentReserveIn: .status
        default: request.row.reservations
        }
    }
    /// SPC-5, section 5.17.2: what ports answer that are not active.
    private func checkPort(_ request: Request) throws(Sense) {
        let state = ports.state(of: request.party.names.portalGroupTag)
        switch state {
        case .activeOptimized, .activeNonOptimized: return
        case .standby, .unavailable, .transitioning: break
        }
        switch request.operation {
        case .inquiry, .reportLUNs, .requestSense, .reportPortGroups, .setPortGroups: return
        case .modeSense6, .modeSense10, .modeSelect6, .modeSelect10, .persistentReserveIn,
            .persistentReserveOut:
            if state == .standby { return }
        default: break
        }
        switch state {
        case .standby: throw Sense(.notReady, .targetPortStandby)
        case .transitioning: throw Sense(.notReady, .targetPortTransition)
        case .unavailable, .activeOptimized, .activeNonOptimized:
            throw Sense(.notReady, .targetPortUnavailable)
        }
    }
    private func checkReady(_ request: Request) throws(Sense) {
        try checkPresence(request)
        if let sense = sanitizeSense {
            switch request.operation {
            case .inquiry, .requestSense, .reportLUNs, .reportPortGroups, .reportSupportedOpcodes,
                .reportSupportedFunctions, .persistentReserveIn:
                return
            case .sanitize where sanitizeWork == nil && hasFailedSanitize: return
            default: throw sense
            }
        }
        guard request.row.needsMedium else { return }
        if !hasMedium { throw Sense(.notReady, .mediumNotPresent) }
    }
    /// What keeps the unit from being written, if anything.
    func checkWritable(_ right: UnitAccess.Right) throws(Sense) {
        if configuration.isReadOnly || right != .writes { throw Sense(.dataProtect, .writeProtected) }
        if modes.isWriteProtected { throw Sense(.dataProtect, .softwareWriteProtected) }
    }

    /// Ends a command well, at once.
    func answer(_ request: Request, _ bytes: [UInt8] = [], effects: inout [Effect]) {
        let data = bytes.prefix(request.allocationBytes)
        effects.append(
            .answer(
                request.task,
                SCSIAnswer(
                    dataIn: data.isEmpty ? [] : [.data(Payload(copying: Array(data)))],
                    wantedOutBytes: request.wantedOutBytes)))
    }
    /// Gives a command's work a place and starts it.
    mutating func start(
        _ work: consuming Work, of request: Request, locking blocks: Range<UInt64>? = nil,
        exclusive: Bool = false, effects: inout [Effect]
    ) {
        start(
            work, from: .command(request.task), nexus: request.party.nexus,
            wantedOutBytes: request.wantedOutBytes, locking: blocks, exclusive: exclusive,
            effects: &effects)
    }

    private mutating func perform(_ request: Request, effects: inout [Effect]) throws(Sense) {
        switch request.operation {
        case .testUnitReady: answer(request, effects: &effects)
        case .requestSense: try requestSense(request, effects: &effects)
        case .inquiry: try answer(request, inquiry(request), effects: &effects)
        case .reportLUNs, .reportPortGroups, .setPortGroups, .extendedCopy, .receiveCopyResults:
            delegated = request
        case .modeSense6, .modeSense10: try answer(request, modeSense(request), effects: &effects)
        case .modeSelect6, .modeSelect10: try modeSelect(request, effects: &effects)
        case .reserve6, .release6: try reserveSimply(request, effects: &effects)
        case .persistentReserveIn: try persistentReserveIn(request, effects: &effects)
        case .persistentReserveOut: try persistentReserveOut(request, effects: &effects)
        case .startStopUnit: try startStop(request, effects: &effects)
        case .preventAllowRemoval: preventAllow(request, effects: &effects)
        case .readCapacity10: try readCapacity10(request, effects: &effects)
        case .readCapacity16: try readCapacity16(request, effects: &effects)
        case .readDefectData10, .readDefectData12: try readDefectData(request, effects: &effects)
        case .getLBAStatus: try getLBAStatus(request, effects: &effects)
        case .read: try read(request, effects: &effects)
        case .write, .writeAndVerify: try write(request, effects: &effects)
        case .writeAtomic: try writeAtomic(request, effects: &effects)
        case .verify: try verify(request, effects: &effects)
        case .orWrite: try orWrite(request, effects: &effects)
        case .compareAndWrite: try compareAndWrite(request, effects: &effects)
        case .prefetch: try prefetch(request, effects: &effects)
        case .synchronizeCache: try synchronizeCache(request, effects: &effects)
        case .writeSame: try writeSame(request, effects: &effects)
        case .unmap: try unmap(request, effects: &effects)
        case .sanitize: try startSanitize(request, effects: &effects)
        case .reportSupportedOpcodes: try answer(request, supportedOpcodes(request), effects: &effects)
        case .reportSupportedFunctions: answer(request, supportedFunctions(request), effects: &effects)
        }
    }
}
