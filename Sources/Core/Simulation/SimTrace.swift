/// What happened in a world: a hash of everything, and the last lines in words when somebody listens.
public struct SimTrace {
    /// Depends on every happening and every delivered byte; equal for equal seeds.
    public private(set) var hash: UInt64 = 0xCBF2_9CE4_8422_2325
    /// Lines kept; 0 keeps none and costs nothing.
    public let linesMax: Int
    private var ring: [String] = []
    private var next = 0

    init(linesMax: Int) { self.linesMax = linesMax }

    /// True when lines are kept.
    public var isListening: Bool { linesMax > 0 }
    /// The kept lines, oldest first.
    public var lines: [String] { Array(ring[next...] + ring[..<next]) }

    mutating func mix(_ value: UInt64) {
        var z = (hash ^ value) &* 0x9E37_79B9_7F4A_7C15
        z ^= z >> 29
        hash = z
    }
    mutating func add(_ line: String) {
        guard linesMax > 0 else { return }
        if ring.count < linesMax {
            ring.append(line)
        } else {
            ring[next] = line
            next = (next + 1) % linesMax
        }
    }
}
