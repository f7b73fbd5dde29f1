/// The system calls that a test can make fail.
enum SystemCall: Hashable, Sendable {
    case socket, bind, listen, accept, connect, receive, send
    case open, lock, allocate, read, write, flush, discard
}

/// What a call does instead of its work.
enum CallFault: Hashable, Sendable {
    /// Nothing; it answers this errno.
    case fail(Int32)
    /// At most this many bytes of its work.
    case short(Int)
}

/// Decides about each call that a loop is about to make. Only tests set one.
final class CallFaults {
    /// Asked once per call; `nil`: the call does its work.
    var decide: (SystemCall) -> CallFault?
    init(_ decide: @escaping (SystemCall) -> CallFault?) { self.decide = decide }
}
