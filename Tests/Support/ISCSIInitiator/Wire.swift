/// The initiator's view of the wire, written from the RFC's pictures: shares nothing with the target's code.
package struct Wire {
    /// Each header is followed by its checksum.
    package var headerDigest = false
    /// Each data segment is followed by its checksum.
    package var dataDigest = false
    /// A wire, by default without digests.
    package init(headerDigest: Bool = false, dataDigest: Bool = false) {
        (self.headerDigest, self.dataDigest) = (headerDigest, dataDigest)
    }

    /// A PDU: opcode (with the immediate bit), flags, fields by their byte offset, and data.
    package func pdu(
        _ opcode: UInt8, flags: UInt8 = 0x80, bytes fields: [(Int, [UInt8])] = [], ahs: [UInt8] = [],
        data: [UInt8] = []
    ) -> [UInt8] {
        var header = [UInt8](repeating: 0, count: 48)
        header[0] = opcode
        header[1] = flags
        header[4] = UInt8(ahs.count / 4)
        header.replaceSubrange(5..<8, with: be32(UInt32(data.count))[1...])
        for (offset, bytes) in fields { header.replaceSubrange(offset..<(offset + bytes.count), with: bytes) }
        header += ahs
        if headerDigest { header += le32(crc32c(header)) }
        guard !data.isEmpty else { return header }
        let padded = data + [UInt8](repeating: 0, count: (4 - data.count % 4) % 4)
        return header + padded + (dataDigest ? le32(crc32c(padded)) : [])
    }
    /// What a login request looks like.
    package static func login(
        _ text: [String], stage: UInt8 = 0, next: UInt8? = nil, continues: Bool = false,
        isid: UInt64 = 0x4000_0000_0001,
        tsih: UInt16 = 0, tag: UInt32 = 7, cid: UInt16 = 1, cmdSN: UInt32 = 100, expStatSN: UInt32 = 0,
        versionMin: UInt8 = 0, opcode: UInt8 = 0x43
    ) -> [UInt8] {
        let flags = stage << 2 | (next.map { 0x80 | $0 } ?? 0) | (continues ? 0x40 : 0)
        let data = text.flatMap { (line: String) -> [UInt8] in Array(line.utf8) + [0] }
        return Wire().pdu(
            opcode, flags: flags,
            bytes: [
                (3, [versionMin]), (8, be64(isid << 16)), (14, be16(tsih)), (16, be32(tag)), (20, be16(cid)),
                (24, be32(cmdSN)), (28, be32(expStatSN)),
            ], data: data)
    }
    /// A SCSI command.
    package func command(
        tag: UInt32, cdb: [UInt8], lun: UInt64 = 0, length: UInt32 = 0, cmdSN: UInt32, expStatSN: UInt32 = 0,
        read: Bool = false, write: Bool = false, final: Bool = true, attribute: UInt8 = 1,
        priority: UInt8 = 0, immediate: Bool = false, ahs: [UInt8] = [], data: [UInt8] = []
    ) -> [UInt8] {
        pdu(
            immediate ? 0x41 : 0x01,
            flags: (final ? 0x80 : 0) | (read ? 0x40 : 0) | (write ? 0x20 : 0) | attribute,
            bytes: [
                (2, [priority << 4]), (8, be64(lun)), (16, be32(tag)), (20, be32(length)), (24, be32(cmdSN)),
                (28, be32(expStatSN)), (32, Array((cdb + [UInt8](repeating: 0, count: 16)).prefix(16))),
            ], ahs: ahs, data: data)
    }
    package func dataOut(
        tag: UInt32, transfer: UInt32 = 0xffff_ffff, number: UInt32, offset: UInt32, final: Bool,
        data: [UInt8],
        expStatSN: UInt32 = 0, lun: UInt64 = 0
    ) -> [UInt8] {
        pdu(
            0x05, flags: final ? 0x80 : 0,
            bytes: [
                (8, be64(lun)), (16, be32(tag)), (20, be32(transfer)), (28, be32(expStatSN)),
                (36, be32(number)),
                (40, be32(offset)),
            ], data: data)
    }
    package func nopOut(
        tag: UInt32 = 0xffff_ffff, transfer: UInt32 = 0xffff_ffff, cmdSN: UInt32, expStatSN: UInt32 = 0,
        immediate: Bool = true, data: [UInt8] = []
    ) -> [UInt8] {
        pdu(
            immediate ? 0x40 : 0x00,
            bytes: [(16, be32(tag)), (20, be32(transfer)), (24, be32(cmdSN)), (28, be32(expStatSN))],
            data: data)
    }
    package func management(
        _ function: UInt8, tag: UInt32, referenced: UInt32 = 0xffff_ffff, lun: UInt64 = 0, cmdSN: UInt32,
        refCmdSN: UInt32 = 0, expStatSN: UInt32 = 0, immediate: Bool = true
    ) -> [UInt8] {
        pdu(
            immediate ? 0x42 : 0x02, flags: 0x80 | function,
            bytes: [
                (8, be64(lun)), (16, be32(tag)), (20, be32(referenced)), (24, be32(cmdSN)),
                (28, be32(expStatSN)),
                (32, be32(refCmdSN)),
            ])
    }
    package func text(
        _ text: [String], tag: UInt32, transfer: UInt32 = 0xffff_ffff, cmdSN: UInt32, final: Bool = true,
        continues: Bool = false, immediate: Bool = true
    ) -> [UInt8] {
        pdu(
            immediate ? 0x44 : 0x04, flags: (final ? 0x80 : 0) | (continues ? 0x40 : 0),
            bytes: [(16, be32(tag)), (20, be32(transfer)), (24, be32(cmdSN))],
            data: text.flatMap { (line: String) -> [UInt8] in Array(line.utf8) + [0] })
    }
    package func logout(
        _ reason: UInt8, tag: UInt32, cid: UInt16 = 1, cmdSN: UInt32, immediate: Bool = true
    ) -> [UInt8] {
        pdu(
            immediate ? 0x46 : 0x06, flags: 0x80 | reason,
            bytes: [(16, be32(tag)), (20, be16(cid)), (24, be32(cmdSN))])
    }
}

