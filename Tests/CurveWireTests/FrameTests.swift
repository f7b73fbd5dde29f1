import BlockTypes
import Testing

@testable import CurveWire

@Suite struct FrameTests {
    @Test("every kind of frame comes back as it was sent", arguments: UInt64(0)..<100)
    func roundTrip(seed: UInt64) {
        var random = RandomFrames(seed: seed)
        for frame in random.all() {
            var decoder = FrameDecoder(pool: BufferPool())
            let (frames, error) = decode(wire(frame), pieceBytes: .max, into: &decoder)
            #expect(error == nil, "seed \(seed)")
            #expect(frames.map { picture($0) } == [picture(frame)], "seed \(seed)")
            #expect(decoder.isBetweenFrames)
        }
    }

    @Test("the frames are the same however the bytes are cut, glued to each other")
    func cuts() {
        var random = RandomFrames(seed: 7)
        let sent = random.all()
        let stream = sent.reduce(into: [UInt8]()) { $0 += wire($1) }
        let expected = sent.map { picture($0) }
        let sizes = Array(1...200) + [255, 256, 1000, 4095, 4096, 4097, 8191, 65536, stream.count]
        for pieceBytes in sizes {
            var decoder = FrameDecoder(pool: BufferPool())
            let (frames, error) = decode(stream, pieceBytes: pieceBytes, into: &decoder)
            #expect(error == nil)
            #expect(frames.map { picture($0) } == expected, "pieces of \(pieceBytes)")
            #expect(decoder.isBetweenFrames)
        }
    }

    @Test("a stream that ends early gives the frames before the end and knows that it is inside one")
    func truncation() {
        var random = RandomFrames(seed: 3)
        for frame in random.all() {
            let stream = wire(frame)
            for length in stride(from: 1, to: stream.count, by: stream.count > 2000 ? 61 : 1) {
                var decoder = FrameDecoder(pool: BufferPool())
                let (frames, error) = decode(Array(stream[..<length]), pieceBytes: .max, into: &decoder)
                #expect(frames.isEmpty && error == nil && !decoder.isBetweenFrames)
            }
        }
    }

    @Test("no flipped bit of a header or body gets through", arguments: 0...RandomFrames.caseCount)
    func flippedBits(number: Int) {
        var random = RandomFrames(seed: 11)
        let frame = random.frame(number)
        let (stream, headBytes) = (wire(frame), FrameEncoder.encode(frame).head.count)
        for bit in 0..<(headBytes * 8) {
            var damaged = stream
            damaged[bit / 8] ^= 1 << UInt8(bit % 8)
            var decoder = FrameDecoder(pool: BufferPool())
            let (frames, error) = decode(damaged, pieceBytes: .max, into: &decoder)
            // A longer length may also make the decoder wait for bytes that never come.
            #expect(frames.isEmpty && (error != nil || !decoder.isBetweenFrames), "bit \(bit)")
        }
    }

    @Test("what is accepted is what would be sent: mutated frames with a good checksum", arguments: 0..<20)
    func mutations(part: Int) {
        var random = RandomFrames(seed: UInt64(part) + 1000)
        var (accepted, refused) = (0, 0)
        for round in 0..<5000 {
            var stream = wire(random.frame(round % (RandomFrames.caseCount + 1)))
            for _ in 0...random.below(3) { mutate(&stream, &random) }
            if random.below(8) > 0 { seal(&stream) }
            var decoder = FrameDecoder(pool: BufferPool())
            let (frames, error) = decode(stream, pieceBytes: random.below(9000) + 1, into: &decoder)
            if error != nil { refused += 1 }
            guard let first = frames.first else { continue }
            accepted += 1
            #expect(wire(first) == Array(stream[..<wire(first).count]), "part \(part) round \(round)")
        }
        #expect(accepted > 100 && refused > 1000)
    }

    private func mutate(_ stream: inout [UInt8], _ random: inout RandomFrames) {
        let spot = random.below(4) > 0 ? random.below(min(stream.count, 160)) : random.below(stream.count)
        switch random.below(6) {
        case 0: stream[spot] ^= 1 << UInt8(random.below(8))
        case 1: stream[spot] = random.pick([0, 1, 0x7F, 0x80, 0xFF])
        case 2: stream[spot] = UInt8(truncatingIfNeeded: random.any())
        case 3: stream[spot] &+= 1
        case 4 where stream.count > 65:
            stream.removeSubrange(max(64, spot)..<min(stream.count, max(64, spot) + 4))
        default: stream.insert(contentsOf: [0, 0, 0, 0], at: spot)
        }
        if stream.count < 64 { stream += Array(repeating: 0, count: 64 - stream.count) }
    }

