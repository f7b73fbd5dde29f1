import BlockTypes
import Environment
import Glibc
import ISCSIInitiator
import Reactor

/// `iscsi-load HOST:PORT TARGET LUN randread|randwrite|read|write BLOCK-BYTES DEPTH CONNECTIONS SECONDS
/// [digests]`: a load for `tools/bench iscsi`, the same for any target.
///
/// READ(10) and WRITE(10) of blocks of 512 bytes in the first 512 MiB; DEPTH commands in flight on all
/// connections together, each of which is a session of its own. Every command leaves by itself. Data that
/// comes is thrown away, its digests are not looked at. Prints one JSON object.
final class Load {
    let reactor: Reactor
    let words: [String]
    let isWriting: Bool
    let isRandom: Bool
    let blockBytes: Int
    let data: Payload
    let dataChecksum: UInt32
    let hasDigests: Bool
    /// Where all sessions throw away what comes, so that more of them need no more of the processor's cache.
    let scratch = BlockBuffer(byteCount: 1 << 20)
    private(set) var end = Duration.zero
    private var sessions: [LoadSession] = []
    private var waiting = 0
    private var begun = ContinuousClock.now
    var nanoseconds: [Int64] = []
    var failure: String?

    static let areaBytes = 512 << 20

    init(_ reactor: Reactor, _ words: [String]) {
        (self.reactor, self.words) = (reactor, words)
        (isWriting, isRandom) = (words[3].hasSuffix("write"), words[3].hasPrefix("rand"))
        blockBytes = Int(words[4]) ?? 4096
        data = Payload(copying: [UInt8](repeating: 0x5a, count: blockBytes))
        dataChecksum = data.withBytes { CRC32C.extend(0, with: $0) }
        hasDigests = words.count > 8
        nanoseconds.reserveCapacity(1 << 20)
    }
    func start() {
        guard let address = SocketAddress(words[0]) else { fail("'\(words[0])' is no address") }
        let count = Int(words[6]) ?? 1
        waiting = count
        for number in 0..<count {
            reactor.connect(to: address, timeout: .seconds(5)) { [self] result in
                switch result {
                case .failure(let error): fail("\(error)")
                case .success(let link): sessions.append(LoadSession(self, link, number))
                }
            }
        }
    }
    /// A session has logged in; all begin together.
    func isReady() {
        waiting -= 1
        guard waiting == 0 else { return }
        (begun, end) = (.now, reactor.now + .seconds(Int(words[7]) ?? 1))
        let depth = (Int(words[5]) ?? 1) / sessions.count
        for session in sessions { session.begin(max(depth, 1)) }
    }
    func isDone() {
        guard sessions.allSatisfy(\.isIdle) else { return }
        let (seconds, attoseconds) = (ContinuousClock.now - begun).components
        nanoseconds.sort()
        guard !nanoseconds.isEmpty else { fail("not one answer") }
        func microseconds(_ percent: Int) -> Double {
            Double(nanoseconds[(nanoseconds.count - 1) * percent / 100]) / 1000
        }
        print(
            "{\"ios\": \(nanoseconds.count), \"seconds\": \(Double(seconds) + Double(attoseconds) / 1e18), "
                + "\"p50Microseconds\": \(microseconds(50)), \"p99Microseconds\": \(microseconds(99))}")
        fflush(nil)
        exit(0)
    }
}

/// One session on one connection.
final class LoadSession: ConnectionHandler {
    private let load: Load
    private let link: any Connection
    private let number: Int
    /// As it is, and as it will be when the login is over.
    private var (wire, agreed) = (Wire(), Wire())
    private enum Stage { case security, operational, attention, running }
    private var stage = Stage.security

    private var header: [UInt8] = []
    private var headerBytes: Int { 48 + (wire.headerDigest ? 4 : 0) }
    private var text: [UInt8] = []
    /// Of the data segment under way, with padding and digest.
    private var leftBytes = 0

    private var commandNumber: UInt32 = 1
    private var statusNumber: UInt32 = 0
    private var targetSegmentBytes = 8192
    private var firstBurstBytes = 65_536
    private var begun: [Duration] = []
    private var inFlight = 0
    private var cursor = 0
    private var seed: UInt64

    init(_ load: Load, _ link: any Connection, _ number: Int) {
        (self.load, self.link, self.number) = (load, link, number)
        seed = 88_172_645_463_325_252 &+ UInt64(number) &* 7919
        link.handler = self
        logIn(
            [
                "InitiatorName=iqn.2026-11.io.curve.test:load", "TargetName=\(load.words[1])",
                "SessionType=Normal", "AuthMethod=None",
            ], stage: 0, next: 1)
    }
    var isIdle: Bool { inFlight == 0 }

