import Testing

@testable import BlockTypes

@Suite struct ChecksumTests {
    @Test("CRC32C matches the vectors of RFC 3720, appendix B.4")
    func vectors() {
        #expect(CRC32C(of: [UInt8](repeating: 0, count: 32)).rawValue == 0x8A91_36AA)
        #expect(CRC32C(of: [UInt8](repeating: 0xFF, count: 32)).rawValue == 0x62A8_AB43)
        #expect(CRC32C(of: (0..<32).map { UInt8($0) }).rawValue == 0x46DD_794E)
        #expect(CRC32C(of: []).rawValue == 0)
    }
    @Test("a checksum made in pieces equals the checksum of the whole")
    func pieces() {
        let bytes = (0..<1000).map { UInt8(truncatingIfNeeded: $0 &* 7) }
        for cut in [0, 1, 511, 999, 1000] {
            let head = CRC32C(of: Array(bytes[..<cut])).rawValue
            let whole = Array(bytes[cut...]).withUnsafeBytes { CRC32C.extend(head, with: $0) }
            #expect(whole == CRC32C(of: bytes).rawValue)
        }
    }
}
