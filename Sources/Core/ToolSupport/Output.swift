import ArgumentParser
import BlockTypes
import Foundation

/// How a verb that reads prints what it found.
package enum OutputFormat: String, ExpressibleByArgument, CaseIterable {
    case table, json
}

/// A number of bytes as people write it: `4G`, `512MiB`, `1073741824`.
package struct ByteSize: ExpressibleByArgument {
    package let bytes: UInt64
    package init(bytes: UInt64) { self.bytes = bytes }
    package init?(argument: String) {
        var digits = argument.lowercased()
        for suffix in ["ib", "b"] where digits.hasSuffix(suffix) {
            digits = String(digits.dropLast(suffix.count))
            break
        }
        var shift = 0
        if let last = digits.last, let index = "kmgtp".firstIndex(of: last) {
            shift = 10 * ("kmgtp".distance(from: "kmgtp".startIndex, to: index) + 1)
            digits.removeLast()
        }
        guard let value = UInt64(digits), value <= UInt64.max >> UInt64(shift) else { return nil }
        bytes = value << UInt64(shift)
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
            var line = row.indices.map { row[$0].padding(toLength: widths[$0], withPad: " ", startingAt: 0) }
                .joined(separator: "  ")
            while line.last == " " { line.removeLast() }
            return line
        }.joined(separator: "\n")
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
