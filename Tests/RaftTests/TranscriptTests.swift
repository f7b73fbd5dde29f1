import Foundation
import RaftModel
import Testing

/// `Tests/Transcripts` holds what protocols look like. They are written anew by
/// `CURVE_WRITE_TRANSCRIPTS=1 swift test --filter Transcript`; the difference is reviewed like code.
@Suite struct TranscriptTests {
    private static let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
        .deletingLastPathComponent().appendingPathComponent("Transcripts")

    @Test("a protocol looks as its transcript says", arguments: Transcript.allCases)
    func asWritten(transcript: Transcript) throws {
        let text = try transcript.play().joined(separator: "\n") + "\n"
        let file = Self.folder.appendingPathComponent("\(transcript.rawValue).txt")
        if ProcessInfo.processInfo.environment["CURVE_WRITE_TRANSCRIPTS"] != nil {
            try FileManager.default.createDirectory(at: Self.folder, withIntermediateDirectories: true)
            try text.write(to: file, atomically: true, encoding: .utf8)
        }
        let written = try String(contentsOf: file, encoding: .utf8).split(separator: "\n")
        for (place, (new, old)) in zip(text.split(separator: "\n"), written).enumerated() where new != old {
            Issue.record("line \(place + 1): \(old) -> \(new)")
            break
        }
        #expect(text.split(separator: "\n").count == written.count)
    }
}
