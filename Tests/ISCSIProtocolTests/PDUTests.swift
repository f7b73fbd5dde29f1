import BlockTypes
import ISCSIInitiator
import Testing

@testable import ISCSIProtocol

@Suite struct PDUTests {
    /// Collects what a reader finds, keeping the data of every PDU as bytes.
    static func read(
        _ bytes: [UInt8], pieceBytes: Int, header: Bool = false, data: Bool = false, segmentMax: Int = 65_536
    )
        -> [String]
    {
        var reader = PDUReader(segmentBytesMax: segmentMax)
        (reader.hasHeaderDigest, reader.hasDataDigest) = (header, data)
        var found: [String] = []
        var start = 0
        while start < bytes.count {
            let end = min(bytes.count, start + pieceBytes)
            let isOver = bytes[start..<end].withUnsafeBytes { piece -> Bool in
                var rest = piece
                while let item = reader.next(&rest) {
                    switch item {
                    case .header(let header, let additional):
                        found.append("\(header.opcode) \(header.taskTag) \(header.dataBytes) \(additional)")
                        if header.dataBytes > 0 { reader.direct(.bytes) }
                    case .data(let isIntact, let bytes): found.append("\(isIntact) \(bytes)")
                    case .fault(let fault):
                        found.append("fault \(String(describing: fault).prefix(12))")
                        return true
                    }
                }
                return false
            }
            if isOver { return found }
            start = end
        }
        return found + [reader.isInsidePDU ? "inside" : "between"]
    }

    static func conversation(_ wire: Wire) -> [UInt8] {
        wire.nopOut(tag: 1, cmdSN: 5, data: [1, 2, 3, 4, 5])
            + wire.command(tag: 2, cdb: [1], cmdSN: 6, ahs: [0, 5, 2, 0, 0, 0, 2, 0], data: [9])
            + wire.nopOut(tag: 3, cmdSN: 7)
            + wire.nopOut(tag: 4, cmdSN: 8, data: [UInt8](repeating: 7, count: 200))
    }

