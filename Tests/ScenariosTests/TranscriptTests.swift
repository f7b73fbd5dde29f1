import ClusterScenario
import GoldenText
import Testing

@Suite("transcripts of protocols between programs") struct WorldTranscriptTests {
    @Test("a protocol looks as its transcript says", arguments: WorldTranscript.allCases)
    func asWritten(transcript: WorldTranscript) throws {
        let difference = try GoldenText.difference(of: transcript.play(), from: transcript.rawValue)
        #expect(difference == nil)
    }
}