    @Test("after an error nothing more comes out, whatever comes in")
    func stopsAtError() throws {
        var random = RandomFrames(seed: 5)
        let good = wire(random.frame(2))
        var bad = good
        bad[20] ^= 1
        var decoder = FrameDecoder(pool: BufferPool())
        let (frames, error) = decode(good + bad + good, pieceBytes: .max, into: &decoder)
        #expect(frames.count == 1 && error == .checksumMismatch)
        #expect(decode(good, pieceBytes: 10, into: &decoder).1 == .checksumMismatch)
    }
}

@Suite struct BoundsTests {
    /// A header of zeroes but for what `change` sets, with a good checksum; no body.
    private func header(_ kind: FrameKind, _ change: (inout FrameHeader) -> Void = { _ in }) -> [UInt8] {
        var header = FrameHeader(kind)
        change(&header)
        var stream = [UInt8](repeating: 0, count: 64)
        stream.withUnsafeMutableBytes { bytes in
            var writer = WireWriter(bytes, at: 0)
            header.write(&writer)
        }
        seal(&stream)
        return stream
    }
    private func error(of stream: [UInt8], accepted: FrameKindSet = .all) -> WireError? {
        var decoder = FrameDecoder(pool: BufferPool(), accepted: accepted)
        return decode(stream, pieceBytes: .max, into: &decoder).1
    }