package func be16(_ value: UInt16) -> [UInt8] { [UInt8(value >> 8), UInt8(value & 0xff)] }
package func be32(_ value: UInt32) -> [UInt8] {
    (0..<4).map { UInt8(truncatingIfNeeded: value >> UInt32(24 - 8 * $0)) }
}
package func be64(_ value: UInt64) -> [UInt8] {
    (0..<8).map { UInt8(truncatingIfNeeded: value >> UInt64(56 - 8 * $0)) }
}
package func le32(_ value: UInt32) -> [UInt8] { be32(value).reversed() }

private let crcTable: [UInt32] = (0..<256).map { index in
    (0..<8).reduce(UInt32(index)) { value, _ in value & 1 == 1 ? value >> 1 ^ 0x82f6_3b78 : value >> 1 }
}
package func crc32c(_ bytes: [UInt8]) -> UInt32 {
    ~bytes.reduce(UInt32.max) { crcTable[Int(($0 ^ UInt32($1)) & 0xff)] ^ $0 >> 8 }
}

/// One PDU of the target.
package struct Heard: CustomStringConvertible {
    package var header: [UInt8]
    package var data: [UInt8]
    package init(header: [UInt8], data: [UInt8]) { (self.header, self.data) = (header, data) }
    package var opcode: UInt8 { header[0] }
    package var flags: UInt8 { header[1] }
    package func word(_ offset: Int) -> UInt32 {
        header[offset..<(offset + 4)].reduce(0) { $0 << 8 | UInt32($1) }
    }
    package func half(_ offset: Int) -> UInt16 { UInt16(header[offset]) << 8 | UInt16(header[offset + 1]) }
    package var tag: UInt32 { word(16) }
    package var transfer: UInt32 { word(20) }
    package var statSN: UInt32 { word(24) }
    package var expCmdSN: UInt32 { word(28) }
    package var maxCmdSN: UInt32 { word(32) }
    /// Data-In only: a status rides on it.
    package var carriesStatus: Bool { flags & 1 == 1 }
    package var status: UInt8 { header[3] }
    package var residual: Int { Int(word(44)) }
    /// Sense key, additional code and qualifier of fixed-format sense data.
    package var sense: [UInt8] { data.count >= 16 ? [data[4] & 15, data[14], data[15]] : [] }
    package var text: [String] { data.split(separator: 0).map { String(decoding: $0, as: UTF8.self) } }
    package var description: String {
        String(opcode, radix: 16) + " flags " + String(flags, radix: 16) + " tag \(tag) byte2 \(header[2])"
            + " status \(status) statSN \(statSN) data \(data.count)"
    }
}

/// Takes the target's bytes apart.
package struct PDUListener {
    /// Which digests to expect.
    package var wire = Wire()
    private var bytes: [UInt8] = []
    package private(set) var broken: String?

    /// Nothing was heard yet.
    package init() {}
    package mutating func hear(_ more: [UInt8]) { bytes += more }
    package mutating func next() -> Heard? {
        guard bytes.count >= 48 else { return nil }
        let dataBytes = bytes[5..<8].reduce(0) { $0 << 8 | Int($1) }
        let headBytes = 48 + (wire.headerDigest ? 4 : 0)
        let padded = (dataBytes + 3) / 4 * 4
        let total = headBytes + (dataBytes > 0 ? padded + (wire.dataDigest ? 4 : 0) : 0)
        guard bytes.count >= total else { return nil }
        if bytes[4] != 0 { broken = "a target sends no additional header segments" }
        if wire.headerDigest, Array(bytes[48..<52]) != le32(crc32c(Array(bytes[..<48]))) {
            broken = "a header digest is wrong"
        }
        let data = Array(bytes[headBytes..<(headBytes + padded)].prefix(dataBytes > 0 ? padded : 0))
        if dataBytes > 0, wire.dataDigest, Array(bytes[(headBytes + padded)..<total]) != le32(crc32c(data)) {
            broken = "a data digest is wrong"
        }
        let heard = Heard(header: Array(bytes[..<48]), data: Array(data.prefix(dataBytes)))
        bytes.removeFirst(total)
        return heard
    }
}
