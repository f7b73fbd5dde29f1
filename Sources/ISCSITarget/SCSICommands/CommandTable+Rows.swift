/// The rows, by operation code. SPC-5, SBC-4; the usage maps leave out what is reserved or obsolete.
extension CommandTable {
    static let rows: [CommandRow] = primary + blockReads + blockWrites + management

    private static let all: UInt8 = 0xff
    private static let control: UInt8 = 0x04

    private static let short = BlockField(
        addressAt: 1, addressBytes: 3, countAt: 4, countBytes: 1, zeroMeans256: true)
    private static let ten = BlockField(addressAt: 2, addressBytes: 4, countAt: 7, countBytes: 2)
    private static let twelve = BlockField(addressAt: 2, addressBytes: 4, countAt: 6, countBytes: 4)
    private static let sixteen = BlockField(addressAt: 2, addressBytes: 8, countAt: 10, countBytes: 4)
    private static let compare = BlockField(addressAt: 2, addressBytes: 8, countAt: 13, countBytes: 1)
    private static let atomic = BlockField(addressAt: 2, addressBytes: 8, countAt: 12, countBytes: 2)
    private static let status = BlockField(addressAt: 2, addressBytes: 8, countAt: 10, countBytes: 4)

    /// Usage maps of the common forms; `flags` are the bits of byte 1.
    private static func map6(_ opcode: UInt8, _ first: UInt8) -> [UInt8] {
        [opcode, first, all, all, all, control]
    }
    private static func map10(_ opcode: UInt8, _ flags: UInt8) -> [UInt8] {
        [opcode, flags, all, all, all, all, 0x1f, all, all, control]
    }
    private static func map12(_ opcode: UInt8, _ flags: UInt8) -> [UInt8] {
        [opcode, flags, all, all, all, all, all, all, all, all, 0x1f, control]
    }
    private static func map16(_ opcode: UInt8, _ flags: UInt8) -> [UInt8] {
        [opcode, flags] + [UInt8](repeating: all, count: 12) + [0x1f, control]
    }
    private static func io(
        _ operation: Operation, _ opcode: UInt8, _ name: String, _ usage: [UInt8], _ blocks: BlockField,
        _ transfer: Transfer, _ reservations: ReservationClass, writes: Bool = false
    ) -> CommandRow {
        CommandRow(
            operation: operation, opcode: opcode, serviceAction: nil, name: name, usage: usage,
            transfer: transfer, reservations: reservations, writes: writes, blocks: blocks,
            timeouts: (1, 60))
    }

