import BlockTypes
import SCSIBoundary

/// What a logical unit does. One for each row of the ``CommandTable``.
enum Operation: Hashable, Sendable {
    case testUnitReady, requestSense, inquiry, reportLUNs
    case modeSense6, modeSense10, modeSelect6, modeSelect10
    case reserve6, release6, persistentReserveIn, persistentReserveOut
    case startStopUnit, preventAllowRemoval
    case readCapacity10, readCapacity16, readDefectData10, readDefectData12, getLBAStatus
    case read, write, verify, writeAndVerify, orWrite, compareAndWrite, writeAtomic
    case prefetch, synchronizeCache, writeSame, unmap, sanitize
    case extendedCopy, receiveCopyResults
    case reportSupportedOpcodes, reportSupportedFunctions, reportPortGroups, setPortGroups
}

/// Which bytes a command moves, and which field of its CDB says how many.
enum Transfer: Hashable, Sendable {
    case none
    /// A fixed number of bytes to the initiator.
    case fixedIn(Int)
    /// To the initiator, at most what the field says.
    case allocation(at: Int, bytes: Int)
    /// A parameter list of as many bytes as the field says.
    case parameters(at: Int, bytes: Int)
    /// Blocks; one byte that is 0 means 256 (READ 6 and WRITE 6).
    case blocksIn(at: Int, bytes: Int)
    case blocksOut(at: Int, bytes: Int)
    /// Nothing, the blocks, or one of them, as BYTCHK says.
    case verified(at: Int, bytes: Int)
    /// Twice the blocks: what is expected, and what is to come.
    case compared(at: Int)
    /// One block, or nothing when NDOB is set.
    case oneBlock(noDataBit: UInt8)
}

/// How a command stands to reservations of others (SPC-5, section 5.13.1; SBC-4, section 4.17).
enum ReservationClass: Hashable, Sendable, CaseIterable {
    /// Allowed whoever holds what, even against RESERVE(6).
    case always
    /// Allowed against persistent reservations, a conflict against RESERVE(6) of another.
    case status
    /// A conflict with exclusive access of others, allowed with write exclusive.
    case reads
    /// A conflict with either.
    case writes
    /// Judged by the command itself.
    case own
}

/// One command: how its CDB looks and how it is to be treated. A class, since each command of an initiator
/// passes its row on and on.
final class CommandRow: Sendable {
    let operation: Operation
    let opcode: UInt8
    /// Bits 0 to 4 of byte 1, for operation codes that have several services.
    let serviceAction: UInt8?
    let name: String
    /// For each byte of the CDB the bits that are looked at (REPORT SUPPORTED OPERATION CODES).
    let usage: [UInt8]
    let transfer: Transfer
    let reservations: ReservationClass
    /// Fails when no medium is there, it is stopped, or is being sanitized.
    let needsMedium: Bool
    /// Changes the medium: refused when that is write protected.
    let writes: Bool
    /// Bits outside of ``usage`` must be zero.
    let isStrict: Bool
    /// Where a run of blocks is named, if it is.
    let blocks: BlockField?
    /// How long it takes and how long to wait for it, in seconds.
    let timeouts: (nominal: UInt32, recommended: UInt32)

    init(
        operation: Operation, opcode: UInt8, serviceAction: UInt8?, name: String, usage: [UInt8],
        transfer: Transfer, reservations: ReservationClass, needsMedium: Bool = true, writes: Bool = false,
        isStrict: Bool = false, blocks: BlockField? = nil,
        timeouts: (nominal: UInt32, recommended: UInt32) = (1, 30)
    ) {
        (self.operation, self.opcode, self.serviceAction) = (operation, opcode, serviceAction)
        (self.name, self.usage, self.transfer) = (name, usage, transfer)
        (self.reservations, self.needsMedium, self.writes) = (reservations, needsMedium, writes)
        (self.isStrict, self.blocks, self.timeouts) = (isStrict, blocks, timeouts)
    }

    var cdbBytes: Int { usage.count }

    /// The control byte is the last of a CDB; only its NACA bit matters, and must be zero.
    var controlByte: Int { cdbBytes - 1 }

