import BlockTypes

/// Which sizes and stripes a volume may have.
struct VolumeShape: Hashable {
    let sizeBytes: UInt64
    let stripeUnitBytes: UInt32
    let stripeCount: UInt32

    /// From this size on a new volume is striped by default: it then has chunks enough for all stripes.
    static let stripedFromBytes: UInt64 = 64 << 20
    static let stripeUnitBytesDefault: UInt32 = 64 << 10
    static let stripeCountDefault: UInt32 = 4
    static let stripeCountMax: UInt32 = 64

    /// - Parameters: `stripeUnitBytes`, `stripeCount`: 0 for the default.
    init(sizeBytes: UInt64, stripeUnitBytes: UInt32, stripeCount: UInt32) throws(MetadataRefusal) {
        guard stripeCount <= Self.stripeCountMax else {
            throw MetadataRefusal(
                .badRequest, "a stripe count of \(stripeCount) is too large; 1 to \(Self.stripeCountMax)")
        }
        let isDefaultPlain = stripeUnitBytes == 0 && sizeBytes < Self.stripedFromBytes
        let count = stripeCount != 0 ? stripeCount : isDefaultPlain ? 1 : Self.stripeCountDefault
        let unitMax = UInt32(Geometry.chunkBytes)
        let unit =
            stripeUnitBytes != 0 ? stripeUnitBytes : count == 1 ? unitMax : Self.stripeUnitBytesDefault
        guard unit.nonzeroBitCount == 1, (UInt32(Geometry.blockBytes)...unitMax).contains(unit) else {
            throw MetadataRefusal(
                .badRequest,
                "a stripe unit of \(unit) bytes is not a power of two from 4 KiB to 16 MiB")
        }
        try Self.check(sizeBytes: sizeBytes, stripeCount: count)
        // A plain volume's unit says nothing; one chunk is the truth.
        (self.sizeBytes, self.stripeCount) = (sizeBytes, count)
        self.stripeUnitBytes = count == 1 ? unitMax : unit
    }

    /// Refuses a size that a volume with `stripeCount` cannot have, and names the nearest that it can.
    static func check(sizeBytes: UInt64, stripeCount: UInt32) throws(MetadataRefusal) {
        let block = UInt64(Geometry.blockBytes)
        let group = UInt64(stripeCount) * UInt64(Geometry.chunkBytes)
        // The address space is whole stripe groups, and no chunk may lie past the largest volume.
        let largest = stripeCount == 1 ? Geometry.volumeBytesMax : Geometry.volumeBytesMax / group * group
        func refuse(_ why: String, _ nearest: UInt64) -> MetadataRefusal {
            MetadataRefusal(
                .badRequest,
                "a size of \(sizeBytes) bytes is \(why); the nearest possible is \(nearest)"
                    + " (\(ByteCount(bytes: nearest)))")
        }
        guard sizeBytes >= Geometry.volumeBytesMin else {
            throw refuse("less than 1 MiB", Geometry.volumeBytesMin)
        }
        guard sizeBytes <= largest else {
            throw refuse(
                stripeCount == 1
                    ? "more than 1 PiB" : "more than a volume of \(stripeCount) stripes can have",
                largest)
        }
        guard sizeBytes % block == 0 else {
            let below = sizeBytes / block * block
            throw refuse(
                "not a multiple of 4096", sizeBytes - below >= block / 2 ? min(below + block, largest) : below
            )
        }
    }
}

extension VolumeRow {
    /// End of the chunk address space of this volume if it had `sizeBytes` (see `VolumeFence.size`).
    func fenceBytes(forSize sizeBytes: UInt64) -> UInt64 {
        guard stripeCount > 1 else { return sizeBytes }
        let group = UInt64(stripeCount) * UInt64(Geometry.chunkBytes)
        return (sizeBytes + group - 1) / group * group
    }
    /// True while people can see it: in a directory or in the recycle bin.
    var isPurging: Bool { place == .purging }
}
