import GoldenText
import RaftModel
import Testing

@Suite struct TranscriptTests {
    @Test("a protocol looks as its transcript says", arguments: Transcript.allCases)
    func asWritten(transcript: Transcript) throws {
        let difference = try GoldenText.difference(of: transcript.play(), from: transcript.rawValue)
        #expect(difference == nil)
    }
}