    private func logIn(_ keys: [String], stage: UInt8, next: UInt8) {
        let isid = 0x8000_0000_0000 + UInt64(getpid() & 0xffff) << 16 + UInt64(number)
        link.send([
            .bytes(Wire.login(keys, stage: stage, next: next, isid: isid, cmdSN: 1, expStatSN: statusNumber))
        ])
    }

    // MARK: The load

    func begin(_ depth: Int) {
        begun = Array(repeating: .zero, count: depth)
        for tag in 0..<depth { submit(tag) }
    }
    private func nextBlock() -> Int {
        let blocks = Load.areaBytes / load.blockBytes
        if load.isRandom {
            seed ^= seed << 13
            seed ^= seed >> 7
            seed ^= seed << 17
            return Int(seed % UInt64(blocks))
        }
        defer { cursor += 1 }
        return cursor % blocks
    }
    private func submit(_ tag: Int) {
        inFlight += 1
        begun[tag] = monotonic()
        let (count, place) = (load.blockBytes / 512, nextBlock() * (load.blockBytes / 512))
        let cdb: [UInt8] =
            [load.isWriting ? 0x2a : 0x28, 0] + be32(UInt32(place)) + [0] + be16(UInt16(count)) + [0]
        let immediate = load.isWriting ? min(load.blockBytes, firstBurstBytes, targetSegmentBytes) : 0
        send(
            command(UInt32(tag), cdb, immediateBytes: immediate), data: immediate == 0 ? nil : 0..<immediate)
        commandNumber &+= 1
    }
    private func command(_ tag: UInt32, _ cdb: [UInt8], immediateBytes: Int) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 48)
        (bytes[0], bytes[1]) = (0x01, load.isWriting ? 0xa1 : 0xc1)
        put(UInt32(immediateBytes), 4, &bytes)
        bytes[9] = UInt8(truncatingIfNeeded: Int(load.words[2]) ?? 0)
        put(tag, 16, &bytes)
        put(UInt32(load.blockBytes), 20, &bytes)
        put(commandNumber, 24, &bytes)
        put(statusNumber, 28, &bytes)
        bytes.replaceSubrange(32..<(32 + cdb.count), with: cdb)
        return bytes
    }
    /// Sends a header and a part of the data, whole words of it.
    private func send(_ plain: [UInt8], data range: Range<Int>?) {
        var bytes = plain
        if wire.headerDigest { appendChecksum(bytes.withUnsafeBytes { CRC32C.extend(0, with: $0) }, &bytes) }
        guard let range else { return link.send([.bytes(bytes)]) }
        let part = load.data.slice(range.lowerBound, range.count)
        var pieces: [SendPiece] = [.bytes(bytes), .payload(part)]
        if wire.dataDigest {
            let whole = range.count == load.blockBytes
            let sum = whole ? load.dataChecksum : part.withBytes { CRC32C.extend(0, with: $0) }
            var trailer: [UInt8] = []
            appendChecksum(sum, &trailer)
            pieces.append(.bytes(trailer))
        }
        link.send(pieces)
    }
    private func appendChecksum(_ sum: UInt32, _ bytes: inout [UInt8]) { bytes += le32(sum) }
    private func put(_ value: UInt32, _ at: Int, _ bytes: inout [UInt8]) {
        for index in 0..<4 { bytes[at + index] = UInt8(truncatingIfNeeded: value >> UInt32(24 - 8 * index)) }
    }
    private func answerRequest(_ asked: Heard) {
        var (offset, left, index) = (Int(asked.word(40)), Int(asked.word(44)), UInt32(0))
        while left > 0 {
            let count = min(left, targetSegmentBytes)
            var bytes = [UInt8](repeating: 0, count: 48)
            (bytes[0], bytes[1]) = (0x05, count == left ? 0x80 : 0)
            put(UInt32(count), 4, &bytes)
            bytes.replaceSubrange(8..<24, with: asked.header[8..<24])
            put(statusNumber, 28, &bytes)
            put(index, 36, &bytes)
            put(UInt32(offset), 40, &bytes)
            send(bytes, data: offset..<(offset + count))
            (offset, left, index) = (offset + count, left - count, index + 1)
        }
    }
    private func ended(_ heard: Heard) {
        statusNumber = heard.statSN &+ 1
        guard stage == .running else { return }
        guard heard.status == 0 else { fail("a command ended with status \(heard.status)") }
        let tag = Int(heard.tag)
        inFlight -= 1
        load.nanoseconds.append(Int64((monotonic() - begun[tag]) / .nanoseconds(1)))
        if load.reactor.now < load.end { submit(tag) } else if inFlight == 0 { load.isDone() }
    }
    private func monotonic() -> Duration {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return .seconds(time.tv_sec) + .nanoseconds(time.tv_nsec)
    }

    // MARK: What comes

    func connectionReceiveWindow() -> UnsafeMutableRawBufferPointer? {
        guard leftBytes > 0, stage == .running else { return nil }
        return UnsafeMutableRawBufferPointer(
            rebasing: load.scratch.bytes[..<min(leftBytes, load.scratch.bytes.count)])
    }
    func connectionReceived(_ bytes: UnsafeRawBufferPointer) {
        var rest = bytes
        while rest.count > 0 {
            if leftBytes > 0 {
                let count = min(leftBytes, rest.count)
                if stage != .running { text += rest[..<count] }
                leftBytes -= count
                rest = UnsafeRawBufferPointer(rebasing: rest[count...])
            } else {
                let count = min(headerBytes - header.count, rest.count)
                header += rest[..<count]
                rest = UnsafeRawBufferPointer(rebasing: rest[count...])
                guard header.count == headerBytes else { return }
                let dataBytes = Int(header[5]) << 16 | Int(header[6]) << 8 | Int(header[7])
                leftBytes = (dataBytes + 3) / 4 * 4 + (dataBytes > 0 && wire.dataDigest ? 4 : 0)
            }
            if leftBytes == 0 { take() }
        }
    }
    private func take() {
        let heard = Heard(header: Array(header[..<48]), data: text)
        header.removeAll(keepingCapacity: true)
        text = []
        switch (stage, heard.opcode) {
        case (.security, 0x23), (.operational, 0x23): loggedIn(heard)
        case (.attention, 0x21):
            statusNumber = heard.statSN &+ 1
            // The first word of every unit is an attention.
            if heard.status == 0 { start() } else { askReady() }
        case (_, 0x21): ended(heard)
        case (_, 0x25): if heard.carriesStatus { ended(heard) }
        case (_, 0x31): answerRequest(heard)
        case (_, 0x20): break
        default: fail("unexpected: \(heard)")
        }
    }
    private func loggedIn(_ heard: Heard) {
        guard heard.half(36) == 0 else { fail("the login was refused: \(String(heard.half(36), radix: 16))") }
        statusNumber = heard.statSN &+ 1
        for pair in heard.text {
            if pair.hasPrefix("MaxRecvDataSegmentLength=") {
                targetSegmentBytes = Int(pair.dropFirst(25)) ?? targetSegmentBytes
            }
            if pair == "HeaderDigest=CRC32C" { agreed.headerDigest = true }
            if pair == "DataDigest=CRC32C" { agreed.dataDigest = true }
            if pair.hasPrefix("FirstBurstLength=") { firstBurstBytes = Int(pair.dropFirst(17)) ?? 0 }
        }
        let digest = load.hasDigests ? "CRC32C" : "None"
        if stage == .security {
            stage = .operational
            return logIn(
                [
                    "HeaderDigest=\(digest)", "DataDigest=\(digest)", "InitialR2T=Yes", "ImmediateData=Yes",
                    "MaxRecvDataSegmentLength=262144", "MaxBurstLength=16776192", "FirstBurstLength=262144",
                    "MaxOutstandingR2T=1", "MaxConnections=1",
                ], stage: 1, next: 3)
        }
        guard heard.flags & 0x83 == 0x83 else { return logIn([], stage: 1, next: 3) }
        wire = agreed
        guard wire.headerDigest == load.hasDigests, wire.dataDigest == load.hasDigests else {
            fail("the target does not agree on these digests: \(heard.text)")
        }
        stage = .attention
        askReady()
    }
    private func askReady() {
        link.send([
            .bytes(
                wire.command(
                    tag: 0xfffe, cdb: [0], lun: UInt64(load.words[2]).map { $0 << 48 } ?? 0,
                    cmdSN: commandNumber, expStatSN: statusNumber))
        ])
        commandNumber &+= 1
    }
    private func start() {
        stage = .running
        load.isReady()
    }
    func connectionDrained() {}
    func connectionClosed(_ reason: NetworkError) { fail("\(reason)") }
}

func fail(_ text: String) -> Never {
    let line = "iscsi-load: \(text)\n"
    _ = line.utf8.withContiguousStorageIfAvailable { write(2, $0.baseAddress, $0.count) }
    exit(1)
}

let words = Array(CommandLine.arguments.dropFirst())
guard words.count == 8 || words.count == 9 && words[8] == "digests",
    ["randread", "randwrite", "read", "write"].contains(words[3])
else {
    fail("usage: iscsi-load HOST:PORT TARGET LUN RW BLOCK-BYTES DEPTH CONNECTIONS SECONDS [digests]")
}
do {
    let reactor = try Reactor()
    let load = Load(reactor, words)
    load.start()
    reactor.run()
} catch { fail("\(error)") }