    /// What the CDB wants to move; pure, for the transport, which asks before the command comes.
    func transferSizes(_ cdb: CDB, blockBytes: Int) -> TransferSizes {
        switch transfer {
        case .none: return TransferSizes(inBytes: 0, outBytes: 0)
        case .fixedIn(let bytes): return TransferSizes(inBytes: bytes, outBytes: 0)
        case .allocation(let at, let bytes):
            return TransferSizes(inBytes: Int(cdb.number(at: at, bytes: bytes)), outBytes: 0)
        case .parameters(let at, let bytes):
            return TransferSizes(inBytes: 0, outBytes: Int(cdb.number(at: at, bytes: bytes)))
        case .blocksIn: return TransferSizes(inBytes: blockCount(cdb) * blockBytes, outBytes: 0)
        case .blocksOut: return TransferSizes(inBytes: 0, outBytes: blockCount(cdb) * blockBytes)
        case .verified:
            switch cdb[1] >> 1 & 3 {
            case 1: return TransferSizes(inBytes: 0, outBytes: blockCount(cdb) * blockBytes)
            case 3: return TransferSizes(inBytes: 0, outBytes: blockCount(cdb) > 0 ? blockBytes : 0)
            default: return TransferSizes(inBytes: 0, outBytes: 0)
            }
        case .compared: return TransferSizes(inBytes: 0, outBytes: 2 * blockCount(cdb) * blockBytes)
        case .oneBlock(let bit):
            return TransferSizes(inBytes: 0, outBytes: cdb.has(bit, at: 1) ? 0 : blockBytes)
        }
    }
    /// The blocks that the CDB names.
    func blockCount(_ cdb: CDB) -> Int {
        guard let blocks else { return 0 }
        let count = Int(cdb.number(at: blocks.countAt, bytes: blocks.countBytes))
        return blocks.countBytes == 1 && blocks.zeroMeans256 && count == 0 ? 256 : count
    }
    /// The first block that the CDB names.
    func firstBlock(_ cdb: CDB) -> UInt64 {
        guard let blocks else { return 0 }
        let number = cdb.number(at: blocks.addressAt, bytes: blocks.addressBytes)
        return blocks.addressBytes == 3 ? number & 0x1f_ffff : number
    }
}

/// Where a CDB says which blocks it is about.
struct BlockField: Hashable, Sendable {
    let addressAt: Int
    let addressBytes: Int
    let countAt: Int
    let countBytes: Int
    var zeroMeans256 = false
}

/// All commands there are. Decoding, REPORT SUPPORTED OPERATION CODES, transfer sizes and reservations read
/// the same rows, so they cannot disagree.
public enum CommandTable {
    /// The row of a CDB, if there is such a command.
    static func row(_ cdb: CDB) -> CommandRow? { services[Int(cdb.opcode) << 5 | Int(cdb.serviceAction)] }
    static func row(_ opcode: UInt8, _ serviceAction: UInt8?) -> CommandRow? {
        index[Int(opcode)].first { $0.serviceAction == serviceAction }
    }
    static func rows(_ opcode: UInt8) -> [CommandRow] { index[Int(opcode)] }

    /// What a CDB wants to move, for ``ISCSIProtocol``'s `transferSizes`. An unknown one wants nothing.
    public static func transferSizes(cdb: CDB, blockBytes: Int) -> TransferSizes {
        guard let row = row(cdb) else { return TransferSizes(inBytes: 0, outBytes: 0) }
        return row.transferSizes(cdb, blockBytes: blockBytes)
    }

    /// For each operation code its rows.
    private static let index: [[CommandRow]] = {
        var index = [[CommandRow]](repeating: [], count: 256)
        for row in rows { index[Int(row.opcode)].append(row) }
        return index
    }()
    /// For each operation code and, below it, each of 32 service actions the row; the same one for all of
    /// those where a code has no services.
    private static let services: [CommandRow?] = index.flatMap { rows in
        (0..<32).map { action in rows.first { $0.serviceAction == nil || $0.serviceAction == UInt8(action) } }
    }
}
