/// One `key=value` of a negotiation.
struct TextPair: Hashable {
    let key: String
    let value: String
}

/// Text as PDUs carry it: `key=value` in UTF-8, each ended by a zero byte (RFC 7143, section 6.1).
enum TextPairs {
    /// The pairs in `bytes`.
    /// - Throws: `initiatorError` for what is no pair, a key twice, a name or value that is too long, or too
    /// many.
    static func decode(_ bytes: [UInt8]) throws(LoginStatus) -> [TextPair] {
        var pairs: [TextPair] = []
        // Only looked up: a key twice is an error (section 6.3).
        var seen: Set<String> = []
        for text in bytes.split(separator: 0) {
            guard let equals = text.firstIndex(of: UInt8(ascii: "=")) else { throw .initiatorError }
            let (name, rest) = (text[..<equals], text[(equals + 1)...])
            guard !name.isEmpty, name.count <= ISCSILimits.keyNameBytesMax, name.allSatisfy(isKeyByte),
                rest.count <= ISCSILimits.longValueBytesMax,
                !rest.contains(where: { $0 < 0x20 || $0 == 0x7f }),
                let key = String(validating: name, as: UTF8.self),
                let value = String(validating: rest, as: UTF8.self)
            else { throw .initiatorError }
            guard rest.count <= ISCSILimits.valueBytesMax || isLong(key) else { throw .initiatorError }
            guard seen.insert(key).inserted, pairs.count < ISCSILimits.keysMax else { throw .initiatorError }
            pairs.append(TextPair(key: key, value: value))
        }
        return pairs
    }
    /// A value that may be sent: neither empty nor too long, without control characters.
    static func isValue(_ text: String) -> Bool {
        let bytes = text.utf8
        return !bytes.isEmpty && bytes.count <= ISCSILimits.valueBytesMax
            && bytes.allSatisfy { $0 >= 0x20 && $0 != 0x7f }
    }
    /// Letters, digits and `. - + @ _ #`: what standard names and those of extensions are made of.
    private static func isKeyByte(_ byte: UInt8) -> Bool {
        switch byte {
        case 0x30...0x39, 0x41...0x5a, 0x61...0x7a, 0x23, 0x2b, 0x2d, 0x2e, 0x40, 0x5f: true
        default: false
        }
    }
    /// Binary values may be longer than 255 bytes.
    private static func isLong(_ key: String) -> Bool { key == "CHAP_C" || key == "CHAP_R" }

    static func encode(_ pairs: [TextPair]) -> [UInt8] {
        var bytes: [UInt8] = []
        for pair in pairs {
            bytes.append(contentsOf: pair.key.utf8)
            bytes.append(UInt8(ascii: "="))
            bytes.append(contentsOf: pair.value.utf8)
            bytes.append(0)
        }
        return bytes
    }

    /// A number as the protocol writes it: decimal, or hexadecimal behind `0x`.
    static func number(_ text: String) -> UInt64? {
        let digits = Array(text.utf8)
        if digits.count > 2, digits[0] == 0x30, digits[1] | 0x20 == 0x78 {
            return UInt64(text.dropFirst(2), radix: 16).flatMap { digits[2] == 0x2b ? nil : $0 }
        }
        guard let first = digits.first, (0x30...0x39).contains(first) else { return nil }
        return UInt64(text)
    }
    static func boolean(_ text: String) -> Bool? {
        switch text {
        case "Yes": true
        case "No": false
        default: nil
        }
    }
    /// The bytes of a binary value: hexadecimal behind `0x`, base64 behind `0b` (section 6.1).
    /// - Returns: `nil` for anything else, nothing at all or more than `bytesMax`.
    static func binary(_ text: String, bytesMax: Int) -> [UInt8]? {
        let all = Array(text.utf8)
        guard all.count > 2, all[0] == 0x30 else { return nil }
        let digits = all[2...]
        let bytes: [UInt8]? =
            switch all[1] | 0x20 {
            case 0x78: digits.count <= 2 * bytesMax ? hexadecimal(digits) : nil
            case 0x62: digits.count <= (bytesMax + 2) / 3 * 4 ? base64(digits) : nil
            default: nil
            }
        guard let bytes, !bytes.isEmpty, bytes.count <= bytesMax else { return nil }
        return bytes
    }
    /// `0x` and two digits for each byte.
    static func hexadecimal(_ bytes: [UInt8]) -> String {
        var text: [UInt8] = [0x30, 0x78]
        text.reserveCapacity(2 + 2 * bytes.count)
        for byte in bytes {
            for digit in [byte >> 4, byte & 15] { text.append(digit < 10 ? 0x30 + digit : 0x57 + digit) }
        }
        return String(decoding: text, as: UTF8.self)
    }
    private static func hexadecimal(_ digits: ArraySlice<UInt8>) -> [UInt8]? {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(digits.count / 2 + 1)
        // An odd number of digits lacks its leading zero.
        var high: UInt8? = digits.count % 2 == 1 ? 0 : nil
        for character in digits {
            let digit: UInt8
            switch character {
            case 0x30...0x39: digit = character - 0x30
            case 0x41...0x46: digit = character - 0x37
            case 0x61...0x66: digit = character - 0x57
            default: return nil
            }
            if let top = high {
                bytes.append(top << 4 | digit)
                high = nil
            } else {
                high = digit
            }
        }
        return bytes
    }
    private static func base64(_ digits: ArraySlice<UInt8>) -> [UInt8]? {
        guard digits.count % 4 == 0 else { return nil }
        let padding = digits.suffix(2).filter { $0 == 0x3d }.count
        guard padding < 2 || digits.last == 0x3d else { return nil }
        var bytes: [UInt8] = []
        bytes.reserveCapacity(digits.count / 4 * 3)
        var (bits, bitCount): (UInt32, Int) = (0, 0)
        for (index, character) in digits.enumerated() {
            let digit: UInt8
            switch character {
            case 0x41...0x5a: digit = character - 0x41
            case 0x61...0x7a: digit = character - 0x61 + 26
            case 0x30...0x39: digit = character - 0x30 + 52
            case 0x2b: digit = 62
            case 0x2f: digit = 63
            case 0x3d where index >= digits.count - padding: continue
            default: return nil
            }
            bits = bits << 6 | UInt32(digit)
            bitCount += 6
            if bitCount >= 8 {
                bitCount -= 8
                bytes.append(UInt8(truncatingIfNeeded: bits >> UInt32(bitCount)))
            }
        }
        return bytes
    }
}

/// Text that goes out in as many PDUs as the other side's segments need.
struct OutgoingText {
    private var bytes: [UInt8]
    private var position = 0
    init(_ bytes: [UInt8] = []) { self.bytes = bytes }

    var isEmpty: Bool { position == bytes.count }
    /// The next piece of at most `bytesMax` bytes.
    mutating func next(bytesMax: Int) -> [UInt8] {
        let end = min(bytes.count, position + bytesMax)
        defer { position = end }
        return position == 0 && end == bytes.count ? bytes : Array(bytes[position..<end])
    }
}
