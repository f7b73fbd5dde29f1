import BlockTypes

/// One session: the command window, the commands in it, and its connections.
///
/// The window (RFC 7143, section 4.2.2.1): commands carry CmdSN and are taken in its order, on whichever
/// connection they come. ExpCmdSN is the next one wanted; MaxCmdSN the last one that may be sent, which never
/// goes down: commands under way and numbers still open are never more than ``ISCSILimits/commandsMax``.
final class TargetSession {
    /// What arrived and waits for its turn.
    enum Pending {
        case command(SCSITask)
        case control(PDUHeader, [UInt8], TargetConnection)
        /// Its number counts, and it does nothing: the command was aborted, or its connection is gone.
        case plug
    }
    /// One logout under way, to be answered when its commands have ended.
    struct Leaving {
        let connection: TargetConnection
        let header: PDUHeader
        /// `nil`: the whole session.
        let identifier: UInt16?
    }

    let handle: UInt16
    let nexus: NexusID
    /// `nil`: a discovery session.
    let names: Nexus?
    /// Looks for targets and does nothing else (RFC 7143, section 4.3).
    let isDiscovery: Bool
    /// Of what it logged in to; empty in a discovery session.
    let targetName: String
    let initiatorName: String
    let sessionIdentifier: UInt64
    /// The target that a discovery session named, if it did.
    let discoveryTarget: String?
    /// Who the initiator proved to be.
    let userName: String?
    let limits: ISCSILimits
    /// What is answered with more than "not supported" (RFC 7144, section 4.2: four of them at level 2 only).
    let functions: Set<ManagementFunction>
    var parameters: SessionParameters
    /// The fields of RFC 7144 mean something: command priority, status qualifier, additional response
    /// information.
    var hasLaterFields: Bool { parameters.protocolLevel >= 2 }
    var connections: [TargetConnection] = []
    /// No connection is left; it stays until its commands have ended.
    var isOver = false
    /// A connection is about to join, and waits for commands of the one that it replaces.
    var isAwaited = false

    private(set) var expectedCommandNumber: UInt32
    private(set) var maxCommandNumber: UInt32
    /// The MaxCmdSN that the initiator was told last.
    private var toldCommandNumber: UInt32
    /// By CmdSN modulo the slots, which are as many as the window or more.
    private var pending: [Pending?]
    private var pendingCount = 0

    /// Commands that have a task, in the order in which they came.
    private(set) var tasks: [SCSITask] = []
    /// Their task tags, in the same places: a look through a few hundred is no dearer than a hash.
    private var taskTags: [UInt32] = []
    /// Commands of the window that are in order and have not ended.
    private var windowTasks = 0
    private(set) var immediateTasks = 0
    /// In order, without room yet.
    var queue: [SCSITask] = []
    var inFlightBytes = 0
    /// Ordered commands whose turn in the window has come, and that have not ended: mostly none.
    private(set) var orderedTasks = 0
    var managements: [TaskManagement] = []
    var leaving: [Leaving] = []
    /// What ends with the nexus is ended before its last logout is answered.
    enum Farewell { case none, asked, said }
    var farewell = Farewell.none
    var nextTransferTag: UInt32 = 1
    var fence = ResponseFence()

    init(
        handle: UInt16, nexus: NexusID, names: Nexus?, agreed: AgreedLogin, limits: ISCSILimits
    ) {
        (self.handle, self.nexus, self.names, self.limits) = (handle, nexus, names, limits)
        (isDiscovery, targetName) = (names == nil, names?.targetName ?? "")
        (initiatorName, userName, parameters) = (agreed.initiatorName, agreed.userName, agreed.session)
        (sessionIdentifier, discoveryTarget) = (agreed.sessionIdentifier, agreed.discoveryTarget)
        let isLater = agreed.session.protocolLevel >= 2
        functions = isLater ? Self.basicFunctions.union(Self.laterFunctions) : Self.basicFunctions
        expectedCommandNumber = agreed.firstCommandNumber
        maxCommandNumber = agreed.firstCommandNumber &+ UInt32(limits.commandsMax) &- 1
        toldCommandNumber = maxCommandNumber
        // A power of two, so that numbers that wrap around keep their distance.
        var slots = 1
        while slots < limits.commandsMax { slots *= 2 }
        pending = Array(repeating: nil, count: slots)
    }

    private static let basicFunctions: Set<ManagementFunction> = [
        .abortTask, .abortTaskSet, .clearTaskSet, .logicalUnitReset, .targetWarmReset, .targetColdReset,
    ]
    private static let laterFunctions: Set<ManagementFunction> = [
        .queryTask, .queryTaskSet, .nexusReset, .queryAsynchronousEvent,
    ]

    func task(tagged tag: UInt32) -> SCSITask? { taskTags.firstIndex(of: tag).map { tasks[$0] } }

    /// A tag for an R2T, a ping or a text exchange: not used again for four thousand million others.
    func takeTransferTag() -> UInt32 {
        defer { nextTransferTag = nextTransferTag == reservedTag - 1 ? 1 : nextTransferTag + 1 }
        return nextTransferTag
    }

    // MARK: Window

    /// A number that may come: in the window, and not here already.
    func isWanted(_ number: UInt32) -> Bool {
        guard !precedes(number, expectedCommandNumber), !precedes(maxCommandNumber, number) else {
            return false
        }
        return pendingCount == 0 || pending[slot(number)] == nil
    }
    private func slot(_ number: UInt32) -> Int { Int(number) & (pending.count - 1) }