    private static let primary: [CommandRow] = [
        CommandRow(
            operation: .testUnitReady, opcode: 0x00, serviceAction: nil, name: "TEST UNIT READY",
            usage: [0x00, 0, 0, 0, 0, control], transfer: .none, reservations: .status),
        CommandRow(
            operation: .requestSense, opcode: 0x03, serviceAction: nil, name: "REQUEST SENSE",
            usage: [0x03, 0x01, 0, 0, all, control], transfer: .allocation(at: 4, bytes: 1),
            reservations: .always, needsMedium: false),
        CommandRow(
            operation: .inquiry, opcode: 0x12, serviceAction: nil, name: "INQUIRY",
            usage: [0x12, 0x01, all, all, all, control], transfer: .allocation(at: 3, bytes: 2),
            reservations: .always, needsMedium: false),
        CommandRow(
            operation: .modeSelect6, opcode: 0x15, serviceAction: nil, name: "MODE SELECT(6)",
            usage: [0x15, 0x11, 0, 0, all, control], transfer: .parameters(at: 4, bytes: 1),
            reservations: .writes, needsMedium: false),
        CommandRow(
            operation: .reserve6, opcode: 0x16, serviceAction: nil, name: "RESERVE(6)",
            usage: [0x16, 0x11, 0, 0, 0, control], transfer: .none, reservations: .own, needsMedium: false),
        CommandRow(
            operation: .release6, opcode: 0x17, serviceAction: nil, name: "RELEASE(6)",
            usage: [0x17, 0x11, 0, 0, 0, control], transfer: .none, reservations: .own, needsMedium: false),
        CommandRow(
            operation: .modeSense6, opcode: 0x1a, serviceAction: nil, name: "MODE SENSE(6)",
            usage: [0x1a, 0x08, all, all, all, control], transfer: .allocation(at: 4, bytes: 1),
            reservations: .reads, needsMedium: false),
        CommandRow(
            operation: .startStopUnit, opcode: 0x1b, serviceAction: nil, name: "START STOP UNIT",
            usage: [0x1b, 0x01, 0, 0x0f, 0xf7, control], transfer: .none, reservations: .own,
            needsMedium: false),
        CommandRow(
            operation: .preventAllowRemoval, opcode: 0x1e, serviceAction: nil,
            name: "PREVENT ALLOW MEDIUM REMOVAL", usage: [0x1e, 0, 0, 0, 0x03, control], transfer: .none,
            reservations: .own, needsMedium: false),
        CommandRow(
            operation: .modeSelect10, opcode: 0x55, serviceAction: nil, name: "MODE SELECT(10)",
            usage: [0x55, 0x11, 0, 0, 0, 0, 0, all, all, control],
            transfer: .parameters(at: 7, bytes: 2), reservations: .writes, needsMedium: false),
        CommandRow(
            operation: .modeSense10, opcode: 0x5a, serviceAction: nil, name: "MODE SENSE(10)",
            usage: [0x5a, 0x18, all, all, 0, 0, 0, all, all, control],
            transfer: .allocation(at: 7, bytes: 2), reservations: .reads, needsMedium: false),
        CommandRow(
            operation: .reportLUNs, opcode: 0xa0, serviceAction: nil, name: "REPORT LUNS",
            usage: [0xa0, 0, all, 0, 0, 0, all, all, all, all, 0, control],
            transfer: .allocation(at: 6, bytes: 4), reservations: .always, needsMedium: false),
    ]

    private static let blockReads: [CommandRow] = [
        io(.read, 0x08, "READ(6)", map6(0x08, 0x1f), short, .blocksIn(at: 4, bytes: 1), .reads),
        CommandRow(
            operation: .readCapacity10, opcode: 0x25, serviceAction: nil, name: "READ CAPACITY(10)",
            usage: [0x25, 0, all, all, all, all, 0, 0, 0x01, control], transfer: .fixedIn(8),
            reservations: .always),
        io(.read, 0x28, "READ(10)", map10(0x28, 0xf8), ten, .blocksIn(at: 7, bytes: 2), .reads),
        io(.verify, 0x2f, "VERIFY(10)", map10(0x2f, 0xf6), ten, .verified(at: 7, bytes: 2), .reads),
        io(.prefetch, 0x34, "PRE-FETCH(10)", map10(0x34, 0x02), ten, .none, .reads),
        CommandRow(
            operation: .readDefectData10, opcode: 0x37, serviceAction: nil, name: "READ DEFECT DATA(10)",
            usage: [0x37, 0, 0x1f, 0, 0, 0, 0, all, all, control], transfer: .allocation(at: 7, bytes: 2),
            reservations: .reads),
        io(.read, 0x88, "READ(16)", map16(0x88, 0xf8), sixteen, .blocksIn(at: 10, bytes: 4), .reads),
        io(.verify, 0x8f, "VERIFY(16)", map16(0x8f, 0xf6), sixteen, .verified(at: 10, bytes: 4), .reads),
        io(.prefetch, 0x90, "PRE-FETCH(16)", map16(0x90, 0x02), sixteen, .none, .reads),
        CommandRow(
            operation: .readCapacity16, opcode: 0x9e, serviceAction: 0x10, name: "READ CAPACITY(16)",
            usage: [0x9e, 0x1f] + [UInt8](repeating: all, count: 12) + [0x01, control],
            transfer: .allocation(at: 10, bytes: 4), reservations: .always),
        CommandRow(
            operation: .getLBAStatus, opcode: 0x9e, serviceAction: 0x12, name: "GET LBA STATUS",
            usage: [0x9e, 0x1f] + [UInt8](repeating: all, count: 13) + [control],
            transfer: .allocation(at: 10, bytes: 4), reservations: .reads),
        io(.read, 0xa8, "READ(12)", map12(0xa8, 0xf8), twelve, .blocksIn(at: 6, bytes: 4), .reads),
        io(.verify, 0xaf, "VERIFY(12)", map12(0xaf, 0xf6), twelve, .verified(at: 6, bytes: 4), .reads),
        CommandRow(
            operation: .readDefectData12, opcode: 0xb7, serviceAction: nil, name: "READ DEFECT DATA(12)",
            usage: [0xb7, 0x1f, all, all, all, all, all, all, all, all, 0, control],
            transfer: .allocation(at: 6, bytes: 4), reservations: .reads),
    ]

