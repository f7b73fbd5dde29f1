import BlockTypes

/// SCSI commands on their way in: header, place in the window, room (RFC 7143, sections 4.2.2.1 and 11.3).
extension PortalGroup {
    func takeCommand(
        _ header: PDUHeader, _ additional: [UInt8], _ connection: TargetConnection, _ session: TargetSession,
        effects: inout [Effect]
    ) -> PDUReader.Destination {
        // What is outside of the window, or here already, is ignored in silence.
        guard header.isImmediate || session.isWanted(header.commandNumber) else { return .skip }
        guard !header.isImmediate || hasRoomForImmediate(connection, session) else {
            connection.reject(header, .tooManyImmediateCommands, effects: &effects)
            return .skip
        }
        guard session.task(tagged: header.taskTag) == nil else {
            connection.reject(header, .taskInProgress, effects: &effects)
            return .skip
        }
        guard let extras = AdditionalSegments(additional, of: header),
            let attribute = TaskAttribute(rawValue: header.flags & Flag.attributeMask),
            header.taskTag != reservedTag, header.has(Flag.final) || header.has(Flag.write),
            header.has(Flag.read) || header.has(Flag.write) || header.transferTag == 0,
            extras.hasReadLength == (header.has(Flag.read) && header.has(Flag.write))
        else {
            connection.reject(header, .invalidField, effects: &effects)
            return .skip
        }
        let task = makeTask(header, extras, attribute, connection, session)
        session.add(task)
        connection.incoming = .command(task, header)
        return openBursts(task, header, session)
    }
    /// Each connection has room for one, whatever the others' take (section 4.2.2.1).
    private func hasRoomForImmediate(_ connection: TargetConnection, _ session: TargetSession) -> Bool {
        session.immediateTasks < limits.immediateCommandsMax
            || !session.tasks.contains { $0.isImmediate && $0.connection === connection }
    }
    private func makeTask(
        _ header: PDUHeader, _ extras: AdditionalSegments, _ attribute: TaskAttribute,
        _ connection: TargetConnection, _ session: TargetSession
    ) -> SCSITask {
        let cdb = header.cdb
        let length = Int(header.transferTag)
        let isWrite = header.has(Flag.write)
        let isRead = header.has(Flag.read)
        let expected = TransferSizes(
            inBytes: isRead ? isWrite ? extras.bidirectionalReadBytes : length : 0,
            outBytes: isWrite ? length : 0)
        var wanted = configuration.transferSizes(session.targetName, header.lun, cdb)
        wanted = TransferSizes(inBytes: max(wanted.inBytes, 0), outBytes: max(wanted.outBytes, 0))
        let slot = freeTaskSlots.popLast() ?? taskSlots.count
        if slot == taskSlots.count { taskSlots.append(nil) }
        taskGeneration += 1
        let task = SCSITask(
            id: TaskID(slot: slot, generation: taskGeneration), header: header, cdb: cdb,
            attribute: attribute, expected: expected, wanted: wanted, session: session,
            connection: connection, limits: limits)
        taskSlots[slot] = task
        return task
    }
    /// Judges the data that comes with a command or unasked behind it, and says where the former goes.
    private func openBursts(_ task: SCSITask, _ header: PDUHeader, _ session: TargetSession)
        -> PDUReader.Destination
    {
        let immediateBytes = header.dataBytes
        let parameters = session.parameters
        let endsHere = header.has(Flag.final)
        if immediateBytes > 0 {
            if !task.isWrite || !parameters.immediateData {
                task.fail(.unexpectedData)
            } else if immediateBytes > min(task.expectedOutBytes, parameters.firstBurstBytesMax) {
                task.fail(.incorrectAmount)
            }
        }
        if !endsHere && parameters.initialR2T { task.fail(.unexpectedData) }
        guard immediateBytes > 0 || !endsHere else { return .skip }
        let end = endsHere ? immediateBytes : min(task.expectedOutBytes, parameters.firstBurstBytesMax)
        task.bursts = [SCSITask.Burst(transferTag: reservedTag, nextByte: 0, endByte: end)]
        guard immediateBytes > 0 else { return .skip }
        return task.destination(offset: 0, count: immediateBytes, isSolicited: false, pool: pool)
    }
    /// A command is here with its immediate data.
    func finishCommand(_ task: SCSITask, _ header: PDUHeader, isIntact: Bool, effects: inout [Effect]) {
        let session = task.session
        if !isIntact {
            task.connection.reject(header, .dataDigestError, effects: &effects)
            // The command never was: its number is a gap, which its initiator fills (sections 7.3, 7.8).
            if task.stage != .ended { return drop(task, effects: &effects) }
        }
        if task.stage != .ended, !task.bursts.isEmpty {
            task.bursts[0].nextByte = header.dataBytes
            task.receivedBytes = header.dataBytes
            if header.has(Flag.final) || task.receivedBytes >= task.expectedOutBytes && task.failure == nil {
                task.bursts.removeFirst()
            }
        }
        if task.bursts.isEmpty { task.endUnsolicited() }
        if header.isImmediate {
            if task.stage != .ended { startTask(task, effects: &effects) }
        } else {
            if task.stage != .ended, !session.isWanted(header.commandNumber) {
                // A reset of the target passed its number meanwhile.
                return drop(task, effects: &effects)
            }
            if task.stage != .ended, session.take(task, at: header.commandNumber) {
                startTask(task, effects: &effects)
            } else {
                session.hold(task.stage == .ended ? .plug : .command(task), at: header.commandNumber)
            }
            advance(session, effects: &effects)
        }
    }
    /// Carries out what is in order now.
    func advance(_ session: TargetSession, effects: inout [Effect]) {
        while let next = session.following {
            if case .control(let header, let bytes, let connection) = next,
                let reason = refusal(header, bytes, connection, session)
            {
                // Its number is a gap, as that of a refused command is (section 7.3).
                session.refuseFollowing()
                connection.reject(header, reason, effects: &effects)
                break
            }
            guard let entry = session.nextInOrder() else { break }
            switch entry {
            case .command(let task): startTask(task, effects: &effects)
            case .control(let header, let bytes, let connection):
                perform(header, bytes, connection, session, effects: &effects)
            case .plug: break
            }
        }
        startManagements(session, effects: &effects)
        tellWindow(session, effects: &effects)
    }
    /// A command's turn has come.
    private func startTask(_ task: SCSITask, effects: inout [Effect]) {
        task.stage = .waiting
        if task.failure != nil { return failWhenQuiet(task, effects: &effects) }
        let session = task.session
        if task.attribute == .ordered { session.beginOrdering(task) }
        // Mostly nobody waits.
        if session.queue.isEmpty, session.orderedTasks == 0, hasRoom(for: task, session) {
            admit(task, session, effects: &effects)
        } else {
            session.enqueue(task)
            admitWaiting(session, effects: &effects)
        }
    }
    /// Gives room to commands in order, as long as there is any. One whose turn has not come for its unit
    /// lets those for others pass.
    func admitWaiting(_ session: TargetSession, effects: inout [Effect]) {
        var place = 0
        while place < session.queue.count {
            let task = session.queue[place]
            if session.orderedTasks > 0, isKeptBack(task, by: session.queue[..<place], session) {
                place += 1
                continue
            }
            guard hasRoom(for: task, session) else { return }
            session.queue.remove(at: place)
            admit(task, session, effects: &effects)
        }
    }
    /// An ordered command waits for the end of all before it for its unit, and all behind it wait for its own
    /// (SAM-5, section 8.6). The head of the queue passes what waits.
    private func isKeptBack(_ task: SCSITask, by earlier: ArraySlice<SCSITask>, _ session: TargetSession)
        -> Bool
    {
        guard task.attribute != .headOfQueue else { return false }
        func keeps(_ other: SCSITask) -> Bool {
            (task.attribute == .ordered || other.attribute == .ordered) && other.lun.isSame(as: task.lun)
        }
        return earlier.contains(where: keeps)
            || session.tasks.contains { $0.isUnderWay && keeps($0) }
    }
    private func admit(_ task: SCSITask, _ session: TargetSession, effects: inout [Effect]) {
        session.inFlightBytes += task.chargeBytes
        (task.isCharged, task.stage) = (true, .gathering)
        goOnGathering(task, effects: &effects)
    }
    /// Replies that nobody reads take room too.
    private func hasRoom(for task: SCSITask, _ session: TargetSession) -> Bool {
        if task.chargeBytes == 0 { return true }
        let queuedBytes = session.connections.reduce(0) { $0 + $1.queuedSendBytes }
        if session.inFlightBytes == 0 { return queuedBytes <= limits.queuedReplyBytesMax }
        return session.inFlightBytes + queuedBytes + task.chargeBytes <= limits.inFlightBytesMax
    }
    /// All data is here: the command goes out.
    func execute(_ task: SCSITask, effects: inout [Effect]) {
        let session = task.session
        task.stage = .executing
        effects.append(
            .execute(
                task.id,
                SCSICommand(
                    nexus: session.nexus, lun: task.lun, cdb: task.cdb, attribute: task.attribute,
                    expectedInBytes: task.expectedInBytes, expectedOutBytes: task.expectedOutBytes,
                    dataOut: task.takeData())))
    }
}

