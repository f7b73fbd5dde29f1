import BlockTypes
import Environment
import ISCSIInitiator
import Simulation

/// An initiator written from the standard: one session with one gateway, and with another when that fails.
final class SimInitiator: ConnectionHandler {
    /// How a command ended.
    enum Answer: Equatable {
        case good([UInt8])
        /// Sense key, additional code and qualifier: nothing was done.
        case attention(UInt8, UInt8)
        case sense([UInt8])
        case conflict
        /// Busy, or too many commands: nothing was done.
        case refused
        /// Nobody knows.
        case unknown
    }
    private struct Pending {
        let done: (Answer) -> Void
        let timer: TimerID
        let issuedAt: Duration
        /// It asks the volume; a gateway that was removed and does not know it yet may answer others.
        let isTransfer: Bool
    }
    static let commandPatience = Duration.seconds(6)
    let machine: String
    let host: SimHost
    private let number: Int
    private let world: SimWorld
    private let gateways: [SimGateway]
    /// "CRC32C" or "None".
    private let digest: String
    private(set) var place: Int
    /// It stays with its gateway, whatever becomes of that.
    private let isBound: Bool
    private var link: (any Connection)?
    private var listener = PDUListener()
    private var wire = Wire()
    private var commandNumber: UInt32 = 1
    private var nextTag: UInt32 = 1
    /// By tag; sorted where the order can be seen.
    private var pending: [UInt32: Pending] = [:]
    private var dataIn: [UInt32: [UInt8]] = [:]
    private var management: (tag: UInt32, done: (Bool) -> Void)?
    private(set) var isReady = false
    var isOver = false
    /// When the present session began, and when it last heard of a reset.
    private(set) var begunAt = Duration.zero
    private(set) var resetHeardAt = Duration.zero
    /// A reset was answered before which a command must not succeed; when it was.
    var owedResetSince: Duration?
    var complain: (String) -> Void = { _ in }

    init(
        _ world: SimWorld, number: Int, _ gateways: [SimGateway], at place: Int, isBound: Bool = false,
        digests: Bool
    ) {
        (self.world, self.number, self.gateways, self.place) = (world, number, gateways, place)
        self.isBound = isBound
        digest = digests ? "CRC32C" : "None"
        machine = "init\(number)"
        host = world.startHost(on: machine)
    }
    var openCount: Int { pending.count + (management == nil ? 0 : 1) }

    // MARK: The session

    func connect() {
        guard !isOver, link == nil else { return }
        host.connect(to: gateways[place].address, timeout: .seconds(1)) { [weak self] result in
            guard let self, !isOver else { return }
            switch result {
            case .failure: elsewhere()
            case .success(let connection):
                link = connection
                (listener, wire) = (PDUListener(), Wire())
                connection.handler = self
                (commandNumber, isReady) = (1, false)
                say(
                    Wire.login(
                        [
                            "InitiatorName=iqn.2026-11.test:\(machine)", "TargetName=\(SimGateway.target)",
                            "InitialR2T=No", "ImmediateData=Yes", "HeaderDigest=\(digest)",
                            "DataDigest=\(digest)",
                        ], stage: 1, next: 3, isid: 0x4000_0000_0000 | UInt64(number), cmdSN: 1))
                let begun = connection
                host.after(.seconds(3)) { [weak self] in
                    guard let self, link === begun, !isReady else { return }
                    drop()
                }
            }
        }
    }
    private func elsewhere() {
        if !isBound { place = (place + 1) % gateways.count }
        host.after(.milliseconds(200)) { [weak self] in self?.connect() }
    }
    /// Gives the session up; what is under way has an unknown end.
    func drop() {
        guard let old = link else { return }
        (link, isReady, owedResetSince) = (nil, false, nil)
        old.handler = nil
        old.close()
        loseAll()
        elsewhere()
    }
    private func loseAll() {
        let lost = pending.sorted { $0.key < $1.key }.map(\.value)
        let function = management
        (pending, dataIn, management) = ([:], [:], nil)
        for one in lost {
            host.cancel(one.timer)
            one.done(.unknown)
        }
        function?.done(false)
    }
    func leave() {
        isOver = true
        link?.handler = nil
        link?.close()
        (link, isReady) = (nil, false)
        loseAll()
    }
    private func say(_ bytes: [UInt8]) { link?.send([.bytes(bytes)]) }

