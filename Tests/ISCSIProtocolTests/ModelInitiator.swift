import BlockTypes
import ISCSIInitiator

/// One command as its initiator knows it.
final class ModelCommand {
    enum Fate { case pending, answered, aborted, lost }
    let tag: UInt32
    let serial: UInt32
    let lun: UInt64
    let block: Int
    let blocks: Int
    let isWrite: Bool
    let length: Int
    let attribute: UInt8
    let isImmediate: Bool
    let number: UInt32
    let connection: UInt64
    let data: [UInt8]
    var fate = Fate.pending
    var isExecuted = false
    /// Data-In that came, and the number of the next one; for writes the number of the next R2T.
    var received: [UInt8] = []
    var nextNumber: UInt32 = 0
    var burstBytes = 0
    /// Where the next R2T must begin.
    var asked = 0
    var openRequests = 0

    init(
        tag: UInt32, serial: UInt32, lun: UInt64, block: Int, blocks: Int, isWrite: Bool, length: Int,
        attribute: UInt8,
        isImmediate: Bool, number: UInt32, connection: UInt64, data: [UInt8]
    ) {
        (self.tag, self.serial, self.lun, self.block, self.blocks) = (tag, serial, lun, block, blocks)
        (self.isWrite, self.length, self.attribute, self.isImmediate) = (
            isWrite, length, attribute, isImmediate
        )
        (self.number, self.connection, self.data) = (number, connection, data)
    }
    /// Bytes that the CDB is about.
    var wantedBytes: Int { blocks * 512 }
    var cdb: [UInt8] {
        [isWrite ? 0x2a : 0x28, 0] + be32(UInt32(block)) + [0] + be16(UInt16(blocks)) + [0] + be32(serial)
    }
}

/// An initiator that keeps to the RFC and judges whether the target does.
final class ModelInitiator {
    struct Link {
        let id: UInt64
        let cid: UInt16
        var listener = PDUListener()
        var expStatSN: UInt32?
        var isReady = false
        var output: [UInt8] = []
    }
    struct Agreed {
        var initialR2T = true, immediateData = true
        var burst = 262_144, firstBurst = 65_536, outstanding = 1, connections = 1
        var targetSegment = 8192
    }
    struct Function {
        let kind: UInt8
        let connection: UInt64
        let affected: [ModelCommand]
    }

    let isid: UInt64
    var links: [Link] = []
    var agreed = Agreed()
    let segment: Int
    let keys: [String]
    let hasHeaderDigest: Bool
    let hasDataDigest: Bool
    var tsih: UInt16 = 0
    var cmdSN: UInt32
    var expCmdSN: UInt32
    var maxCmdSN: UInt32
    var isNew = true
    var commands: [UInt32: ModelCommand] = [:]
    var functions: [UInt32: Function] = [:]
    /// By tag, the connection.
    var pings: [UInt32: UInt64] = [:]
    var nextTag: UInt32 = 1
    var nextCID: UInt16 = 1
    var isLeaving = false
    /// What is heard was sent on a connection that the target has closed since.
    var hearsTheClosed = false
    /// Somebody else's reset may have ended commands of ours without a word.
    var mayVanish = false
    var problems: [String] = []
    var answers = 0
    /// Numbers of lost commands, which may not have arrived.
    var gaps: [UInt32] = []

    init(isid: UInt64, random: inout SeededRandom) {
        self.isid = isid
        func pick<T>(_ values: [T]) -> T { values[Int.random(in: 0..<values.count, using: &random)] }
        segment = pick([512, 1000, 4096, 8192, 65_536])
        (hasHeaderDigest, hasDataDigest) = (random.oneIn(3), random.oneIn(3))
        cmdSN = pick([1, 100, 0xffff_fff0, 0x7fff_fff8])
        (expCmdSN, maxCmdSN) = (cmdSN, cmdSN)
        keys =
            [
                "MaxRecvDataSegmentLength=\(segment)", "InitialR2T=\(pick(["Yes", "No"]))",
                "ImmediateData=\(pick(["Yes", "No"]))",
                "MaxBurstLength=\(pick([512, 3000, 8192, 65_536]))",
                "FirstBurstLength=\(pick([512, 1500, 8192]))",
                "MaxOutstandingR2T=\(pick([1, 2, 4]))", "MaxConnections=\(pick([1, 2, 4]))",
                "iSCSIProtocolLevel=2",
            ] + (hasHeaderDigest ? ["HeaderDigest=CRC32C"] : [])
            + (hasDataDigest ? ["DataDigest=CRC32C"] : [])
    }
    func complain(_ what: String) { if problems.count < 5 { problems.append(what) } }
    func takeTag() -> UInt32 {
        defer { nextTag += 1 }
        return nextTag
    }
    func index(of id: UInt64) -> Int? { links.firstIndex { $0.id == id } }
    var readyLinks: [Int] { links.indices.filter { links[$0].isReady } }
    var wire: Wire { Wire(headerDigest: hasHeaderDigest, dataDigest: hasDataDigest) }
    var hasRoom: Bool { Int32(truncatingIfNeeded: maxCmdSN &- cmdSN) >= 0 }

