import BlockTypes
import Foundation
import Testing

@testable import ISCSIProtocol

extension ModelWorld {
    private func pick(_ count: Int) -> Int { Int.random(in: 0..<count, using: &random) }

    /// One random thing happens.
    func step() {
        let initiator = initiators[pick(initiators.count)]
        switch pick(100) {
        case ..<30: if !initiator.links.isEmpty { deliverToTarget(initiator, pick(initiator.links.count)) }
        case ..<60:
            if !initiator.links.isEmpty {
                deliver(to: initiator, initiator.links[pick(initiator.links.count)].id)
            }
        case ..<78: if !running.isEmpty { complete(pick(running.count)) }
        case ..<82: completeFunction()
        default: if chaos { decide(initiator) }
        }
    }
    private func completeFunction() {
        if let nexus = leavers.popLast() { act { group.nexusReleased(nexus, effects: &$0) } }
        guard !manages.isEmpty else { return }
        let id = manages.remove(at: pick(manages.count))
        act { group.managed(id, .complete, effects: &$0) }
    }
    private func decide(_ initiator: ModelInitiator) {
        guard !initiator.links.isEmpty else { return connect(initiator) }
        let ready = initiator.readyLinks.filter { !closed.contains(initiator.links[$0].id) }
        guard !ready.isEmpty, !initiator.isLeaving else { return }
        let link = ready[pick(ready.count)]
        switch pick(100) {
        case ..<72: issue(initiator, link)
        case ..<78:
            let isImmediate = initiator.agreed.connections > 1 || allowsDrops || random.oneIn(2)
            if isImmediate || initiator.hasRoom {
                initiator.ping(on: link, immediate: isImmediate, bytes: pick(300))
            }
        case ..<83: if initiator.links.count < initiator.agreed.connections { connect(initiator) }
        case ..<84: if allowsDrops { connect(initiator, cid: initiator.links[link].cid) }
        case ..<89: abortOne(initiator)
        case ..<92:
            initiator.manage(2, on: link, lun: UInt64(pick(2)))
        case ..<94: if allowsResets { reset(initiator, link, [5, 5, 4, 6][pick(4)]) }
        case ..<95: if allowsResets && allowsDrops && random.oneIn(4) { reset(initiator, link, 7) }
        case ..<97: if allowsDrops { drop(initiator, initiator.links[pick(initiator.links.count)].id) }
        case ..<98: if allowsDrops { initiator.logOut(on: link) }
        default:
            if allowsDrops {
                act { group.pingTimeReached(ConnectionID(rawValue: initiator.links[link].id), effects: &$0) }
            }
        }
    }
    private func reset(_ initiator: ModelInitiator, _ link: Int, _ kind: UInt8) {
        for other in initiators where other !== initiator { other.mayVanish = true }
        initiator.manage(kind, on: link, lun: UInt64(pick(2)))
    }
    private func abortOne(_ initiator: ModelInitiator) {
        let all = initiator.commands.values.sorted { $0.tag < $1.tag }
        guard !all.isEmpty else { return }
        let command = all[pick(all.count)]
        guard let link = initiator.index(of: command.connection) else { return }
        initiator.manage(1, on: link, lun: command.lun, referenced: command)
    }
    private func issue(_ initiator: ModelInitiator, _ link: Int) {
        let isImmediate = random.oneIn(15)
        guard isImmediate || initiator.hasRoom,
            !isImmediate || initiator.commands.values.filter(\.isImmediate).count < 8
        else { return }
        let lun = UInt64(pick(2))
        let blocks = random.oneIn(6) ? 1 + pick(40) : 1 + pick(8)
        let block = pick(ModelWorld.blocksPerUnit - blocks + 1)
        guard busy[lun]?.isDisjoint(with: block..<(block + blocks)) == true else { return }
        busy[lun]?.formUnion(block..<(block + blocks))
        let isWrite = random.oneIn(2)
        let length = random.oneIn(5) ? pick(blocks * 1024 + 1) : blocks * 512
        let serial = nextSerial
        nextSerial += 1
        let data = (0..<(isWrite ? length : 0)).map {
            UInt8(truncatingIfNeeded: Int(serial) &* 7 &+ $0 / 512)
        }
        let command = ModelCommand(
            tag: initiator.takeTag(), serial: serial, lun: lun, block: block, blocks: blocks,
            isWrite: isWrite, length: length,
            attribute: [1, 1, 1, 1, 0, 2, 2, 3][pick(8)], isImmediate: isImmediate, number: initiator.cmdSN,
            connection: initiator.links[link].id, data: data)
        owners[serial] = (command, initiator)
        initiator.issue(command, on: link, random: &random)
    }

