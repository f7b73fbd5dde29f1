import Glibc

/// A process that was killed a moment ago keeps its sockets and locks until the kernel has taken its ring
/// apart: 5 to 11 ms after it can be waited for (measured under load), longer with disk requests in flight.
/// A daemon that is started again at once must not stumble over that.
enum Predecessor {
    /// "Taken" is believed after this long. It blocks the loop, but only a loop that is about to fail.
    private static let napsMax = 40
    private static let napMicroseconds: UInt32 = 5_000

    /// Makes the attempt, and makes it again while it says that somebody else is there.
    static func outlive<R, E: Error>(
        _ attempt: () throws(E) -> R, isTaken: (E) -> Bool
    ) throws(E) -> R {
        for _ in 0..<napsMax {
            do throws(E) {
                return try attempt()
            } catch {
                guard isTaken(error) else { throw error }
                usleep(napMicroseconds)
            }
        }
        return try attempt()
    }
}