    // MARK: Speaking

    /// Begins a login: of a new session, or of another connection of this one.
    func logIn(_ id: UInt64, cid: UInt16) {
        links.append(Link(id: id, cid: cid))
        if tsih == 0 { (isNew, expCmdSN, maxCmdSN) = (true, cmdSN, cmdSN) }
        links[links.count - 1].output = Wire.login(
            LoginTests.names + keys, stage: 1, next: 3, isid: isid, tsih: tsih, cid: cid, cmdSN: cmdSN)
    }
    /// Issues a command with as much unsolicited data as it likes.
    func issue(_ command: ModelCommand, on link: Int, random: inout SeededRandom) {
        commands[command.tag] = command
        // It may overtake a function that was sent before on another connection.
        if command.isImmediate,
            functions.values.contains(where: { $0.kind != 1 && $0.connection != command.connection })
        {
            mayVanish = true
        }
        if !command.isImmediate { cmdSN &+= 1 }
        var unasked = 0
        var immediate = 0
        var isFinal = true
        if command.isWrite {
            let most = min(agreed.firstBurst, command.length)
            if agreed.immediateData {
                immediate = Int.random(in: 0...min(most, agreed.targetSegment), using: &random)
            }
            unasked = immediate
            if !agreed.initialR2T, unasked < most, random.oneIn(2) {
                isFinal = false
                unasked = Int.random(in: (unasked + 1)...most, using: &random)
            }
        }
        let statSN = links[link].expStatSN ?? 0
        links[link].output += wire.command(
            tag: command.tag, cdb: command.cdb, lun: command.lun, length: UInt32(command.length),
            cmdSN: command.number,
            expStatSN: statSN, read: !command.isWrite, write: command.isWrite, final: isFinal,
            attribute: command.attribute,
            immediate: command.isImmediate, data: Array(command.data[..<immediate]))
        if !isFinal {
            send(command, from: immediate, to: unasked, transfer: 0xffff_ffff, on: link, random: &random)
        }
        command.asked = unasked
    }
    private func send(
        _ command: ModelCommand, from start: Int, to end: Int, transfer: UInt32, on link: Int,
        random: inout SeededRandom
    ) {
        var (offset, number) = (start, UInt32(0))
        // PDUs without data may come anywhere, and be the one that ends the sequence.
        let endsEmpty = random.oneIn(4)
        var isOver = offset == end
        while !isOver {
            let most = random.oneIn(8) ? 0 : Int.random(in: 1...6000, using: &random)
            let count = min(end - offset, agreed.targetSegment, most)
            isOver = offset + count == end && (count == 0 || !endsEmpty)
            links[link].output += wire.dataOut(
                tag: command.tag, transfer: transfer, number: number, offset: UInt32(offset), final: isOver,
                data: Array(command.data[offset..<(offset + count)]), expStatSN: links[link].expStatSN ?? 0,
                lun: command.lun)
            (offset, number) = (offset + count, number + 1)
        }
    }
    func manage(_ kind: UInt8, on link: Int, lun: UInt64, referenced: ModelCommand? = nil, gap: UInt32? = nil)
    {
        let tag = takeTag()
        let affected = commands.values.filter { command in
            guard command.fate == .pending else { return false }
            if kind == 1 { return command === referenced }
            let isBefore =
                command.isImmediate
                ? command.connection == links[link].id
                : Int32(truncatingIfNeeded: command.number &- cmdSN) < 0
            return isBefore && (kind >= 6 || command.lun == lun)
        }
        // Immediate commands on other connections may have come before, or come behind.
        let isUncertain = commands.values.contains { $0.isImmediate && $0.connection != links[link].id }
        if kind != 1, isUncertain { mayVanish = true }
        functions[tag] = Function(kind: kind, connection: links[link].id, affected: affected)
        // An immediate command has no number of its own (RFC 7143, RefCmdSN of section 11.5).
        let reference = referenced.map { $0.isImmediate ? cmdSN : $0.number } ?? 0
        links[link].output += wire.management(
            kind, tag: tag, referenced: referenced?.tag ?? 0xffff_fff0, lun: referenced?.lun ?? lun,
            cmdSN: cmdSN,
            refCmdSN: gap ?? reference, expStatSN: links[link].expStatSN ?? 0)
    }
    func ping(on link: Int, immediate: Bool, bytes: Int) {
        let tag = takeTag()
        pings[tag] = links[link].id
        links[link].output += wire.nopOut(
            tag: tag, cmdSN: cmdSN, expStatSN: links[link].expStatSN ?? 0, immediate: immediate,
            data: [UInt8](repeating: UInt8(truncatingIfNeeded: tag), count: bytes))
        if !immediate { cmdSN &+= 1 }
    }
    func logOut(on link: Int) {
        isLeaving = true
        links[link].output += wire.logout(0, tag: takeTag(), cid: links[link].cid, cmdSN: cmdSN)
    }

