import BlockTypes

/// What may stand in a configuration: names, addresses and their spelling.
public enum ConfigurationRules {
    /// Bytes of an iSCSI name (RFC 7143, section 4.2.7).
    public static let iscsiNameBytesMax = 223
    /// Bytes of a gateway's name.
    public static let gatewayNameBytesMax = 64
    /// Bytes of a user's name.
    public static let userNameBytesMax = 255
    /// Bytes of a target's alias.
    public static let aliasBytesMax = 255
    /// Bytes of a secret. Shorter ones fall to who tries them all (RFC 7143, section 9.2.1).
    public static let secretBytes = 12...255
    /// Bytes of a volume's path.
    public static let pathBytesMax = 1024
    /// Numbers that initiators can address flatly.
    public static let lunMax: UInt16 = 0x3fff
    /// Gateways of a cluster: as many as may hold a volume together.
    public static let gatewaysMax = 16
    /// Portals of one gateway.
    public static let portalsPerGatewayMax = 16
    /// Users.
    public static let usersMax = 256
    /// Targets.
    public static let targetsMax = 256
    /// LUNs of one target.
    public static let lunsPerTargetMax = 256
    /// Rules of one target about initiators.
    public static let rulesPerTargetMax = 256
    /// Networks of one rule.
    public static let networksPerRuleMax = 16
    /// Attachments of all gateways in all: each waits for news at the metadata server three times.
    public static let attachmentsMax = 1024

    /// The three forms of RFC 7143, sections 4.2.7.4 to 4.2.7.6: `iqn.` with a date and a domain, `eui.` with
    /// 16 hexadecimal digits, `naa.` with 16 or 32.
    public static func isISCSIName(_ name: String) -> Bool {
        guard name.utf8.count <= iscsiNameBytesMax else { return false }
        let digits = name.utf8.dropFirst(4)
        let isNumber = digits.allSatisfy { (0x30...0x39).contains($0) || (0x61...0x66).contains($0) }
        if name.hasPrefix("eui.") { return isNumber && digits.count == 16 }
        if name.hasPrefix("naa.") { return isNumber && (digits.count == 16 || digits.count == 32) }
        return name.hasPrefix("iqn.") && hasDateAndDomain(name.dropFirst(4))
    }
    /// `2026-11.com.example`, and `:` with more of letters, digits, dots, colons and hyphens, or nothing.
    private static func hasDateAndDomain(_ text: Substring) -> Bool {
        let isSpelled = text.utf8.allSatisfy { byte in
            switch byte {
            case 0x30...0x3a, 0x61...0x7a, 0x2d, 0x2e: true
            default: false
            }
        }
        let bytes = Array(text.utf8)
        guard isSpelled, bytes.count > 8, bytes[4] == 0x2d, bytes[7] == 0x2e else { return false }
        let domain = text.dropFirst(8).prefix { $0 != ":" }
        return bytes.prefix(4).allSatisfy { (0x30...0x39).contains($0) }
            && decimal(text.dropFirst(5).prefix(2), UInt8.self).map { (1...12).contains($0) } ?? false
            && domain.split(separator: ".", omittingEmptySubsequences: false).allSatisfy { !$0.isEmpty }
    }
    /// Digits alone: what the standard library takes for a number may have a sign.
    static func decimal<Number: FixedWidthInteger>(_ text: Substring, _ type: Number.Type) -> Number? {
        text.utf8.allSatisfy { (0x30...0x39).contains($0) } ? Number(text) : nil
    }
    /// Names with slashes before them, as the metadata server takes them: a path has one spelling.
    static func isPath(_ text: String) -> Bool {
        guard text.hasPrefix("/"), isText(text, bytesMax: pathBytesMax) else { return false }
        return text.dropFirst().split(separator: "/", omittingEmptySubsequences: false)
            .allSatisfy { !["", ".", ".."].contains($0) }
    }
    /// Whether a gateway can have this name: one that needs no quotes anywhere.
    public static func isGatewayName(_ name: String) -> Bool { isWord(name, bytesMax: gatewayNameBytesMax) }
    /// Letters, digits, dots, hyphens and underscores: a name that needs no quotes anywhere.
    static func isWord(_ name: String, bytesMax: Int) -> Bool {
        guard !name.isEmpty, name.utf8.count <= bytesMax else { return false }
        return name.utf8.allSatisfy { byte in
            switch byte {
            case 0x30...0x39, 0x41...0x5a, 0x61...0x7a, 0x2d, 0x2e, 0x5f: true
            default: false
            }
        }
    }
    /// Printable, on one line.
    static func isText(_ text: String, bytesMax: Int) -> Bool {
        text.utf8.count <= bytesMax
            && text.unicodeScalars.allSatisfy { scalar in
                switch scalar.properties.generalCategory {
                case .control, .lineSeparator, .paragraphSeparator: false
                default: true
                }
            }
    }
    /// `HOST:PORT` or `[IPv6]:PORT`.
    public static func isAddress(_ text: String) -> Bool {
        guard let colon = text.lastIndex(of: ":"), text.utf8.count <= 264 else { return false }
        let digits = text[text.index(after: colon)...]
        // An address has one spelling: a portal is found by it.
        guard let port = decimal(digits, UInt16.self), port > 0, !digits.hasPrefix("0") else { return false }
        let host = text[..<colon]
        if host.hasPrefix("["), host.hasSuffix("]") {
            return IPAddressText.bytes(of: host.dropFirst().dropLast())?.count == 16
        }
        // A name that looks like an IPv4 address is one that was mistyped.
        let isNumeric = host.utf8.allSatisfy { (0x30...0x39).contains($0) || $0 == 0x2e }
        return isNumeric ? IPAddressText.bytes(of: host) != nil : isWord(String(host), bytesMax: 255)
    }
}

