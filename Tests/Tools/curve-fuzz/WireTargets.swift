import BlockTypes
import CurveWire
import Fuzzing

let wireTargets = [
    FuzzTarget(name: "frames", feed: feedFrames)
]

/// One for all inputs: a large payload's memory is mapped once.
private let pool = BufferPool(keptBytesPerClassMax: 64 << 20)

/// Frames in one stream, cut into pieces. Their checksums are made right, or nothing would get past them.
private func feedFrames(_ input: [UInt8]) {
    var bytes = input
    let pieceBytes = 1 + bytes.takeByte() * 16
    sealFrames(&bytes)
    var decoder = FrameDecoder(pool: pool)
    var start = 0
    while start < bytes.count {
        let end = min(bytes.count, start + pieceBytes)
        bytes[start..<end].withUnsafeBytes { decoder.received($0) }
        start = end
        do throws(WireError) {
            while let frame = try decoder.next() { encodeAgain(frame) }
        } catch {
            return
        }
    }
}

/// What was decoded is a frame that we could have sent.
private func encodeAgain(_ frame: Frame) {
    let encoded = FrameEncoder.encode(frame)
    var decoder = FrameDecoder(pool: pool)
    encoded.head.withUnsafeBytes { decoder.received($0) }
    for payload in encoded.payloads { payload.withBytes { decoder.received($0) } }
    do throws(WireError) {
        require(try decoder.next() != nil, "a frame that was sent again is not whole")
    } catch {
        fatalError("a frame that was sent again is refused: \(error)")
    }
}

private func sealFrames(_ bytes: inout [UInt8]) {
    var start = 0
    while start + 64 <= bytes.count {
        bytes.put(0x3156_5243, at: start)
        bytes[start + 4] = WireLimits.frameVersion
        let headBytes = 64 + bytes.littleEndian32(at: start + 8)
        let payloadBytes = bytes.littleEndian32(at: start + 12)
        guard start + headBytes <= bytes.count else { return }
        var sum = CRC32C.extend(0, with: bytes[start..<(start + 60)])
        sum = CRC32C.extend(sum, with: bytes[(start + 64)..<(start + headBytes)])
        bytes.put(sum, at: start + 60)
        start += headBytes + payloadBytes
    }
}

extension CRC32C {
    static func extend(_ sum: UInt32, with bytes: ArraySlice<UInt8>) -> UInt32 {
        bytes.withUnsafeBytes { extend(sum, with: $0) }
    }
}
