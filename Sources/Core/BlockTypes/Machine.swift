/// A piece of logic that never waits: an event goes in, effects come out, nothing else happens.
public protocol Machine {
    /// What happened.
    associatedtype Event
    /// What to do about it.
    associatedtype Effect
    /// - Parameter now: time since start, handed in by the shell or the simulator.
    mutating func step(_ event: Event, now: Duration, effects: inout [Effect])
}

/// Stops the process when a fact that no input can break does not hold. Stays in release builds.
@inlinable public func invariant(
    _ condition: @autoclosure () -> Bool, _ why: @autoclosure () -> String, file: StaticString = #fileID,
    line: UInt = #line
) { if !condition() { fatalError("invariant broken: \(why())", file: file, line: line) } }

/// Small, fast, seeded pseudo-random numbers (SplitMix64): the same seed gives the same run anywhere.
public struct SeededRandom: RandomNumberGenerator, Sendable {
    private var state: UInt64
    /// A source that depends on `seed` alone.
    public init(seed: UInt64) { state = seed }
    /// The next 64 bits.
    public mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
    /// True once in `n` on average.
    public mutating func oneIn(_ n: Int) -> Bool { Int.random(in: 0..<n, using: &self) == 0 }
}
