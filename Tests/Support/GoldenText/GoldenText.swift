import Foundation

/// `Tests/Transcripts` holds what protocols look like. They are written anew by
/// `CURVE_WRITE_TRANSCRIPTS=1 swift test --filter Transcript`; the difference is reviewed like code.
package enum GoldenText {
    private static let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
        .deletingLastPathComponent().deletingLastPathComponent().appendingPathComponent("Transcripts")

    /// Compares lines with the file of this name, after writing it when the environment asks for that.
    /// - Returns: the first difference; `nil` when there is none.
    /// - Throws: when the file cannot be read or written.
    package static func difference(of lines: [String], from name: String) throws -> String? {
        let text = lines.joined(separator: "\n") + "\n"
        let file = folder.appendingPathComponent("\(name).txt")
        if ProcessInfo.processInfo.environment["CURVE_WRITE_TRANSCRIPTS"] != nil {
            try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
            try text.write(to: file, atomically: true, encoding: .utf8)
        }
        let written = try String(contentsOf: file, encoding: .utf8)
        guard written != text else { return nil }
        let (old, new) = (written.split(separator: "\n"), text.split(separator: "\n"))
        for (place, (was, now)) in zip(old, new).enumerated() where was != now {
            return "line \(place + 1): \(was) -> \(now)"
        }
        return "\(old.count) lines -> \(new.count) lines"
    }
}