    // MARK: Listening

    func hear(_ bytes: [UInt8], on id: UInt64, random: inout SeededRandom) {
        guard let link = index(of: id) else { return }
        links[link].listener.hear(bytes)
        while let heard = links[link].listener.next() {
            if !links[link].isReady { hearLogin(heard, link) } else { take(heard, link, random: &random) }
        }
        if let broken = links[link].listener.broken { complain(broken) }
    }
    private func hearLogin(_ heard: Heard, _ link: Int) {
        // The session may be gone by the time when a connection wants to join it.
        if heard.opcode == 0x23, heard.half(36) == 0x020a, tsih != 0 { return }
        guard heard.opcode == 0x23, heard.half(36) == 0, heard.flags & 0x83 == 0x83 else {
            return complain("a login was refused: \(heard) \(String(heard.half(36), radix: 16))")
        }
        func value(_ key: String) -> String? {
            heard.text.first { $0.hasPrefix(key + "=") }.map { String($0.dropFirst(key.count + 1)) }
        }
        if tsih == 0 {
            agreed.initialR2T = value("InitialR2T") == "Yes"
            agreed.immediateData = value("ImmediateData") == "Yes"
            agreed.burst = Int(value("MaxBurstLength") ?? "") ?? 0
            agreed.firstBurst = Int(value("FirstBurstLength") ?? "") ?? 0
            if agreed.firstBurst > agreed.burst { complain("FirstBurstLength is above MaxBurstLength") }
            agreed.outstanding = Int(value("MaxOutstandingR2T") ?? "") ?? 0
            agreed.connections = Int(value("MaxConnections") ?? "") ?? 0
            agreed.targetSegment = Int(value("MaxRecvDataSegmentLength") ?? "") ?? 0
            tsih = heard.half(14)
            isNew = false
        } else if tsih != heard.half(14) {
            complain("a login joined another session")
        }
        (expCmdSN, maxCmdSN) = (heard.expCmdSN, heard.maxCmdSN)
        links[link].expStatSN = heard.statSN &+ 1
        links[link].isReady = true
        links[link].listener.wire = wire
    }
    private func take(_ heard: Heard, _ link: Int, random: inout SeededRandom) {
        note(heard)
        judgeStatus(heard, link)
        switch heard.opcode {
        case 0x21: finish(heard)
        case 0x25: takeData(heard)
        case 0x31: takeRequest(heard, link, random: &random)
        case 0x20:
            // One that wants no answer tells of the window, which is noted.
            if heard.tag == 0xffff_ffff, heard.transfer == 0xffff_ffff { break }
            if heard.tag == 0xffff_ffff {
                links[link].output += wire.nopOut(
                    transfer: heard.transfer, cmdSN: cmdSN, expStatSN: links[link].expStatSN ?? 0)
            } else if pings.removeValue(forKey: heard.tag) == nil
                || heard.data.contains(where: { $0 != UInt8(truncatingIfNeeded: heard.tag) })
            {
                complain("an echo that nobody asked for: \(heard)")
            }
        case 0x22: finishFunction(heard)
        case 0x26: if heard.header[2] != 0 || !isLeaving { complain("logout: \(heard)") }
        default: complain("unexpected \(heard)")
        }
    }
    /// Windows only move forward, and never beyond what was sent.
    private func note(_ heard: Heard) {
        guard Int32(truncatingIfNeeded: cmdSN &- heard.expCmdSN) >= 0 else {
            return complain("ExpCmdSN runs ahead")
        }
        if Int32(truncatingIfNeeded: heard.expCmdSN &- expCmdSN) > 0 { expCmdSN = heard.expCmdSN }
        if Int32(truncatingIfNeeded: heard.maxCmdSN &- maxCmdSN) > 0 { maxCmdSN = heard.maxCmdSN }
        if Int32(truncatingIfNeeded: heard.maxCmdSN &- heard.expCmdSN) < -1 {
            complain("a window of less than nothing")
        }
    }
    private func judgeStatus(_ heard: Heard, _ link: Int) {
        let carries: Bool
        switch heard.opcode {
        case 0x25:
            guard heard.carriesStatus else { return }
            carries = true
        case 0x31: carries = false
        case 0x20: carries = heard.tag != 0xffff_ffff
        default: carries = true
        }
        if heard.statSN != links[link].expStatSN {
            complain("StatSN \(heard.statSN), not \(links[link].expStatSN ?? 0): \(heard)")
        }
        if carries { links[link].expStatSN = heard.statSN &+ 1 }
    }
    private func takeData(_ heard: Heard) {
        guard let command = commands[heard.tag], command.fate == .pending, !command.isWrite else {
            // On a connection that ends nobody can know whether an answer or the end of a function comes
            // first.
            return isLeaving || hearsTheClosed ? () : complain("data for nobody: \(heard)")
        }
        if heard.word(36) != command.nextNumber || Int(heard.word(40)) != command.received.count {
            complain("Data-In out of order")
        }
        command.nextNumber += 1
        command.received += heard.data
        command.burstBytes += heard.data.count
        if heard.data.count > segment || command.burstBytes > agreed.burst
            || command.received.count > command.length
        {
            complain("more data than may come")
        }
        if heard.flags & 0x80 != 0 { command.burstBytes = 0 }
        if heard.carriesStatus {
            if heard.flags & 0x80 == 0 { complain("a status before the end") }
            judgeResidual(heard, command)
            end(command)
        }
    }
    private func takeRequest(_ heard: Heard, _ link: Int, random: inout SeededRandom) {
        // A command that was aborted may still be asked for its data; so may one that was forgotten.
        guard let command = commands[heard.tag] else { return }
        guard command.isWrite, command.fate == .pending else {
            return command.fate == .aborted || command.fate == .lost ? () : complain("R2T for nobody")
        }
        let (offset, count) = (Int(heard.word(40)), heard.residual)
        if heard.word(36) != command.nextNumber || offset != command.asked || count == 0
            || count > agreed.burst
            || offset + count > min(command.length, command.wantedBytes)
        {
            complain("a wrong R2T: \(heard) offset \(offset) count \(count)")
        }
        command.nextNumber += 1
        command.asked = offset + count
        send(command, from: offset, to: offset + count, transfer: heard.transfer, on: link, random: &random)
    }
    private func finish(_ heard: Heard) {
        guard let command = commands[heard.tag], command.fate == .pending else {
            return isLeaving || hearsTheClosed ? () : complain("a status for nobody: \(heard)")
        }
        let expected = command.isWrite ? 0 : command.nextNumber
        if heard.word(36) != expected {
            complain("ExpDataSN \(heard.word(36)), not \(expected)")
        }
        if heard.status == 0 { judgeResidual(heard, command) }
        if heard.status != 0 && heard.sense != [0x05, 0x24, 0x00] { complain("wrong sense \(heard.sense)") }
        end(command, status: heard.status)
    }
    private func judgeResidual(_ heard: Heard, _ command: ModelCommand) {
        let difference = command.wantedBytes - command.length
        let flag: UInt8 = difference > 0 ? 4 : difference < 0 ? 2 : 0
        if heard.flags & 6 != flag || heard.residual != abs(difference) {
            complain("a wrong residual \(heard.residual)")
        }
        if !command.isWrite, command.received.count != min(command.length, command.wantedBytes) {
            complain("data is missing")
        }
    }
    /// What the world does when a command ends: unlock its blocks, compare its data.
    var onEnd: (ModelCommand, _ isGood: Bool) -> Void = { _, _ in }

