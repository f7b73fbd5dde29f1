import BlockTypes
import Fuzzing

@testable import ISCSIProtocol

/// Logins that nobody has begun, by steering: without secrets, and with.
private let logins = [false, true].map {
    LoginExchange(
        configuration: portalGroup(withSecrets: $0), limits: ISCSILimits(), address: initiatorAddress,
        randomness: randomness)
}
/// Where data goes that no text is.
private let sink = BlockBuffer(byteCount: 4096)

/// Header and text decoders without a session around them: PDUs in one stream, cut into pieces; every other
/// text is a step of one login, the others are read key by key.
func feedPDUs(_ input: [UInt8]) {
    guard let steering = input.first.map({ Int($0) }) else { return }
    var reader = PDUReader(segmentBytesMax: 1024)
    (reader.hasHeaderDigest, reader.hasDataDigest) = (steering & 1 == 1, steering & 2 == 2)
    let isSealed = steering & 4 == 0
    let bytes = isSealed ? sealed(input, reader) : input
    var texts = Texts(login: logins[steering >> 6 & 1])
    let piece = pieceBytes(steering >> 3)
    bytes.withUnsafeBytes { all in
        var start = 1
        while start < all.count {
            let end = piece == 0 ? all.count : min(all.count, start + piece)
            var rest = UnsafeRawBufferPointer(rebasing: all[start..<end])
            while let item = reader.next(&rest) {
                switch item {
                case .header(let header, let additional):
                    require(additional.count == header.additionalBytes, "additional segments are cut")
                    texts.begin(header, &reader)
                case .data(let isIntact, let text):
                    require(isIntact || !isSealed, "a right digest is called wrong")
                    texts.take(text)
                case .fault:
                    require(!isSealed, "a proper header is refused")
                    return
                }
            }
            require(rest.isEmpty, "bytes are left")
            start = end
        }
    }
}

/// What is done with the text of PDUs.
private struct Texts {
    var login: LoginExchange
    var operational = OperationalNegotiation(
        limits: ISCSILimits(), headerDigests: .either, dataDigests: .either, isDiscovery: false,
        isLeading: true, session: SessionParameters())
    var header: PDUHeader?
    var hasFailed = false

    init(login: LoginExchange) { self.login = login }

    mutating func begin(_ header: PDUHeader, _ reader: inout PDUReader) {
        self.header = header
        let count = header.dataBytes
        guard count > 0 else { return take([]) }
        switch header.opcode {
        case Opcode.scsiCommand, Opcode.dataOut: reader.direct(.buffer(sink, at: 16, keep: count / 2))
        case Opcode.snack: reader.direct(.skip)
        default: reader.direct(.bytes)
        }
    }
    mutating func take(_ text: [UInt8]) {
        guard let header else { return }
        self.header = nil
        if header.opcode == Opcode.loginRequest {
            step(header, text)
        } else if !text.isEmpty {
            read(text)
        }
    }
    private mutating func step(_ header: PDUHeader, _ text: [UInt8]) {
        guard !hasFailed else { return }
        do throws(LoginStatus) {
            let reply = try login.receive(header, text) { _ in SessionParameters() }
            require(reply.text.count <= ISCSILimits.loginSegmentBytesMax, "a reply is too long")
            hasFailed = reply.isComplete
        } catch {
            hasFailed = true
        }
    }
    private mutating func read(_ text: [UInt8]) {
        guard let pairs = try? TextPairs.decode(text) else { return }
        let again = TextPairs.encode(pairs)
        require(again.count <= text.count + 1, "text has grown")
        require((try? TextPairs.decode(again)) == pairs, "text that was sent again reads otherwise")
        operational.lookAhead(pairs)
        for pair in pairs {
            _ = TextPairs.boolean(pair.value)
            if let bytes = TextPairs.binary(pair.value, bytesMax: ISCSILimits.challengeBytesMax) {
                let digits = TextPairs.hexadecimal(bytes)
                require(TextPairs.binary(digits, bytesMax: bytes.count) == bytes, "a binary value changes")
            }
            guard let answer = try? operational.answer(pair.key, pair.value) else { continue }
            require(TextPairs.isValue(answer), "an answer that may not be sent")
        }
    }
}

/// The same PDUs with lengths that fit and right digests; login requests of the one version that there is.
private func sealed(_ input: [UInt8], _ reader: PDUReader) -> [UInt8] {
    var bytes = input
    var start = 1
    let (headDigest, dataDigest) = (reader.hasHeaderDigest ? 4 : 0, reader.hasDataDigest ? 4 : 0)
    while start + PDUHeader.byteCount <= bytes.count {
        let left = bytes.count - start - PDUHeader.byteCount - headDigest
        if left < 0 { break }
        if bytes[start] & 0x3f == Opcode.loginRequest {
            (bytes[start], bytes[start + 3], bytes[start + 4]) = (0x43, 0, 0)
        }
        let additional = min(Int(bytes[start + 4] & 3) * 4, left & ~3)
        bytes[start + 4] = UInt8(additional / 4)
        let said = Int(bytes[start + 6] & 3) << 8 | Int(bytes[start + 7])
        // What is too short for padding and digest has no data.
        let data = max(0, min(said, (left - additional - dataDigest) & ~3))
        (bytes[start + 5], bytes[start + 6], bytes[start + 7]) = (0, UInt8(data >> 8), UInt8(data & 255))
        let head = start..<(start + PDUHeader.byteCount + additional)
        if headDigest > 0 { bytes.put(checksum(bytes[head]), at: head.upperBound) }
        start = head.upperBound + headDigest
        guard data > 0 else { continue }
        let segment = start..<(start + (data + 3) / 4 * 4)
        if dataDigest > 0 { bytes.put(checksum(bytes[segment]), at: segment.upperBound) }
        start = segment.upperBound + dataDigest
    }
    return bytes
}
private func checksum(_ bytes: ArraySlice<UInt8>) -> UInt32 {
    bytes.withUnsafeBytes { CRC32C(of: $0).rawValue }
}