    // MARK: Commands

    /// Runs one command; without a session its end is "refused".
    func run(
        _ cdb: [UInt8], out: [UInt8] = [], read: Int = 0, patience: Duration = commandPatience,
        done: @escaping (Answer) -> Void
    ) {
        guard isReady else {
            host.after(.milliseconds(100)) { done(.refused) }
            return
        }
        let tag = nextTag
        nextTag += 1
        let timer = host.after(patience) { [weak self] in
            guard let self, pending[tag] != nil else { return }
            drop()
        }
        pending[tag] = Pending(
            done: done, timer: timer, issuedAt: world.trueNow,
            isTransfer: [0x28, 0x2a, 0x89].contains(cdb[0]))
        say(
            wire.command(
                tag: tag, cdb: cdb, length: UInt32(out.isEmpty ? read : out.count), cmdSN: commandNumber,
                read: read > 0, write: !out.isEmpty, data: out))
        commandNumber += 1
    }
    /// LOGICAL UNIT RESET.
    func reset(done: @escaping (_ isDone: Bool) -> Void) {
        guard isReady, management == nil else { return done(false) }
        let tag = nextTag
        nextTag += 1
        management = (tag, done)
        say(wire.management(5, tag: tag, cmdSN: commandNumber))
        // A gateway gives a change up after 25 s.
        host.after(.seconds(30)) { [weak self] in
            if let self, management?.tag == tag { drop() }
        }
    }

    // MARK: What is heard

    @unsafe func connectionReceiveWindow() -> UnsafeMutableRawBufferPointer? { nil }
    @unsafe func connectionReceived(_ bytes: UnsafeRawBufferPointer) {
        unsafe listener.hear(Array(bytes))
        let heardBy = link
        while link === heardBy, let pdu = listener.next() {
            guard listener.broken == nil else { return drop() }
            take(pdu)
        }
    }
    func connectionDrained() {}
    func connectionClosed(_ reason: NetworkError) {
        guard link != nil else { return }
        (link, isReady, owedResetSince) = (nil, false, nil)
        loseAll()
        if !isOver { elsewhere() }
    }
    private func take(_ pdu: Heard) {
        switch pdu.opcode {
        case 0x23:
            let isAgreed = ["HeaderDigest=\(digest)", "DataDigest=\(digest)"].allSatisfy(pdu.text.contains)
            guard pdu.half(36) == 0, isAgreed else { return drop() }
            wire = Wire(headerDigest: digest != "None", dataDigest: digest != "None")
            listener.wire = wire
            (isReady, begunAt) = (true, world.trueNow)
        case 0x25:
            dataIn[pdu.tag, default: []] += pdu.data
            if pdu.carriesStatus { end(pdu) }
        case 0x21: end(pdu)
        case 0x22:
            guard let function = management, function.tag == pdu.tag else { return }
            management = nil
            function.done(pdu.header[2] == 0)
        case 0x20 where pdu.transfer != 0xffff_ffff:
            say(wire.nopOut(transfer: pdu.transfer, cmdSN: commandNumber))
        case 0x32: drop()
        default: break
        }
    }
    private func end(_ pdu: Heard) {
        let data = dataIn.removeValue(forKey: pdu.tag) ?? []
        guard let command = pending.removeValue(forKey: pdu.tag) else { return }
        host.cancel(command.timer)
        var answer = Answer.unknown
        switch pdu.status {
        case 0:
            answer = .good(data)
            if let owed = owedResetSince, command.isTransfer, command.issuedAt > owed {
                complain(
                    "\(machine): a command that came after a reset's answer is done, and nothing was told")
            }
        case 2 where pdu.opcode == 0x21 && pdu.sense.first == 6:
            answer = .attention(pdu.sense[1], pdu.sense[2])
            if pdu.sense[1] == 0x29 { resetHeard() }
        case 2 where pdu.opcode == 0x21: answer = .sense(pdu.sense)
        case 0x18: answer = .conflict
        case 0x08, 0x28: answer = .refused
        default: break
        }
        command.done(answer)
    }
    /// Commands that a reset has ended get no answer.
    private func resetHeard() {
        (resetHeardAt, owedResetSince) = (world.trueNow, nil)
        loseAll()
    }
}
