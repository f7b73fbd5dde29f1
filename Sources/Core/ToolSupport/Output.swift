import ArgumentParser
import BlockTypes
import Foundation

/// How a verb that reads prints what it found.
package enum OutputFormat: String, ExpressibleByArgument, CaseIterable {
    case table, json
}

/// A number of bytes as people write it: `4G`, `1.5T`, `512MiB`, `1073741824`.
package struct ByteSize: ExpressibleByArgument, Hashable, CustomStringConvertible {
    package let bytes: UInt64
    package init(bytes: UInt64) { self.bytes = bytes }
    package init?(argument: String) {
        var digits = argument.lowercased()[...]
        for suffix in ["ib", "b"] where digits.hasSuffix(suffix) {
            digits = digits.dropLast(suffix.count)
            break
        }
        var shift: UInt64 = 0
        if let last = digits.last, let index = Self.units.firstIndex(of: last) {
            shift = 10 * UInt64(index + 1)
            digits.removeLast()
        }
        let parts = digits.split(separator: ".", maxSplits: 1, omittingEmptySubsequences: false)
        guard let first = parts.first, Self.isNumber(first), let whole = UInt64(first),
            whole <= UInt64.max >> shift
        else { return nil }
        guard parts.count == 2 else {
            bytes = whole << shift
            return
        }
        // `1.5G` is fine, `1.3G` is no whole number of bytes and nobody's intention.
        guard Self.isNumber(parts[1]), parts[1].count <= Self.decimalsMax, let part = UInt64(parts[1]) else {
            return nil
        }
        let scale = (0..<parts[1].count).reduce(UInt64(1)) { product, _ in product * 10 }
        let (unit, isTooLarge) = part.multipliedReportingOverflow(by: 1 << shift)
        guard !isTooLarge, unit % scale == 0 else { return nil }
        bytes = whole << shift + unit / scale
    }
    private static let units: [Character] = ["k", "m", "g", "t", "p"]
    private static let decimalsMax = 3
    private static func isNumber(_ text: Substring) -> Bool {
        !text.isEmpty && text.utf8.allSatisfy { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }
    }

    /// The largest unit that gives a whole number: `4G`.
    package var description: String {
        var (value, unit) = (bytes, "")
        for next in Self.units where value > 0 && value % 1024 == 0 {
            (value, unit) = (value / 1024, "\(next)")
        }
        return "\(value)\(unit.uppercased())"
    }
}

package enum Text {
    /// `1.5 GiB`: three figures, binary units.
    package static func size(_ bytes: UInt64) -> String {
        let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
        var (value, unit) = (Double(bytes), 0)
        while value >= 1024, unit < units.count - 1 { (value, unit) = (value / 1024, unit + 1) }
        return unit == 0 || value >= 100 || value == value.rounded()
            ? "\(Int(value.rounded())) \(units[unit])"
            : String(format: "%.1f %@", value, units[unit] as NSString)
    }
    /// Columns as wide as their widest cell; the first row is the head.
    package static func table(_ rows: [[String]]) -> String {
        guard let head = rows.first else { return "" }
        let widths = head.indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
        return rows.map { row in
            var line = row.indices.map { row[$0] + String(repeating: " ", count: widths[$0] - row[$0].count) }
                .joined(separator: "  ")
            while line.last == " " { line.removeLast() }
            return line
        }.joined(separator: "\n")
    }
    /// The same on one line that does nothing to a terminal: what was typed may hold anything.
    package static func line(_ text: String) -> String {
        var line = ""
        for scalar in text.unicodeScalars {
            switch scalar.properties.generalCategory {
            case .control, .lineSeparator, .paragraphSeparator:
                line += scalar.escaped(asASCII: true)
            default: line.unicodeScalars.append(scalar)
            }
        }
        return line
    }
    /// The sentence about a command line that cannot be understood.
    /// - Parameters:
    ///   - message: what is wrong.
    ///   - full: the same with its help, of which the last line names the command that has more.
    static func usage(_ message: String, in full: String) -> String {
        var words = message.split(whereSeparator: \.isNewline)
            .map { $0.trimmingCharacters(in: .whitespaces) }.joined(separator: " ")
        while words.last == "." { words.removeLast() }
        let parts = (full.split(whereSeparator: \.isNewline).last ?? "").split(separator: "'")
        guard parts.count == 3, parts[0].hasSuffix("See ") else { return words }
        return words + (words.last == "?" ? " See" : "; see") + " '\(parts[1])'"
    }
    /// One JSON object or array, keys sorted, so that the same state prints the same text.
    package static func json(_ value: some Encodable) throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        return String(decoding: try encoder.encode(value), as: UTF8.self)
    }
    package static func time(_ secondsSince1970: UInt64) -> String {
        ISO8601DateFormatter().string(from: Date(timeIntervalSince1970: TimeInterval(secondsSince1970)))
    }
}