/// Additional header segments of a SCSI command (RFC 7143, section 11.2.2).
struct AdditionalSegments {
    /// The CDB goes on here, from its 17th byte.
    private var extendsCDB = false
    /// The read's expected length, when the command also writes.
    private(set) var bidirectionalReadBytes = 0
    /// The segment with the read's length is there, as a command that reads and writes must have it.
    private(set) var hasReadLength = false

    /// - Returns: `nil` when the segments are not what they may be: each kind once, whole, and in its place.
    init?(_ bytes: borrowing [UInt8], of header: PDUHeader) {
        // Mostly there are none.
        guard !bytes.isEmpty else { return }
        var rest = (copy bytes)[...]
        while !rest.isEmpty {
            guard rest.count >= 4 else { return nil }
            let start = rest.startIndex
            // The length counts what follows the kind, one reserved byte at first.
            let length = Int(rest[start]) << 8 | Int(rest[start + 1])
            let paddedBytes = (3 + length + 3) / 4 * 4
            guard length >= 1, paddedBytes <= rest.count else { return nil }
            let content = rest[(start + 4)..<(start + 3 + length)]
            switch rest[start + 2] & AdditionalHeader.kindMask {
            case AdditionalHeader.extendedCDB:
                guard !extendsCDB, !content.isEmpty,
                    content.count + CDB.byteCount <= ISCSILimits.commandBytesMax
                else { return nil }
                extendsCDB = true
            case AdditionalHeader.bidirectionalReadLength:
                guard !hasReadLength, content.count == 4 else { return nil }
                hasReadLength = true
                bidirectionalReadBytes = content.reduce(0) { $0 << 8 | Int($1) }
            default: return nil
            }
            rest = rest[(start + paddedBytes)...]
        }
    }
}