    @Test("the PDUs are the same however the bytes are cut", arguments: 1...130)
    func cutting(pieceBytes: Int) {
        for (header, data) in [(false, false), (true, false), (false, true), (true, true)] {
            let bytes = Self.conversation(Wire(headerDigest: header, dataDigest: data))
            #expect(
                Self.read(bytes, pieceBytes: pieceBytes, header: header, data: data) == [
                    "0 1 5 []", "true [1, 2, 3, 4, 5]", "1 2 1 [0, 5, 2, 0, 0, 0, 2, 0]", "true [9]",
                    "0 3 0 []",
                    "0 4 200 []", "true \([UInt8](repeating: 7, count: 200))", "between",
                ])
        }
    }
    @Test("every flipped bit of a digested stream is noticed")
    func flips() {
        let wire = Wire(headerDigest: true, dataDigest: true)
        let bytes = wire.nopOut(tag: 1, cmdSN: 5, data: [1, 2, 3, 4, 5])
        for bit in 0..<(8 * bytes.count) {
            var bent = bytes
            bent[bit / 8] ^= 1 << UInt8(bit % 8)
            let found = Self.read(bent, pieceBytes: 1000, header: true, data: true)
            let isNoticed = found.contains { $0.hasPrefix("fault") || $0.hasPrefix("false") }
            // A longer announced header waits for more before it can be judged.
            #expect(isNoticed || found == ["inside"], "bit \(bit): \(found)")
        }
    }
    @Test("a stream that ends anywhere is inside a PDU or between two")
    func truncation() {
        let wire = Wire(headerDigest: true, dataDigest: true)
        let bytes = Self.conversation(wire)
        let whole = Self.read(bytes, pieceBytes: 1000, header: true, data: true)
        for count in 0..<bytes.count {
            let found = Self.read(Array(bytes[..<count]), pieceBytes: 1000, header: true, data: true)
            #expect(whole.starts(with: found.dropLast()))
        }
    }
    @Test("CRC32C is on the wire as the standard's examples have it (RFC 7143, appendix A.4)")
    func digestExample() {
        #expect(le32(CRC32C(of: [UInt8](repeating: 0, count: 32)).rawValue) == [0xaa, 0x36, 0x91, 0x8a])
        #expect(le32(CRC32C(of: [UInt8](repeating: 0xff, count: 32)).rawValue) == [0x43, 0xab, 0xa8, 0x62])
        #expect(le32(CRC32C(of: Array(0..<32)).rawValue) == [0x4e, 0x79, 0xdd, 0x46])
    }
    @Test("a data segment beyond the bound is a fault, and its bound is not")
    func segmentBound() {
        let wire = Wire()
        let fits = wire.nopOut(tag: 1, cmdSN: 1, data: [UInt8](repeating: 1, count: 512))
        #expect(Self.read(fits, pieceBytes: 100, segmentMax: 512).last == "between")
        let over = wire.nopOut(tag: 1, cmdSN: 1, data: [UInt8](repeating: 1, count: 513))
        #expect(Self.read(over, pieceBytes: 100, segmentMax: 512) == ["fault segmentTooLo"])
    }
    @Test("data goes into the buffer where it belongs, and what is not kept is dropped")
    func directed() throws {
        let bytes = Wire().dataOut(tag: 1, number: 0, offset: 0, final: true, data: Array(0..<100))
        for pieceBytes in [1, 7, 48, 49, 1000] {
            for usesWindow in [false, true] {
                var reader = PDUReader(segmentBytesMax: 512)
                let buffer = BlockBuffer(byteCount: 4096)
                buffer.bytes.initializeMemory(as: UInt8.self, repeating: 0xee)
                var start = 0
                while start < bytes.count {
                    var count = min(pieceBytes, bytes.count - start)
                    func give(_ piece: UnsafeRawBufferPointer) {
                        var rest = piece
                        while let item = reader.next(&rest) {
                            if case .header = item { reader.direct(.buffer(buffer, at: 10, keep: 60)) }
                        }
                    }
                    if usesWindow, let window = reader.window {
                        count = min(count, window.count)
                        for index in 0..<count { window[index] = bytes[start + index] }
                        give(UnsafeRawBufferPointer(rebasing: window[..<count]))
                    } else {
                        bytes[start..<(start + count)].withUnsafeBytes { give($0) }
                    }
                    start += count
                }
                #expect(Payload(buffer, startByte: 9, byteCount: 62).array == [0xee] + Array(0..<60) + [0xee])
            }
        }
    }
    @Test("header fields lie where the standard's pictures have them")
    func fields() {
        let bytes = Array(UInt8(0)..<48)
        let header = bytes.withUnsafeBytes { PDUHeader($0) }
        #expect(header.opcode == 0 && header.flags == 1 && header.additionalBytes == 16)
        #expect(header.dataBytes == 0x05_06_07 && header.lun.rawValue == 0x0809_0a0b_0c0d_0e0f)
        #expect(header.sessionIdentifier == 0x0809_0a0b_0c0d && header.sessionHandle == 0x0e0f)
        #expect(header.taskTag == 0x1011_1213 && header.transferTag == 0x1415_1617)
        #expect(header.connectionIdentifier == 0x1415 && header.commandNumber == 0x1819_1a1b)
        #expect(header.expectedStatusNumber == 0x1c1d_1e1f && header.dataNumber == 0x2425_2627)
        #expect(header.bufferOffset == 0x2829_2a2b && header.lastWord == 0x2c2d_2e2f)
        #expect(header.cdb == CDB(Array(32..<48)) && header.encoded == bytes)
    }
    @Test("serial numbers compare across their wrap")
    func serials() {
        #expect(precedes(1, 2) && !precedes(2, 1) && !precedes(2, 2))
        #expect(precedes(0xffff_ffff, 0) && precedes(0xffff_fff0, 15) && !precedes(3, 0xffff_fffe))
    }
}