    @Test("what is announced beyond the bounds is refused by the header alone", arguments: FrameKind.allCases)
    func announced(kind: FrameKind) {
        let tooLong = error(of: header(kind) { $0.bodyBytes = kind.bodyBytesMax + 1 })
        #expect(
            tooLong == .bodyTooLong(kind, bytes: kind.bodyBytesMax + 1, bytesMax: kind.bodyBytesMax))
        let more = kind.payloadBytesMax + 4096
        #expect(
            error(of: header(kind) { $0.payloadBytes = more })
                == .payloadTooLong(kind, bytes: more, bytesMax: kind.payloadBytesMax))
        #expect(error(of: header(kind) { $0.flags = 0x8000 }) == .unknownFlags(kind, 0x8000))
    }

    @Test("strangers are named: another protocol, another layout, an unknown kind, a kind out of turn")
    func strangers() {
        #expect(
            error(of: Array("GET / HTTP/1.1\r\n".utf8) + Array(repeating: 32, count: 60))
                == .badMagic(0x2054_4547))
        var stream = header(.hello)
        stream[4] = 9
        #expect(error(of: stream) == .unsupportedVersion(9))
        stream = header(.hello)
        stream[5] = 200
        #expect(error(of: stream) == .unknownKind(200))
        #expect(error(of: header(.append), accepted: .sent(by: .client)) == .notAllowed(.append))
        #expect(error(of: header(.write), accepted: .handshake) == .notAllowed(.write))
    }

    @Test("a client's write fits a log entry, or is refused before its payload is read")
    func writeLength() {
        let most = LogEntry.payloadBytesMax / Geometry.blockBytes
        for blocks in [most, most + 1] {
            let stream = header(.write) {
                ($0.b, $0.d) = (1, UInt32(blocks) << 16)
                ($0.bodyBytes, $0.payloadBytes) = (4 * blocks, 4096 * blocks)
            }
            let refused = WireError.payloadTooLong(
                .write, bytes: 4096 * blocks, bytesMax: LogEntry.payloadBytesMax)
            #expect(error(of: stream) == (blocks > most ? refused : nil))
        }
    }

    @Test("an offer holds many busy volumes and very many deleted ones, and says when it is too long")
    func offers() throws {
        let fence = VolumeFence(epoch: Epoch(1), size: ByteCount(bytes: 1 << 30), change: 1)
        let window = try #require(
            RequestWindow(
                session: Epoch(1), highestSequence: 1 << 20,
                words: Array(repeating: .max, count: RequestWindow.wordCount)))
        let busy = try #require(VolumeRecord(fence: fence, isDeleted: false, windows: [window]))
        var gone = busy
        gone.delete()
        func bytes(_ volumes: [(VolumeID, VolumeRecord)]) -> Int {
            let offer = Frame.syncOffer(CopysetID(1), term: Term(1), base: .zero, blocks: 7, volumes: volumes)
            return FrameEncoder.encode(offer).head.count - 64
        }
        #expect(bytes([(VolumeID(1), busy)]) * 30_000 <= WireLimits.longBodyBytesMax)
        #expect(bytes([(VolumeID(1), gone)]) * 380_000 <= WireLimits.longBodyBytesMax)
        #expect(FrameEncoder.fitsOffer([(VolumeID(1), busy)]))
        #expect(!FrameEncoder.fitsOffer((0..<31_000).map { (VolumeID($0), busy) }))
    }

    @Test("numbers that would overflow later are refused at the door")
    func counters() {
        let run: UInt32 = 1 << 16
        let cases: [[UInt8]] = [
            header(.trim) { ($0.d, $0.b) = (run, 0) },
            header(.trim) { ($0.d, $0.b) = (run, .max) },
            header(.heartbeat) { $0.number = .max },
            header(.heartbeat) { $0.a = .max },
            header(.heartbeat) { $0.id = .max },
            header(.fence) { $0.a = .max },
            header(.fence) { $0.b = .max },
            header(.read) { $0.d = 0 },
            header(.read) { $0.d = 4096 | 1 << 16 },
            header(.read) { $0.d = 257 << 16 },
            header(.fetch) { $0.d = 513 << 16 },
            header(.syncPull) { $0.d = 4097 },
            header(.reply) { $0.d = 99 },
            header(.reply) { $0.d = 5 << 8 },
            header(.syncRefused) { $0.c = 1 },
        ]
        for (number, stream) in cases.enumerated() {
            guard case .malformed = error(of: stream) else {
                Issue.record("case \(number) was not refused")
                continue
            }
        }
        #expect(error(of: header(.trim) { ($0.d, $0.b) = (run, 1) }) == nil)
    }

    @Test("an announced body costs nothing before it arrives")
    func announcedBody() {
        var decoder = FrameDecoder(pool: BufferPool())
        let stream = header(.controlReply) { $0.bodyBytes = WireLimits.longBodyBytesMax }
        #expect(decode(stream, pieceBytes: 10, into: &decoder).1 == nil)
        #expect(decoder.headCapacityBytes < 4096)
    }

    @Test("frames after a hello wait until it was judged")
    func handshake() throws {
        var random = RandomFrames(seed: 2)
        let stream = wire(random.frame(0)) + wire(random.frame(3)) + wire(random.frame(2))
        for pieceBytes in [1, 63, 64, 100, .max] {
            var decoder = FrameDecoder.awaitingHello(pool: BufferPool())
            var kinds: [String] = []
            for start in stride(from: 0, to: stream.count, by: min(pieceBytes, stream.count)) {
                let piece = Array(stream[start..<min(stream.count, start + min(pieceBytes, stream.count))])
                piece.withUnsafeBytes { decoder.received($0) }
                while let frame = try decoder.next() {
                    if case .hello = frame {
                        kinds.append("hello")
                        #expect(try decoder.next() == nil)
                        decoder.accept(.sent(by: .client))
                    } else {
                        kinds.append("request")
                    }
                }
            }
            #expect(kinds == ["hello", "request", "request"])
        }
    }

    @Test("blocks are checked against their checksums one by one")
    func verifying() {
        var random = RandomFrames(seed: 9)
        let (sums, payload) = random.data(4)
        #expect(verify(checksums: sums, payload: payload))
        #expect(!verify(checksums: Array(sums.dropLast()), payload: payload))
        var wrong = sums
        wrong[2] = CRC32C(rawValue: wrong[2].rawValue ^ 1)
        #expect(firstMismatch(checksums: wrong, payload: payload) == 2)
        #expect(!verify(checksums: wrong, payload: payload))
    }

    @Test("a reason longer than a frame may hold is cut between characters")
    func longReason() {
        let frame = Frame.helloRefused(reason: String(repeating: "👩‍👩‍👧‍👦é", count: 300))
        var decoder = FrameDecoder(pool: BufferPool())
        let (frames, error) = decode(wire(frame), pieceBytes: .max, into: &decoder)
        #expect(error == nil)
        guard case .helloRefused(let reason) = frames.first else {
            Issue.record("no reason came")
            return
        }
        #expect(!reason.isEmpty && reason.utf8.count <= WireLimits.reasonBytesMax)
        #expect(reason.allSatisfy { "👩‍👩‍👧‍👦é".contains($0) })
    }
}