    private static let blockWrites: [CommandRow] = [
        io(
            .write, 0x0a, "WRITE(6)", map6(0x0a, 0x1f), short, .blocksOut(at: 4, bytes: 1), .writes,
            writes: true),
        io(
            .write, 0x2a, "WRITE(10)", map10(0x2a, 0xf8), ten, .blocksOut(at: 7, bytes: 2), .writes,
            writes: true),
        io(
            .writeAndVerify, 0x2e, "WRITE AND VERIFY(10)", map10(0x2e, 0xf6), ten,
            .blocksOut(at: 7, bytes: 2), .writes, writes: true),
        io(.synchronizeCache, 0x35, "SYNCHRONIZE CACHE(10)", map10(0x35, 0x02), ten, .none, .writes),
        CommandRow(
            operation: .writeSame, opcode: 0x41, serviceAction: nil, name: "WRITE SAME(10)",
            usage: map10(0x41, 0xf8), transfer: .oneBlock(noDataBit: 0), reservations: .writes, writes: true,
            blocks: ten, timeouts: (5, 300)),
        CommandRow(
            operation: .unmap, opcode: 0x42, serviceAction: nil, name: "UNMAP",
            usage: [0x42, 0x01, 0, 0, 0, 0, 0x1f, all, all, control],
            transfer: .parameters(at: 7, bytes: 2), reservations: .writes, writes: true,
            timeouts: (5, 300)),
        io(
            .write, 0x8a, "WRITE(16)", map16(0x8a, 0xf8), sixteen, .blocksOut(at: 10, bytes: 4), .writes,
            writes: true),
        io(
            .orWrite, 0x8b, "ORWRITE(16)", map16(0x8b, 0xf8), sixteen, .blocksOut(at: 10, bytes: 4), .writes,
            writes: true),
        io(
            .writeAndVerify, 0x8e, "WRITE AND VERIFY(16)", map16(0x8e, 0xf6), sixteen,
            .blocksOut(at: 10, bytes: 4), .writes, writes: true),
        io(.synchronizeCache, 0x91, "SYNCHRONIZE CACHE(16)", map16(0x91, 0x02), sixteen, .none, .writes),
        io(
            .compareAndWrite, 0x89, "COMPARE AND WRITE",
            [0x89, 0xf8] + [UInt8](repeating: all, count: 8) + [0, 0, 0, all, 0x1f, control], compare,
            .compared(at: 13), .writes, writes: true),
        CommandRow(
            operation: .writeSame, opcode: 0x93, serviceAction: nil, name: "WRITE SAME(16)",
            usage: map16(0x93, 0xf9), transfer: .oneBlock(noDataBit: 0x01), reservations: .writes,
            writes: true, blocks: sixteen, timeouts: (5, 300)),
        io(
            .writeAtomic, 0x9c, "WRITE ATOMIC(16)", map16(0x9c, 0xf8), atomic,
            .blocksOut(at: 12, bytes: 2), .writes, writes: true),
        io(
            .write, 0xaa, "WRITE(12)", map12(0xaa, 0xf8), twelve, .blocksOut(at: 6, bytes: 4), .writes,
            writes: true),
        io(
            .writeAndVerify, 0xae, "WRITE AND VERIFY(12)", map12(0xae, 0xf6), twelve,
            .blocksOut(at: 6, bytes: 4), .writes, writes: true),
    ]

    private static let management: [CommandRow] =
        sanitizes + reservationRows(0x5e) + reservationRows(0x5f) + copies + maintenance

