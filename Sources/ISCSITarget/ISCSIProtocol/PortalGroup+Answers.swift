import BlockTypes

/// Answers to SCSI commands: Data-In, status, residuals (RFC 7143, sections 11.4 and 11.7).
extension PortalGroup {
    /// A command was carried out. Once for every ``Effect/execute(_:_:)``, unless ``aborted(_:effects:)`` was
    /// said.
    public func answered(_ id: TaskID, _ answer: SCSIAnswer, effects: inout [Effect]) {
        guard let task = task(id) else { return }
        invariant(
            answer.sense.count <= ISCSILimits.senseBytesMax, "sense data of \(answer.sense.count) bytes")
        deliver(task, answer, effects: &effects)
    }
    /// A command was ended on request, without an answer. Nothing of it happens any more.
    public func aborted(_ id: TaskID, effects: inout [Effect]) {
        guard let task = task(id) else { return }
        invariant(task.stage == .aborting, "a command was aborted unasked")
        drop(task, effects: &effects)
    }
    private func task(_ id: TaskID) -> SCSITask? {
        let task = taskSlots.indices.contains(id.slot) ? taskSlots[id.slot] : nil
        invariant(task?.id == id, "an answer to a command that has one")
        invariant(
            task?.stage == .executing || task?.stage == .aborting, "an answer to what was not given out")
        return task
    }

    /// Sends an answer, after those that a fence lets pass first, and forgets the command.
    func deliver(_ task: SCSITask, _ answer: SCSIAnswer, effects: inout [Effect]) {
        if task.session.fence.isUp, !task.connection.isClosed {
            task.session.park(task)
            task.session.fence.held.append((task, answer))
            // Those that waited for its end need not wait for the fence too.
            return admitWaiting(task.session, effects: &effects)
        }
        // Who asked for it back too late is told so (section 11.6.1).
        for waiter in task.waiters where waiter.function == .abortTask { waiter.code = .noSuchTask }
        // First the window opens, so that the answer can tell.
        forget(task)
        if !task.connection.isClosed { write(answer, of: task, effects: &effects) }
        goOnWithout(task, effects: &effects)
    }
    /// Forgets a task without an answer.
    func drop(_ task: SCSITask, effects: inout [Effect]) {
        forget(task)
        goOnWithout(task, effects: &effects)
        tellWindow(task.session, effects: &effects)
    }
    /// Forgets a task; ``goOnWithout(_:effects:)`` must follow.
    func forget(_ task: SCSITask) {
        task.session.remove(task)
        if !task.session.fence.held.isEmpty { task.session.fence.held.removeAll { $0.0 === task } }
        taskSlots[task.id.slot] = nil
        freeTaskSlots.append(task.id.slot)
    }
    /// Lets go on what waited for the end of a task.
    func goOnWithout(_ task: SCSITask, effects: inout [Effect]) {
        let session = task.session
        if !task.waiters.isEmpty || !task.endings.isEmpty { tellWaiters(of: task, effects: &effects) }
        admitWaiting(session, effects: &effects)
        answerLeaving(session, effects: &effects)
        finishIfOver(session, effects: &effects)
        if !session.isOver { wakeLogins(effects: &effects) }
    }
    private func tellWaiters(of task: SCSITask, effects: inout [Effect]) {
        let (waiters, endings) = (task.waiters, task.endings)
        (task.waiters, task.endings) = ([], [])
        for waiter in waiters {
            waiter.waitsFor -= 1
            goOn(waiter, effects: &effects)
        }
        for ending in endings {
            ending.waitsFor -= 1
            if ending.waitsFor == 0 { effects.append(.tasksEnded(ending.id)) }
        }
    }
    private func write(_ answer: SCSIAnswer, of task: SCSITask, effects: inout [Effect]) {
        let connection = task.connection
        let offered = answer.dataInBytes
        let sentBytes = min(offered, task.expectedInBytes)
        let residuals = Residuals(task, answer, offeredBytes: offered)
        // A status may ride on the last data when it says nothing but "good" (section 11.7.1).
        let saysNoMore = answer.sense.isEmpty && answer.statusQualifier == 0
        let rides = sentBytes > 0 && answer.status == 0 && saysNoMore && !task.isWrite
        var dataNumber: UInt32 = 0
        if sentBytes > 0 {
            dataNumber = writeData(
                answer.dataIn, sentBytes, task, ridingOn: rides ? residuals : nil, effects: &effects)
        }
        guard !rides else { return }
        var header = PDUHeader(opcode: Opcode.scsiResponse, flags: Flag.final | residuals.flags)
        header.setByte(3, answer.status)
        if task.session.hasLaterFields { header.setHalf(8, answer.statusQualifier) }
        header.taskTag = task.taskTag
        // R2Ts count only beside data to the initiator (section 11.4.8).
        header.dataNumber = dataNumber == 0 ? 0 : dataNumber &+ task.requestNumber
        header.bufferOffset = residuals.bidirectionalRead
        header.lastWord = residuals.count
        connection.stamp(&header, usesStatus: true)
        connection.send(header, data: Self.dataSegment(of: answer), effects: &effects)
    }
    /// The sense data with its length in front, if there is any.
    private static func dataSegment(of answer: SCSIAnswer) -> [UInt8] {
        let count = answer.sense.count
        return count == 0 ? [] : [UInt8(count >> 8), UInt8(count & 0xff)] + answer.sense
    }
    /// Sends data in sequences of MaxBurstLength, cut into what the initiator takes at a time.
    /// - Returns: the number of PDUs.
    private func writeData(
        _ segments: [ReadSegment], _ byteCount: Int, _ task: SCSITask, ridingOn residuals: Residuals?,
        effects: inout [Effect]
    ) -> UInt32 {
        let connection = task.connection
        let burstBytesMax = task.session.parameters.burstBytesMax & ~511
        var cursor = SegmentCursor(segments)
        var (offset, burstBytes, number) = (0, 0, UInt32(0))
        var bytes: [UInt8] = []
        var queuedBytes = 0
        while offset < byteCount {
            let count = min(connection.sendSegmentBytesMax, byteCount - offset, burstBytesMax - burstBytes)
            let isLast = offset + count == byteCount
            let endsBurst = isLast || burstBytes + count == burstBytesMax
            var header = PDUHeader(opcode: Opcode.dataIn, flags: endsBurst ? Flag.final : 0)
            header.taskTag = task.taskTag
            header.transferTag = reservedTag
            let carriesStatus = isLast && residuals != nil
            connection.stamp(&header, usesStatus: carriesStatus)
            if let residuals, carriesStatus {
                header.flags |= Flag.status | residuals.flags
                header.lastWord = residuals.count
            } else {
                header.setWord(24, 0)  // StatSN means something only beside a status.
            }
            header.dataNumber = number &+ task.requestNumber
            header.bufferOffset = UInt32(offset)
            connection.append(header, dataBytes: count, to: &bytes)
            queuedBytes += bytes.count + count
            effects.append(.send(connection.id, consume bytes))
            bytes = []
            let sum = cursor.send(
                count, to: connection.id, summing: connection.parameters.hasDataDigest, effects: &effects)
            connection.appendTrailer(dataBytes: count, checksum: sum, countedFrom: 0, to: &bytes)
            (offset, number) = (offset + count, number + 1)
            burstBytes = endsBurst ? 0 : burstBytes + count
        }
        if !bytes.isEmpty {
            queuedBytes += bytes.count
            effects.append(.send(connection.id, bytes))
        }
        connection.queuedSendBytes += queuedBytes
        return number
    }
}