/// A run of addresses, as people write it: `10.0.0.0/8`, `192.0.2.7`, `2001:db8::/32`.
///
/// IPv4 addresses that are written as IPv6 ones (RFC 4291, section 2.5.5.2) are IPv4 addresses: so are peers.
public struct NetworkPrefix: Hashable, Sendable {
    /// 4 or 16 bytes.
    public let bytes: [UInt8]
    /// How many of their bits count.
    public let bitCount: Int

    /// Reads it; `nil`: this is none.
    public init?(_ text: String) {
        let parts = text.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
        guard let address = parts.first, let bytes = IPAddressText.bytes(of: address) else { return nil }
        var bits = 8 * bytes.count
        if parts.count == 2 {
            guard let said = ConfigurationRules.decimal(parts[1], UInt8.self), Int(said) <= bits else {
                return nil
            }
            bits = Int(said)
        }
        let isMapped = bits >= 96 && IPAddressText.isMapped(bytes)
        (self.bytes, bitCount) = isMapped ? (Array(bytes.suffix(4)), bits - 96) : (bytes, bits)
    }
}

/// Bytes that nobody is shown: whatever prints one says only that it is there.
public struct Secret: Hashable, Sendable, Codable, CustomStringConvertible, CustomDebugStringConvertible,
    CustomReflectable
{
    /// What it is.
    public let bytes: [UInt8]
    /// A secret of these bytes.
    public init(_ bytes: [UInt8]) { self.bytes = bytes }
    /// Never the bytes.
    public var description: String { "set" }
    /// Never the bytes.
    public var debugDescription: String { "set" }
    /// Never the bytes.
    public var customMirror: Mirror { Mirror(self, children: []) }

    /// Reads what ``encode(to:)`` wrote.
    public init(from decoder: any Decoder) throws {
        let text = try decoder.singleValueContainer().decode(String.self)
        let digits = Array(text.utf8)
        var bytes: [UInt8] = []
        for index in stride(from: 0, to: digits.count - 1, by: 2) {
            guard let byte = UInt8(String(decoding: digits[index...index + 1], as: UTF8.self), radix: 16)
            else { break }
            bytes.append(byte)
        }
        guard 2 * bytes.count == digits.count else {
            throw DecodingError.dataCorrupted(
                DecodingError.Context(codingPath: decoder.codingPath, debugDescription: "not hexadecimal"))
        }
        self.bytes = bytes
    }
    /// Two hexadecimal digits for each byte: for the cluster's store alone.
    public func encode(to encoder: any Encoder) throws {
        let digits = Array("0123456789abcdef".utf8)
        let text = bytes.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }
        var container = encoder.singleValueContainer()
        try container.encode(String(decoding: text, as: UTF8.self))
    }
}

/// Why a configuration cannot be: what, and what to do.
public struct ConfigurationError: Error, Hashable, Sendable, CustomStringConvertible {
    /// Something that was named is not there.
    public let isNotFound: Bool
    /// One line.
    public let description: String
    /// It cannot be.
    public init(_ description: String) { (isNotFound, self.description) = (false, description) }
    private init(missing description: String) { (isNotFound, self.description) = (true, description) }
    /// It names what is not there.
    public static func notFound(_ description: String) -> Self { Self(missing: description) }
    /// No gateway can be called so.
    public static func badGatewayName(_ name: String) -> Self {
        Self(
            "gateway '\(name)': a gateway's name has 1 to \(ConfigurationRules.gatewayNameBytesMax) letters, "
                + "digits, dots, hyphens or underscores")
    }
}
