import BlockTypes
import SCSIBoundary

/// What is about the target as a whole: its logical units and its ports.
extension Target {
    /// The list of REPORT LUNS (SPC-5, section 6.33).
    private func luns(_ select: UInt8, for nexus: NexusID) throws(Sense) -> [UInt8] {
        var list: [UInt8] = []
        switch select {
        case 0x00, 0x02:
            for unit in units where isVisible(unit, to: nexus) {
                // Peripheral addressing as far as it goes, then flat.
                let lun = unit.configuration.lun
                list.append(bigEndian: UInt64(lun < 256 ? lun : 0x4000 | lun) << 48)
            }
        case 0x01, 0x10, 0x11, 0x12: break
        default: throw .invalidField(2)
        }
        if select == 0x01 || select == 0x02 { list.append(bigEndian: UInt64(0xc101) << 48) }
        var bytes: [UInt8] = []
        bytes.append(bigEndian: UInt32(list.count))
        return bytes + [0, 0, 0, 0] + list
    }
    mutating func reportLUNs(
        _ request: LogicalUnit.Request, _ index: Int, effects: inout [Effect]
    ) throws(Sense) {
        let bytes = try luns(request.cdb[2], for: request.party.nexus)
        for index in units.indices { units[index].forgetInventory(request.party.nexus) }
        units[index].answer(request, bytes, effects: &effects)
    }

    /// Commands to LUNs that have no unit, and to the well-known one (SPC-5, section 6.7.2; SAM-5, 4.7).
    mutating func executeWithoutUnit(
        _ task: TaskID, _ command: SCSICommand, effects: inout [Effect]
    ) {
        let cdb = command.cdb
        let isWellKnown = Address(command.lun) == .reportLUNs
        var wantedOut = 0
        do throws(Sense) {
            guard let row = CommandTable.row(cdb) else {
                throw isWellKnown
                    ? Sense(.illegalRequest, .invalidOperationCode)
                    : Sense(.illegalRequest, .logicalUnitNotSupported)
            }
            let sizes = row.transferSizes(cdb, blockBytes: 512)
            wantedOut = sizes.outBytes
            let bytes = try answerWithoutUnit(row, cdb, command.nexus, isWellKnown)
            let data = bytes.prefix(sizes.inBytes)
            effects.append(
                .answer(
                    task,
                    SCSIAnswer(
                        dataIn: data.isEmpty ? [] : [.data(Payload(copying: Array(data)))],
                        wantedOutBytes: wantedOut)))
        } catch {
            effects.append(
                .answer(
                    task,
                    SCSIAnswer(
                        status: Status.checkCondition, sense: error.encoded(asDescriptors: false),
                        wantedOutBytes: wantedOut)))
        }
    }
    private mutating func answerWithoutUnit(
        _ row: CommandRow, _ cdb: CDB, _ nexus: NexusID, _ isWellKnown: Bool
    ) throws(Sense) -> [UInt8] {
        let missing = Sense(.illegalRequest, .logicalUnitNotSupported)
        switch row.operation {
        case .reportLUNs:
            let bytes = try luns(cdb[2], for: nexus)
            for index in units.indices { units[index].forgetInventory(nexus) }
            return bytes
        case .inquiry:
            guard cdb[1] & 0x03 == 0, cdb[2] == 0 else {
                guard isWellKnown, cdb[1] & 0x03 == 0x01, cdb[2] == 0 else { throw .invalidField(2) }
                return [0x1e, 0, 0, 1, 0]
            }
            // Qualifier 011b: no unit can be here; 1Eh: a well-known logical unit.
            return LogicalUnit.standardInquiry(
                nil, qualifierAndType: isWellKnown ? 0x1e : 0x7f, ports: ports)
        case .requestSense:
            let sense = isWellKnown ? Sense(.noSense, .none) : missing
            return sense.encoded(asDescriptors: cdb.has(0x01, at: 1))
        case .testUnitReady where isWellKnown: return []
        default: throw isWellKnown ? Sense(.illegalRequest, .invalidOperationCode) : missing
        }
    }

    // MARK: Port groups (SPC-5, sections 5.17, 6.37 and 6.45)

    func portGroups(_ request: LogicalUnit.Request) throws(Sense) -> [UInt8] {
        var list: [UInt8] = []
        for group in ports.groups {
            list.append((group.isPreferred ? 0x80 : 0) | group.state.rawValue)
            // All states but offline and block-dependent ones.
            list += [0x8f]
            list.append(bigEndian: group.tag)
            // Status 02h: an implicit change, or none.
            list += [0, 0x02, 0, 1, 0, 0]
            list.append(bigEndian: group.tag)
        }
        var header: [UInt8]
        switch request.cdb[1] >> 5 {
        case 0: header = []
        // The extended header: no time is known that a transition takes.
        case 1: header = [0x10, 0, 0, 0]
        default: throw .invalidField(1, bit: 7)
        }
        header += list
        var bytes: [UInt8] = []
        bytes.append(bigEndian: UInt32(header.count))
        return bytes + header
    }
    mutating func setGroups(
        _ request: LogicalUnit.Request, _ index: Int, effects: inout [Effect]
    ) throws(Sense) {
        guard request.wantedOutBytes > 0 else {
            return units[index].answer(request, effects: &effects)
        }
        let list = request.parameters(limits)
        guard list.count == request.wantedOutBytes, list.count >= 4, list.count % 4 == 0 else {
            throw .shortParameters
        }
        var wanted: [PortGroup] = []
        for at in stride(from: 4, to: list.count, by: 4) {
            let tag = UInt16(truncatingIfNeeded: list.half(at: at + 2))
            guard var group = ports.groups.first(where: { $0.tag == tag }) else {
                throw .invalidParameter(at + 2)
            }
            guard !wanted.contains(where: { $0.tag == tag }) else { throw .invalidParameter(at + 2) }
            guard let state = PortState(rawValue: list[at] & 0x0f), state != .transitioning else {
                throw .invalidParameter(at, bit: 3)
            }
            group.state = state
            wanted.append(group)
        }
        guard !wanted.isEmpty, settingGroups.count < limits.nexusesMax else {
            return units[index].answer(request, effects: &effects)
        }
        settingGroups.append((request.task, request.wantedOutBytes, units[index].number))
        effects.append(.setGroups(request.task, wanted))
    }
    mutating func groupsSet(_ task: TaskID, _ isDone: Bool, effects: inout [Effect]) {
        guard let place = settingGroups.firstIndex(where: { $0.task == task }) else { return }
        let ended = settingGroups.remove(at: place)
        guard !isDone else {
            return effects.append(.answer(task, SCSIAnswer(wantedOutBytes: ended.wantedOutBytes)))
        }
        // 67h/0Ah: the command to set port groups failed.
        let sense = Sense(.hardwareError, AdditionalSense(0x67, 0x0a))
        let usesDescriptors = index(ended.unit).map { units[$0].modes.usesDescriptorSense } ?? false
        effects.append(
            .answer(
                task,
                SCSIAnswer(
                    status: Status.checkCondition, sense: sense.encoded(asDescriptors: usesDescriptors),
                    wantedOutBytes: ended.wantedOutBytes)))
    }
}

extension LogicalUnit {
    /// What changed in the list of units was just told to `nexus`.
    mutating func forgetInventory(_ nexus: NexusID) {
        if let index = partyIndex[nexus] { parties[index].attentions.remove(.inventoryChanged) }
    }
}