    /// Puts something in its place. The caller takes what is next with ``nextInOrder()``.
    func hold(_ entry: Pending, at number: UInt32) {
        guard isWanted(number) else { return }
        pending[slot(number)] = entry
        pendingCount += 1
    }
    /// A command whose turn it is needs no place: its number counts as received.
    /// - Returns: false when it is to be held.
    func take(_ task: SCSITask, at number: UInt32) -> Bool {
        guard number == expectedCommandNumber, isWanted(number) else { return false }
        receive(task)
        return true
    }
    private func receive(_ task: SCSITask?) {
        expectedCommandNumber &+= 1
        if let task {
            windowTasks += 1
            task.stage = .waiting
        }
        openWindow()
    }
    /// The next number's entry, if it is here.
    var following: Pending? { pendingCount > 0 ? pending[slot(expectedCommandNumber)] : nil }
    /// What came for the next number was refused: the number is a gap, to be filled by its initiator.
    func refuseFollowing() {
        guard following != nil else { return }
        pending[slot(expectedCommandNumber)] = nil
        pendingCount -= 1
    }
    /// A request without SCSI command that waits for its turn.
    func waitingControl(tagged tag: UInt32) -> PDUHeader? {
        guard pendingCount > 0 else { return nil }
        for case .control(let header, _, _)? in pending where header.taskTag == tag { return header }
        return nil
    }
    /// Takes the next number's entry, if it is here; the number counts as received.
    func nextInOrder() -> Pending? {
        guard let entry = following else { return nil }
        pending[slot(expectedCommandNumber)] = nil
        pendingCount -= 1
        if case .command(let task) = entry { receive(task) } else { receive(nil) }
        return entry
    }
    /// All numbers before `number` count as received; what came for them is dropped.
    /// - Returns: tasks that are dropped with them.
    func plug(before number: UInt32) -> [SCSITask] {
        var dropped: [SCSITask] = []
        while precedes(expectedCommandNumber, number) {
            if let entry = pending[slot(expectedCommandNumber)] {
                pending[slot(expectedCommandNumber)] = nil
                pendingCount -= 1
                if case .command(let task) = entry { dropped.append(task) }
            }
            expectedCommandNumber &+= 1
        }
        openWindow()
        return dropped
    }
    /// What waits for its turn and matches does nothing when its turn comes.
    func plug(where matches: (Pending) -> Bool) {
        for index in pending.indices {
            if let entry = pending[index], matches(entry) { pending[index] = .plug }
        }
    }
    /// The window was opened, and no PDU has told of it yet.
    var hasUntoldWindow: Bool { toldCommandNumber != maxCommandNumber }
    func noteWindowTold() { toldCommandNumber = maxCommandNumber }
    private func openWindow() {
        let open = expectedCommandNumber &+ UInt32(limits.commandsMax - windowTasks) &- 1
        if precedes(maxCommandNumber, open) { maxCommandNumber = open }
    }

    // MARK: Tasks

    /// Forgets what refers to it.
    func forgetAll() {
        (tasks, taskTags, queue) = ([], [], [])
        (pending, pendingCount) = ([], 0)
        (connections, managements, leaving, fence) = ([], [], [], ResponseFence())
    }

    func add(_ task: SCSITask) {
        tasks.append(task)
        taskTags.append(task.taskTag)
        if task.isImmediate { immediateTasks += 1 }
    }
    /// Lets a task wait for room: behind all others, but for simple ones that their initiator gave less
    /// priority (RFC 7144, command priority; SAM-5: 1 is the most). What has none passes nobody, and is not
    /// passed.
    func enqueue(_ task: SCSITask) {
        guard task.attribute != .headOfQueue else { return queue.insert(task, at: 0) }
        var place = queue.count
        if task.hasPriority {
            while place > 0, queue[place - 1].hasPriority, queue[place - 1].priority > task.priority {
                place -= 1
            }
        }
        queue.insert(task, at: place)
    }
    /// The task's answer waits to be sent: it needs no room and no data any more.
    func park(_ task: SCSITask) {
        if let index = queue.firstIndex(where: { $0 === task }) { queue.remove(at: index) }
        endOrdering(task)
        task.stage = .answered
    }
    /// An ordered command keeps others back from now on, until it ends.
    func beginOrdering(_ task: SCSITask) {
        task.isOrdering = true
        orderedTasks += 1
    }
    private func endOrdering(_ task: SCSITask) {
        guard task.isOrdering else { return }
        task.isOrdering = false
        orderedTasks -= 1
    }
    /// Forgets a task; whatever it held is free again.
    func remove(_ task: SCSITask) {
        invariant(task.stage != .ended, "a task ends once")
        // A tag is in use once.
        if let index = taskTags.firstIndex(of: task.taskTag) {
            tasks.remove(at: index)
            taskTags.remove(at: index)
        }
        if task.stage == .waiting, let index = queue.firstIndex(where: { $0 === task }) {
            queue.remove(at: index)
        }
        endOrdering(task)
        if task.isCharged { inFlightBytes -= task.chargeBytes }
        if task.isImmediate {
            immediateTasks -= 1
        } else if task.stage != .arriving {
            windowTasks -= 1
            openWindow()
        }
        task.stage = .ended
        task.dropData()
        task.bursts = []
    }
}
