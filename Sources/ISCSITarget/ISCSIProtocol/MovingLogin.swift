/// A login that named a target of another loop, on its way there: its connection is read nowhere.
public struct MovingLogin: Sendable {
    /// The target's name, in lower case.
    public let targetName: String
    /// The last request of its first step, and the text of all of them.
    let request: PDUHeader
    let text: [UInt8]
    /// What was read behind it.
    let rest: [UInt8]
    /// The next status: pieces of a text that came before were answered.
    let statusNumber: UInt32
    /// Requests so far, this one included.
    let requestCount: Int
}