    private func end(_ command: ModelCommand, status: UInt8 = 0) {
        if !command.isExecuted { complain("an answer to what was not carried out") }
        command.fate = .answered
        answers += 1
        commands[command.tag] = nil
        onEnd(command, status == 0)
    }
    private func finishFunction(_ heard: Heard) {
        guard let function = functions.removeValue(forKey: heard.tag) else {
            return complain("a function for nobody")
        }
        let code = heard.header[2]
        guard code == 0 || code == 1 && function.kind == 1 else {
            return complain("function \(function.kind): code \(code)")
        }
        for command in function.affected where command.fate == .pending { forget(command, .aborted) }
    }
    func forget(_ command: ModelCommand, _ fate: ModelCommand.Fate) {
        command.fate = fate
        commands[command.tag] = nil
        onEnd(command, false)
    }
    /// A connection is gone, with all that was under way on it.
    func lose(_ id: UInt64) {
        links.removeAll { $0.id == id }
        let lost = commands.values.filter { $0.connection == id }.sorted { $0.tag < $1.tag }
        for command in lost { forget(command, .lost) }
        for (tag, function) in functions where function.connection == id {
            functions[tag] = nil
            // What it ended on other connections is not told any more.
            if function.kind != 1 { mayVanish = true }
        }
        pings = pings.filter { $0.value != id }
        gaps += lost.filter { !$0.isImmediate }.map(\.number)
    }
    /// The session is gone.
    func startOver() {
        for command in commands.values.sorted(by: { $0.tag < $1.tag }) { forget(command, .lost) }
        gaps = []
        (functions, pings, links, tsih, isLeaving) = ([:], [:], [], 0, false)
    }
}
