import BlockTypes

/// How initiators tell one volume from another: by its cluster and number, whatever its path, and by
/// whichever gateway they reach it.
public struct UnitIdentity: Hashable, Sendable {
    /// NAA 6, 16 bytes.
    public let identifier: [UInt8]

    /// A company number that IEEE gives to nobody: its second bit says "locally administered".
    private static let company: UInt64 = 0x02_4356
    /// The volume's number has no more bits.
    private static let volumeBits: UInt64 = 38

    /// The volume `volume` of `cluster`: 62 bits of that, all of the other.
    public init(cluster: UniqueID?, volume: VolumeID) {
        let place = cluster?.high ?? 0
        let high = 6 << 60 | Self.company << 36 | place >> 28
        let low = place << Self.volumeBits | volume.rawValue
        identifier = [high, low].flatMap { word in
            (0..<8).map { UInt8(truncatingIfNeeded: word >> UInt64(56 - 8 * $0)) }
        }
    }
    /// The same in digits.
    public var serial: String {
        identifier.map { byte in
            let digits = String(byte, radix: 16)
            return digits.count == 1 ? "0" + digits : digits
        }.joined()
    }
}
