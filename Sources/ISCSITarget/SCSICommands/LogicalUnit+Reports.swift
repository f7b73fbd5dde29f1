import BlockTypes
import SCSIBoundary

/// What a unit tells of its commands (SPC-5, sections 6.34 and 6.35).
extension LogicalUnit {
    func supportedOpcodes(_ request: Request) throws(Sense) -> [UInt8] {
        let wantsTimeouts = request.has(0x80, at: 2)
        let (opcode, action) = (request.cdb[3], Int(request.cdb.number(at: 4, bytes: 2)))
        let rows = CommandTable.rows(opcode).filter { offers($0) }
        let hasServices = rows.contains { $0.serviceAction != nil }
        switch request.cdb[2] & 0x07 {
        case 0: return allCommands(wantsTimeouts)
        case 1:
            guard !hasServices else { throw .invalidField(2, bit: 2) }
            return oneCommand(rows.first, wantsTimeouts)
        case 2:
            guard rows.isEmpty || hasServices else { throw .invalidField(2, bit: 2) }
            return oneCommand(rows.first { $0.serviceAction.map(Int.init) == action }, wantsTimeouts)
        case 3:
            let row = rows.first { ($0.serviceAction.map(Int.init) ?? 0) == action }
            return oneCommand(row, wantsTimeouts)
        default: throw .invalidField(2, bit: 2)
        }
    }
    private func allCommands(_ wantsTimeouts: Bool) -> [UInt8] {
        var list: [UInt8] = []
        for row in CommandTable.rows where offers(row) {
            list += [row.opcode, 0, 0, row.serviceAction ?? 0, 0]
            list.append((wantsTimeouts ? 0x02 : 0) | (row.serviceAction == nil ? 0 : 0x01))
            list.append(bigEndian: UInt16(row.cdbBytes))
            if wantsTimeouts { list += Self.timeouts(row) }
        }
        var bytes: [UInt8] = []
        bytes.append(bigEndian: UInt32(list.count))
        return bytes + list
    }
    private func oneCommand(_ row: CommandRow?, _ wantsTimeouts: Bool) -> [UInt8] {
        // Support 001b: there is no such command; 011b: as the standard has it.
        guard let row else { return [0, 0x01, 0, 0] }
        var bytes: [UInt8] = [0, (wantsTimeouts ? 0x80 : 0) | 0x03]
        bytes.append(bigEndian: UInt16(row.cdbBytes))
        var usage = row.usage
        if let action = row.serviceAction { usage[1] = usage[1] & 0xe0 | action }
        return bytes + usage + (wantsTimeouts ? Self.timeouts(row) : [])
    }
    private static func timeouts(_ row: CommandRow) -> [UInt8] {
        var bytes: [UInt8] = [0, 10, 0, 0]
        bytes.append(bigEndian: row.timeouts.nominal)
        bytes.append(bigEndian: row.timeouts.recommended)
        return bytes
    }

    func supportedFunctions(_ request: Request) -> [UInt8] {
        // Resets of the target have no bit.
        let bits: [(ManagementFunction, byte: Int, bit: UInt8)] = [
            (.abortTask, 0, 0x80), (.abortTaskSet, 0, 0x40), (.clearAutoContingentAllegiance, 0, 0x20),
            (.clearTaskSet, 0, 0x10), (.logicalUnitReset, 0, 0x08), (.queryTask, 0, 0x04),
            (.queryAsynchronousEvent, 1, 0x04), (.queryTaskSet, 1, 0x02), (.nexusReset, 1, 0x01),
        ]
        var functions: [UInt8] = [0, 0, 0]
        for (function, byte, bit) in bits where request.party.functions.contains(function) {
            functions[byte] |= bit
        }
        guard request.has(0x80, at: 2) else { return functions + [0] }
        return functions + [12] + [UInt8](repeating: 0, count: 12)
    }
}
