import BlockTypes
import Environment
import ISCSIInitiator
import MemoryEnvironment

/// How a command ended, as its initiator sees it.
struct Ended {
    var status: UInt8
    var data: [UInt8]
    /// Sense key, additional code and qualifier.
    var sense: [UInt8]
}

/// An initiator with one connection in a world of the test's.
final class TestInitiator: ConnectionHandler {
    static let name = "iqn.1993-08.org.debian:01:abc"
    let world: MemoryWorld
    private(set) var link: MemoryConnection?
    private(set) var closed: NetworkError?
    private var listener = PDUListener()
    private let wire = Wire()
    var cmdSN: UInt32 = 100
    private var nextTag: UInt32 = 1
    /// By task tag.
    private(set) var ended: [UInt32: Ended] = [:]
    private var dataIn: [UInt32: [UInt8]] = [:]
    private var dataOut: [UInt32: (bytes: [UInt8], lun: UInt64)] = [:]
    /// What is neither data nor a status of a command.
    private(set) var heard: [Heard] = []
    var answersPings = true

    init(_ world: MemoryWorld, at address: SocketAddress, from host: String = "10.0.0.9:1") {
        self.world = world
        world.environment(host).connect(to: address, timeout: .seconds(1)) { [self] result in
            guard case .success(let connection) = result else { return }
            link = connection as? MemoryConnection
            connection.handler = self
        }
        world.settle()
    }

    // What the link reports.

    func connectionReceiveWindow() -> UnsafeMutableRawBufferPointer? { nil }
    func connectionReceived(_ bytes: UnsafeRawBufferPointer) {
        listener.hear(Array(bytes))
        while let pdu = listener.next() { take(pdu) }
    }
    func connectionDrained() {}
    func connectionClosed(_ reason: NetworkError) { closed = reason }

    private func take(_ pdu: Heard) {
        switch pdu.opcode {
        case 0x25:
            dataIn[pdu.tag, default: []] += pdu.data
            if pdu.carriesStatus { end(pdu) }
        case 0x21: end(pdu)
        case 0x31: sendData(pdu)
        case 0x20 where pdu.transfer != 0xffff_ffff:
            if answersPings { say(wire.nopOut(transfer: pdu.transfer, cmdSN: cmdSN)) }
            heard.append(pdu)
        default: heard.append(pdu)
        }
    }
    private func end(_ pdu: Heard) {
        let sense = pdu.opcode == 0x21 ? pdu.sense : []
        ended[pdu.tag] = Ended(status: pdu.status, data: dataIn[pdu.tag] ?? [], sense: sense)
    }
    /// Answers a request for data, in one piece.
    private func sendData(_ request: Heard) {
        guard let whole = dataOut[request.tag] else { return }
        let (start, count) = (Int(request.word(40)), Int(request.word(44)))
        say(
            wire.dataOut(
                tag: request.tag, transfer: request.transfer, number: 0, offset: request.word(40),
                final: true, data: Array(whole.bytes[start..<(start + count)]), lun: whole.lun))
    }

    // What the test does.

    func say(_ bytes: [UInt8]) { link?.send([.bytes(bytes)]) }
    func takeHeard() -> [Heard] {
        defer { heard = [] }
        return heard
    }
    /// - Returns: status class and detail, and the session's handle; `nil` without an answer.
    @discardableResult func logIn(
        _ keys: [String] = [], target: String = targetName, isid: UInt64 = 0x4000_0000_0001,
        tsih: UInt16 = 0, cid: UInt16 = 1, name: String = TestInitiator.name
    ) -> (status: UInt16, handle: UInt16)? {
        let names = ["InitiatorName=\(name)", "TargetName=\(target)"]
        say(
            Wire.login(
                names + ["InitialR2T=Yes", "MaxBurstLength=262144"] + keys, stage: 1, next: 3, isid: isid,
                tsih: tsih, cid: cid, cmdSN: cmdSN))
        world.settle()
        guard let reply = takeHeard().last, reply.opcode == 0x23 else { return nil }
        return (reply.half(36), reply.half(14))
    }
    /// Sends a command and says its tag.
    func send(
        _ cdb: [UInt8], read: Int = 0, write: [UInt8] = [], lun: UInt64 = 0, cmdSN number: UInt32? = nil
    ) -> UInt32 {
        let tag = nextTag
        nextTag += 1
        if !write.isEmpty { dataOut[tag] = (write, lun << 48) }
        say(
            wire.command(
                tag: tag, cdb: cdb, lun: lun << 48, length: UInt32(write.isEmpty ? read : write.count),
                cmdSN: number ?? cmdSN, read: read > 0, write: !write.isEmpty))
        if number == nil { cmdSN += 1 }
        return tag
    }
    /// Sends a command and lets the world go on until nothing is due.
    func run(_ cdb: [UInt8], read: Int = 0, write: [UInt8] = [], lun: UInt64 = 0) -> Ended? {
        let tag = send(cdb, read: read, write: write, lun: lun)
        world.settle()
        return ended[tag]
    }
    func write(_ block: UInt32, _ bytes: [UInt8], lun: UInt64 = 0) -> Ended? {
        run(Self.write10(block, UInt16(bytes.count / 512)), write: bytes, lun: lun)
    }
    func read(_ block: UInt32, _ count: UInt16, lun: UInt64 = 0) -> Ended? {
        run(Self.read10(block, count), read: Int(count) * 512, lun: lun)
    }
    static func read10(_ block: UInt32, _ count: UInt16) -> [UInt8] {
        [0x28, 0] + be32(block) + [0] + be16(count) + [0]
    }
    static func write10(_ block: UInt32, _ count: UInt16) -> [UInt8] {
        [0x2a, 0] + be32(block) + [0] + be16(count) + [0]
    }
    static let testUnitReady: [UInt8] = [0, 0, 0, 0, 0, 0]
    static let readCapacity10: [UInt8] = [0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    static let reserve6: [UInt8] = [0x16, 0, 0, 0, 0, 0]
    func logOut() {
        say(wire.logout(0, tag: 0xfff0, cmdSN: cmdSN))
        world.settle()
    }
}
