import BlockTypes
import Testing

@Suite struct IPAddressTextTests {
    @Test(
        "addresses of both families, in every spelling",
        arguments: [
            ("192.0.2.7", [192, 0, 2, 7]), ("::", [UInt8](repeating: 0, count: 16)),
            ("::1", [UInt8](repeating: 0, count: 15) + [1]),
            ("2001:db8::a:b", [0x20, 1, 0x0d, 0xb8] + [UInt8](repeating: 0, count: 8) + [0, 10, 0, 11]),
            ("1:2:3:4:5:6:7:8", [0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7, 0, 8]),
            ("::ffff:192.0.2.7", [UInt8](repeating: 0, count: 10) + [255, 255, 192, 0, 2, 7]),
        ] as [(Substring, [UInt8])])
    func spellings(_ text: Substring, _ bytes: [UInt8]) { #expect(IPAddressText.bytes(of: text) == bytes) }

    @Test(
        "what is no address",
        arguments: [
            "", ":", "1.2.3", "1.2.3.4.5", "1.2.3.256", "+1.2.3.4", "1.2.3.-0", "1.2.3.4:", "1:2:3:4:5:6:7",
            "::1::",
            "1:2:3:4:5:6:7:8::", "12345::", "::+1", "::g", "1.2.3.4::", "fe80::1%eth0", "[::1]",
        ] as [Substring])
    func refusals(_ text: Substring) { #expect(IPAddressText.bytes(of: text) == nil) }
}