    /// No more chaos: everything that was begun has to come to an end.
    func settle() {
        chaos = false
        for round in 0..<2 {
            for _ in 0..<400 where !isQuiet { settleOnce() }
            if round == 0 { view = targetsView }
            for initiator in initiators where round == 0 {
                for command in initiator.commands.values.sorted(by: { $0.tag < $1.tag }) {
                    if !initiator.mayVanish {
                        problems.append("command \(command.serial) was never answered")
                    }
                    // What somebody else's reset has ended is found out by asking.
                    guard let link = initiator.index(of: command.connection) else { continue }
                    initiator.manage(1, on: link, lun: command.lun, referenced: command)
                }
            }
        }
        if !isQuiet { problems.append("no end in sight") }
        if view.isEmpty || !isQuiet { view += " at last " + targetsView }
        for initiator in initiators {
            if !initiator.commands.isEmpty || !initiator.functions.isEmpty || !initiator.pings.isEmpty {
                problems.append(
                    "left over: \(initiator.commands.count) commands, \(initiator.functions.count) functions, \(initiator.pings.count) pings"
                )
            }
            problems += initiator.problems
        }
        for initiator in initiators {
            for link in initiator.links { act { group.lost(ConnectionID(rawValue: link.id), effects: &$0) } }
        }
        if !group.sessions.isEmpty || !group.endingSessions.isEmpty || !group.connections.isEmpty
            || !group.waitingLogins.isEmpty
        {
            problems.append("something is left in the portal group")
        }
        if group.taskSlots.contains(where: { $0 != nil }) { problems.append("a task is left") }
    }
    private var isQuiet: Bool {
        running.isEmpty && manages.isEmpty && leavers.isEmpty
            && initiators.allSatisfy { initiator in
                initiator.links.allSatisfy {
                    $0.output.isEmpty && toInitiator[$0.id]?.isEmpty != false && !closed.contains($0.id)
                }
            }
    }
    private func settleOnce() {
        for initiator in initiators {
            for id in initiator.links.map(\.id) {
                deliver(to: initiator, id, all: true)
                if let link = initiator.index(of: id) { deliverToTarget(initiator, link) }
            }
        }
        while !running.isEmpty { complete(0) }
        completeFunction()
    }
}

extension ModelWorld {
    /// What the target thinks, for a failure's message.
    var targetsView: String {
        group.sessions.map { session in
            let tasks = session.tasks.map { "\($0.taskTag):\($0.stage):\($0.bursts.count)" }.joined(
                separator: " ")
            let functions = session.managements.map {
                "\($0.function):\($0.stage):\($0.waitsFor):\($0.commandNumber)"
            }
            return
                "session \(session.handle) next \(session.expectedCommandNumber) max \(session.maxCommandNumber)"
                + " in flight \(session.inFlightBytes) ordered \(session.orderedTasks) queue \(session.queue.count)"
                + " fence \(session.fence.isUp) \(session.fence.functions.count) \(session.fence.held.count) \(fenceView(session.fence)) \(session.connections.map { "\($0.id.rawValue) \($0.queuedSendBytes) \($0.held.count) \($0.statusNumber) \($0.acknowledgedNumber)" })"
                + " tasks \(tasks) functions \(functions)"
        }.joined(separator: "; ")
    }
    private func fenceView(_ fence: ResponseFence) -> String {
        switch fence.phase {
        case .down: "down"
        case .others(let awaited): "others \(awaited.map { "\($0.0.id.rawValue) \($0.0.phase) \($0.1)" })"
        case .own(let connection, let number): "own \(connection.id.rawValue) \(connection.phase) \(number)"
        }
    }
    /// A whole conversation.
    static func run(seed: UInt64) -> ModelWorld {
        let world = ModelWorld(seed: seed)
        for _ in 0..<700 {
            world.step()
            if !world.problems.isEmpty { break }
        }
        if world.problems.isEmpty { world.settle() }
        return world
    }
}

@Suite struct ModelTests {
    /// `CURVE_ISCSI_SEEDS=FROM-TO` tries others.
    static let seeds: Range<UInt64> = {
        let said = ProcessInfo.processInfo.environment["CURVE_ISCSI_SEEDS"]?.split(separator: "-").compactMap
        { UInt64($0) }
        return said.map { $0[0]..<$0[1] } ?? 0..<80
    }()

    @Test("conversations of every kind keep to the RFC from the initiator's side")
    func conversations() {
        var answers = 0
        for seed in Self.seeds {
            let world = ModelWorld.run(seed: seed)
            answers += world.initiators.reduce(0) { $0 + $1.answers }
            #expect(world.problems.isEmpty, "seed \(seed): \(world.problems) \(world.view)")
        }
        #expect(answers >= 5 * Self.seeds.count, "the initiators were idle: \(answers) answers")
    }
}
