/// IP addresses as people and the system write them (RFC 4291, section 2.2), as bytes.
public enum IPAddressText {
    /// Reads an address without brackets, zone and prefix length.
    /// - Returns: 4 bytes for `192.0.2.7`, 16 for `2001:db8::1` and `::ffff:192.0.2.7`, `nil` for anything
    ///   else.
    public static func bytes(of text: Substring) -> [UInt8]? {
        // What the standard library takes for a number may have a sign.
        guard !text.contains(where: { "+-".contains($0) }) else { return nil }
        return text.contains(":") ? sixteen(text) : four(text)
    }
    /// Whether these are the 16 bytes of an IPv4 address, its own four last (RFC 4291, section 2.5.5.2).
    public static func isMapped(_ bytes: [UInt8]) -> Bool {
        bytes.count == 16 && bytes.prefix(10).allSatisfy { $0 == 0 } && bytes[10] == 0xff && bytes[11] == 0xff
    }
    private static func four(_ text: Substring) -> [UInt8]? {
        let parts = text.split(separator: ".", omittingEmptySubsequences: false)
        let bytes = parts.compactMap { UInt8($0) }
        return parts.count == 4 && bytes.count == 4 ? bytes : nil
    }
    private static func sixteen(_ text: Substring) -> [UInt8]? {
        guard let gap = text.firstRange(of: "::") else {
            return groups(text, areLast: true).flatMap { $0.count == 16 ? $0 : nil }
        }
        guard let front = groups(text[..<gap.lowerBound], areLast: false),
            let back = groups(text[gap.upperBound...], areLast: true),
            front.count + back.count < 16
        else { return nil }
        return front + [UInt8](repeating: 0, count: 16 - front.count - back.count) + back
    }
    /// Groups of four digits; an address's last two may be written as an IPv4 address.
    private static func groups(_ text: Substring, areLast: Bool) -> [UInt8]? {
        guard !text.isEmpty else { return [] }
        var bytes: [UInt8] = []
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        for (index, part) in parts.enumerated() {
            if areLast, part.contains("."), index == parts.count - 1 {
                guard let last = four(part) else { return nil }
                bytes += last
            } else {
                guard part.utf8.count <= 4, let group = UInt16(part, radix: 16) else { return nil }
                bytes += [UInt8(group >> 8), UInt8(group & 0xff)]
            }
        }
        return bytes
    }
}
