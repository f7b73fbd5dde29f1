/// The 48 bytes that every PDU begins with (RFC 7143, section 11.2.1), as words in the host's order.
///
/// Which field lies where depends on the opcode: the accessors carry the names of the sections 11.3 to 11.19.
public struct PDUHeader: Sendable {
    /// Bytes on the wire, without additional segments and digests.
    public static let byteCount = 48

    private var words: InlineArray<12, UInt32>

    /// A header of zeroes but for its opcode and flags.
    init(opcode: UInt8, flags: UInt8 = 0) {
        words = InlineArray(repeating: 0)
        words[0] = UInt32(opcode) << 24 | UInt32(flags) << 16
    }
    /// The header at the front of `bytes`, which has at least 48 of them.
    @unsafe init(_ bytes: UnsafeRawBufferPointer) {
        words = InlineArray(repeating: 0)
        for index in 0..<12 {
            words[index] = unsafe UInt32(
                bigEndian: bytes.loadUnaligned(fromByteOffset: 4 * index, as: UInt32.self))
        }
    }
    /// Appends the header in network byte order.
    func append(to bytes: inout [UInt8]) {
        var swapped = words
        for index in 0..<12 { swapped[index] = words[index].bigEndian }
        unsafe withUnsafeBytes(of: swapped) { unsafe bytes.append(contentsOf: $0) }
    }
    /// The header's bytes on the wire.
    var encoded: [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(Self.byteCount)
        append(to: &bytes)
        return bytes
    }

    /// The byte at `index` of the wire form.
    func byte(_ index: Int) -> UInt8 {
        UInt8(truncatingIfNeeded: words[index >> 2] >> UInt32(24 - 8 * (index & 3)))
    }
    mutating func setByte(_ index: Int, _ value: UInt8) {
        let shift = UInt32(24 - 8 * (index & 3))
        words[index >> 2] = words[index >> 2] & ~(0xff << shift) | UInt32(value) << shift
    }
    /// The 32-bit number at byte `index`, a multiple of four.
    func word(_ index: Int) -> UInt32 { words[index >> 2] }
    mutating func setWord(_ index: Int, _ value: UInt32) { words[index >> 2] = value }
    func half(_ index: Int) -> UInt16 { UInt16(byte(index)) << 8 | UInt16(byte(index + 1)) }
    mutating func setHalf(_ index: Int, _ value: UInt16) {
        setByte(index, UInt8(value >> 8))
        setByte(index + 1, UInt8(truncatingIfNeeded: value))
    }

    /// The first byte without the immediate bit and the reserved one, which is not looked at.
    var opcode: UInt8 { byte(0) & 0x3f }
    var isImmediate: Bool { byte(0) & Flag.immediate != 0 }
    var flags: UInt8 {
        get { byte(1) }
        set { setByte(1, newValue) }
    }
    func has(_ flag: UInt8) -> Bool { flags & flag != 0 }
    /// TotalAHSLength, in bytes.
    var additionalBytes: Int { Int(byte(4)) * 4 }
    /// DataSegmentLength, without padding.
    var dataBytes: Int {
        get { Int(words[1] & 0xff_ffff) }
        set { words[1] = words[1] & 0xff00_0000 | UInt32(newValue) }
    }
    var lun: LUN {
        get { LUN(rawValue: UInt64(words[2]) << 32 | UInt64(words[3])) }
        set {
            words[2] = UInt32(newValue.rawValue >> 32)
            words[3] = UInt32(truncatingIfNeeded: newValue.rawValue)
        }
    }
    /// Initiator Task Tag.
    var taskTag: UInt32 {
        get { words[4] }
        set { words[4] = newValue }
    }
    /// Target Transfer Tag; of a SCSI command the expected data transfer length, of a task management
    /// request the referenced task tag.
    var transferTag: UInt32 {
        get { words[5] }
        set { words[5] = newValue }
    }
    /// From an initiator: CmdSN and ExpStatSN.
    var commandNumber: UInt32 { words[6] }
    var expectedStatusNumber: UInt32 { words[7] }
    /// From a target: StatSN, ExpCmdSN, MaxCmdSN.
    mutating func setNumbers(status: UInt32, expectedCommand: UInt32, maxCommand: UInt32) {
        words[6] = status
        words[7] = expectedCommand
        words[8] = maxCommand
    }
    /// DataSN or R2TSN; of a SCSI response ExpDataSN.
    var dataNumber: UInt32 {
        get { words[9] }
        set { words[9] = newValue }
    }
    var bufferOffset: UInt32 {
        get { words[10] }
        set { words[10] = newValue }
    }
    /// The last word: a residual count or the desired length of an R2T.
    var lastWord: UInt32 {
        get { words[11] }
        set { words[11] = newValue }
    }
    /// Of a login: the initiator's session identifier, 48 bits.
    var sessionIdentifier: UInt64 {
        get { UInt64(words[2]) << 16 | UInt64(words[3] >> 16) }
        set {
            words[2] = UInt32(truncatingIfNeeded: newValue >> 16)
            words[3] = words[3] & 0xffff | UInt32(truncatingIfNeeded: newValue & 0xffff) << 16
        }
    }
    /// Of a login: the target's session handle.
    var sessionHandle: UInt16 {
        get { half(14) }
        set { setHalf(14, newValue) }
    }
    /// Of a login or logout: the connection's identifier.
    var connectionIdentifier: UInt16 { half(20) }
    /// The CDB of a SCSI command, its first 16 bytes.
    var cdb: CDB {
        CDB(
            first: UInt64(words[8]) << 32 | UInt64(words[9]),
            last: UInt64(words[10]) << 32 | UInt64(words[11]))
    }
}