/// What was not moved, or could not be (RFC 7143, section 11.4.5).
struct Residuals {
    private(set) var flags: UInt8 = 0
    private(set) var count: UInt32 = 0
    private(set) var bidirectionalRead: UInt32 = 0

    init(_ task: borrowing SCSITask, _ answer: borrowing SCSIAnswer, offeredBytes: Int) {
        let read = (answer.wantedInBytes ?? offeredBytes) - task.expectedInBytes
        let written = (answer.wantedOutBytes ?? task.expectedOutBytes) - task.expectedOutBytes
        if task.isRead && task.isWrite {
            flags = Self.flag(written, Flag.overflow, Flag.underflow)
            flags |= Self.flag(read, Flag.bidirectionalOverflow, Flag.bidirectionalUnderflow)
            (count, bidirectionalRead) = (Self.magnitude(written), Self.magnitude(read))
        } else {
            // A command that wants data from an initiator that offered none overflows by all of it.
            let missed = task.isWrite ? 0 : answer.wantedOutBytes ?? 0
            let difference = task.isWrite ? written : missed > 0 ? max(missed, read) : read
            flags = Self.flag(difference, Flag.overflow, Flag.underflow)
            count = Self.magnitude(difference)
        }
    }
    private static func flag(_ difference: Int, _ over: UInt8, _ under: UInt8) -> UInt8 {
        difference == 0 ? 0 : difference > 0 ? over : under
    }
    private static func magnitude(_ difference: Int) -> UInt32 { UInt32(clamping: difference.magnitude) }
}

/// Walks through the data of an answer, handing parts of it on by reference.
struct SegmentCursor {
    private let segments: [ReadSegment]
    private var index = 0
    private var position = 0

    /// For runs that are stored nowhere.
    private static let zeroes: Payload = {
        let buffer = BlockBuffer(byteCount: 256 << 10)
        unsafe buffer.bytes.initializeMemory(as: UInt8.self, repeating: 0)
        return Payload(buffer, byteCount: buffer.capacityBytes)
    }()

    init(_ segments: [ReadSegment]) { self.segments = segments }

    /// Sends the next `byteCount` bytes.
    /// - Returns: their CRC32C, if asked for.
    mutating func send(
        _ byteCount: Int, to connection: ConnectionID, summing: Bool, effects: inout [PortalGroup.Effect]
    ) -> UInt32 {
        var (left, sum) = (byteCount, UInt32(0))
        while left > 0 {
            let segment = segments[index]
            let count = min(left, segment.byteCount - position)
            if count > 0 {
                let piece: Payload
                let sent: Int
                switch segment {
                case .data(let payload): (piece, sent) = (payload.slice(position, count), count)
                case .zeroes:
                    sent = min(count, Self.zeroes.byteCount)
                    piece = Self.zeroes.slice(0, sent)
                case .stored:
                    invariant(false, "a command was answered without its bytes")
                    return sum
                }
                if summing { sum = unsafe piece.withBytes { unsafe CRC32C.extend(sum, with: $0) } }
                effects.append(.sendPayload(connection, piece))
                (position, left) = (position + sent, left - sent)
            }
            if position == segment.byteCount { (index, position) = (index + 1, 0) }
        }
        return sum
    }
}
