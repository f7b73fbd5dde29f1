import BlockTypes

/// Data of writes: asked for by R2T, and taken as it comes (RFC 7143, sections 11.7 and 11.8).
///
/// All sequences and all PDUs in them come in order: DataPDUInOrder and DataSequenceInOrder are always Yes.
extension PortalGroup {
    /// Asks for the data that is missing, or gives the command out.
    func goOnGathering(_ task: SCSITask, effects: inout [Effect]) {
        guard task.stage == .gathering else { return }
        if task.failure != nil { return failWhenQuiet(task, effects: &effects) }
        if task.hasAllData { return execute(task, effects: &effects) }
        // Unsolicited data comes first, all of it.
        if let first = task.bursts.first, first.transferTag == reservedTag { return }
        let parameters = task.session.parameters
        while task.bursts.count < parameters.outstandingRequestsMax, task.nextRequestByte < task.keptOutBytes
        {
            request(task, parameters.burstBytesMax, effects: &effects)
        }
    }
    private func request(_ task: SCSITask, _ burstBytesMax: Int, effects: inout [Effect]) {
        let start = task.nextRequestByte
        let end = min(task.keptOutBytes, start + burstBytesMax)
        let tag = task.session.takeTransferTag()
        task.bursts.append(SCSITask.Burst(transferTag: tag, nextByte: start, endByte: end))
        task.nextRequestByte = end
        var header = PDUHeader(opcode: Opcode.readyToTransfer, flags: Flag.final)
        header.lun = task.lun
        header.taskTag = task.taskTag
        header.transferTag = tag
        header.dataNumber = task.requestNumber
        header.bufferOffset = UInt32(start)
        header.lastWord = UInt32(end - start)
        task.requestNumber += 1
        task.connection.stamp(&header, usesStatus: false)
        task.connection.send(header, effects: &effects)
    }

    func takeDataOut(
        _ header: PDUHeader, _ connection: TargetConnection, _ session: TargetSession,
        effects: inout [Effect]
    ) -> PDUReader.Destination {
        // Data of a command that was answered or aborted may still be under way: it is dropped in silence.
        guard let task = session.task(tagged: header.taskTag), task.connection === connection else {
            return .skip
        }
        switch task.stage {
        case .arriving, .waiting, .gathering: break
        case .executing, .aborting, .answered, .ended: return .skip
        }
        guard let index = task.bursts.firstIndex(where: { $0.transferTag == header.transferTag }) else {
            if header.transferTag == reservedTag {
                // Behind all the data an empty one may still come to end the sequence (section 11.7.7).
                if header.dataBytes > 0 { task.fail(.unexpectedData) }
            } else {
                connection.reject(header, .invalidField, effects: &effects)
            }
            return .skip
        }
        connection.incoming = .dataOut(task, header)
        let burst = task.bursts[index]
        let offset = Int(header.bufferOffset)
        let end = offset + header.dataBytes
        if index != 0 || header.dataNumber != burst.nextDataNumber {
            task.fail(.dataLost)
        } else if offset != burst.nextByte {
            task.fail(.dataLost)
        } else if end > burst.endByte {
            task.fail(.incorrectAmount)
        } else if burst.transferTag != reservedTag, header.has(Flag.final), end != burst.endByte {
            task.fail(.incorrectAmount)
        }
        guard header.dataBytes > 0 else { return .skip }
        return task.destination(
            offset: offset, count: header.dataBytes, isSolicited: burst.transferTag != reservedTag, pool: pool
        )
    }
    func finishDataOut(_ task: SCSITask, _ header: PDUHeader, isIntact: Bool, effects: inout [Effect]) {
        // It may have been aborted meanwhile.
        guard task.stage != .ended,
            let index = task.bursts.firstIndex(where: { $0.transferTag == header.transferTag })
        else { return }
        if !isIntact {
            task.connection.reject(header, .dataDigestError, effects: &effects)
            task.fail(.dataLost)
        }
        let isUnsolicited = header.transferTag == reservedTag
        var isOver = header.has(Flag.final)
        if task.failure == nil {
            task.bursts[index].nextByte += header.dataBytes
            task.bursts[index].nextDataNumber &+= 1
            task.receivedBytes += header.dataBytes
            // A sequence ends with its F bit. Unasked, nothing is worth waiting for behind all there is.
            isOver = isOver || isUnsolicited && task.receivedBytes >= task.expectedOutBytes
        }
        if isOver {
            task.bursts.remove(at: index)
            if isUnsolicited { task.endUnsolicited() }
        }
        switch task.stage {
        case .gathering: goOnGathering(task, effects: &effects)
        case .waiting where task.failure != nil: failWhenQuiet(task, effects: &effects)
        case .arriving, .waiting, .executing, .aborting, .answered, .ended: break
        }
    }
    /// A command whose data was wrong is answered once all that was on its way has come (section 11.17.1).
    func failWhenQuiet(_ task: SCSITask, effects: inout [Effect]) {
        guard let failure = task.failure, task.bursts.isEmpty else { return }
        let answer = SCSIAnswer(status: 2, sense: SCSITask.sense(failure))
        deliver(task, answer, effects: &effects)
    }
}