    private static let sanitizes: [CommandRow] = [
        (UInt8(0x01), "OVERWRITE"), (0x02, "BLOCK ERASE"), (0x1f, "EXIT FAILURE MODE"),
    ]
    .map { action, name in
        CommandRow(
            operation: .sanitize, opcode: 0x48, serviceAction: action, name: "SANITIZE \(name)",
            usage: [0x48, 0xbf, 0, 0, 0, 0, 0, all, all, control],
            transfer: .parameters(at: 7, bytes: 2), reservations: .writes, needsMedium: action != 0x1f,
            writes: action != 0x1f, isStrict: true, timeouts: (600, 86_400))
    }
    private static func reservationRows(_ opcode: UInt8) -> [CommandRow] {
        let names =
            opcode == 0x5e
            ? ["READ KEYS", "READ RESERVATION", "REPORT CAPABILITIES", "READ FULL STATUS"]
            : [
                "REGISTER", "RESERVE", "RELEASE", "CLEAR", "PREEMPT", "PREEMPT AND ABORT",
                "REGISTER AND IGNORE EXISTING KEY",
            ]
        return names.enumerated().map { action, name in
            CommandRow(
                operation: opcode == 0x5e ? .persistentReserveIn : .persistentReserveOut, opcode: opcode,
                serviceAction: UInt8(action), name: "PERSISTENT RESERVE \(name)",
                usage: opcode == 0x5e
                    ? [0x5e, 0x1f, 0, 0, 0, 0, 0, all, all, control]
                    : [0x5f, 0x1f, all, 0, 0, all, all, all, all, control],
                transfer: opcode == 0x5e ? .allocation(at: 7, bytes: 2) : .parameters(at: 5, bytes: 4),
                reservations: .own, needsMedium: false)
        }
    }
    private static let copies: [CommandRow] =
        [
            CommandRow(
                operation: .extendedCopy, opcode: 0x83, serviceAction: 0x00, name: "EXTENDED COPY(LID1)",
                usage: [0x83, 0x1f, 0, 0, 0, 0, 0, 0, 0, 0, all, all, all, all, 0, control],
                transfer: .parameters(at: 10, bytes: 4), reservations: .writes, timeouts: (30, 600))
        ]
        + [
            (UInt8(0x00), "COPY STATUS(LID1)"), (0x03, "OPERATING PARAMETERS"),
            (0x04, "FAILED SEGMENT DETAILS(LID1)"),
        ].map {
            CommandRow(
                operation: .receiveCopyResults, opcode: 0x84, serviceAction: $0,
                name: "RECEIVE COPY RESULTS \($1)",
                usage: [0x84, 0x1f, all, 0, 0, 0, 0, 0, 0, 0, all, all, all, all, 0, control],
                transfer: .allocation(at: 10, bytes: 4), reservations: .status, needsMedium: false)
        }
    private static let maintenance: [CommandRow] = [
        CommandRow(
            operation: .reportPortGroups, opcode: 0xa3, serviceAction: 0x0a,
            name: "REPORT TARGET PORT GROUPS",
            usage: [0xa3, 0xff, 0, 0, 0, 0, all, all, all, all, 0, control],
            transfer: .allocation(at: 6, bytes: 4), reservations: .always, needsMedium: false),
        CommandRow(
            operation: .reportSupportedOpcodes, opcode: 0xa3, serviceAction: 0x0c,
            name: "REPORT SUPPORTED OPERATION CODES",
            usage: [0xa3, 0x1f, 0x87, all, all, all, all, all, all, all, 0, control],
            transfer: .allocation(at: 6, bytes: 4), reservations: .reads, needsMedium: false),
        CommandRow(
            operation: .reportSupportedFunctions, opcode: 0xa3, serviceAction: 0x0d,
            name: "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS",
            usage: [0xa3, 0x1f, 0x80, 0, 0, 0, all, all, all, all, 0, control],
            transfer: .allocation(at: 6, bytes: 4), reservations: .reads, needsMedium: false),
        CommandRow(
            operation: .setPortGroups, opcode: 0xa4, serviceAction: 0x0a, name: "SET TARGET PORT GROUPS",
            usage: [0xa4, 0x1f, 0, 0, 0, 0, all, all, all, all, 0, control],
            transfer: .parameters(at: 6, bytes: 4), reservations: .writes, needsMedium: false),
    ]
}
