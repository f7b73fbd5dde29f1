import BlockTypes
import CLinux
import Environment
import Glibc

/// The real world for one thread: sockets, disks, timers and clock behind one io_uring.
///
/// Created, run and released on one thread. Other threads hold its ``handle``.
public final class Reactor: Environment {
    /// Lines below this level are not written.
    public var logLevel: LogLevel = .info
    /// Where lines of the log go; standard error unless set.
    public var logSink: (String) -> Void = LogLine.writeToStandardError
    /// The name in lines of the log.
    public var programName: String
    /// What this loop holds at most.
    public let limits: ReactorLimits
    /// The loop as other threads see it.
    public var handle: ReactorHandle { ReactorHandle(inbox: inbox) }

    let ring: Ring
    let staging: StagingBuffers
    let batches = SendBatchPool()
    var faults: CallFaults?
    var connections = SlotTable<SocketConnection>()
    var listeners = SlotTable<SocketListener>()
    var attempts = SlotTable<ConnectAttempt>()
    var acceptedCount = 0
    private(set) var isStopping = false
    let jobs: BlockingJobs

    private let inbox: Inbox
    private var timers = TimerHeap<TimerAction>()
    private var generator = SystemRandomNumberGenerator()
    private var turnNanoseconds: Int64?
    /// When the last turn began.
    private var lastTurnNanoseconds: Int64 = 0
    private var attention: [SocketConnection] = []
    /// Those being attended to; swapped with ``attention``, so that both keep their memory.
    private var attended: [SocketConnection] = []
    private var deferred: [Deferred] = []
    private var signals: SignalWatch?
    private var hasRun = false

    /// A closure by itself as a type's parameter would be wrapped into another one.
    private struct TimerAction { let run: () -> Void }
    private struct Deferred {
        let target: RingTarget
        let kind: UInt8
        let result: Int32
    }

    /// Rounds of follow-up work per turn before the loop looks at the kernel again.
    private static let attentionRoundsMax = 16

    /// A loop for the calling thread.
    /// - Throws: ``ReactorError`` when io_uring is missing, forbidden or too old, saying what to do.
    public init(limits: ReactorLimits = ReactorLimits()) throws(ReactorError) {
        self.limits = limits
        programName = unsafe String(cString: curve_program_name())
        ring = try Ring()
        staging = try StagingBuffers(ring, count: limits.stagingBuffersCount)
        inbox = try Inbox(waitingMax: limits.postedActionsMax)
        jobs = BlockingJobs(inbox)
    }

    // MARK: The clock

    /// Time since boot, read once per turn.
    public var now: Duration { .nanoseconds(nowNanoseconds) }
    /// Wall time.
    public var secondsSince1970: UInt64 { UInt64(max(0, curve_wall_nanoseconds() / 1_000_000_000)) }
    /// 64 bits of the system's generator.
    public func random() -> UInt64 { generator.next() }

    var nowNanoseconds: Int64 { turnNanoseconds ?? curve_boot_nanoseconds() }

    /// Runs `action` once, `delay` from now or a little later.
    @discardableResult public func after(_ delay: Duration, _ action: @escaping () -> Void) -> TimerID {
        let (deadline, overflowed) = nowNanoseconds.addingReportingOverflow(max(0, delay.wholeNanoseconds))
        return TimerID(
            rawValue: timers.set(
                deadline: overflowed ? .max : deadline, isDue: delay == .zero,
                TimerAction(run: action)))
    }
    /// Forgets a timer; harmless when it has fired.
    public func cancel(_ timer: TimerID) {
        let dropped = timers.cancel(timer.rawValue)
        withExtendedLifetime(dropped) {}
    }
    private func forgetTimers() {
        let dropped = timers.removeAll()
        withExtendedLifetime(dropped) {}
    }

    /// Writes one line to ``logSink``.
    public func log(_ level: LogLevel, _ message: @autoclosure () -> String) {
        guard level >= logLevel else { return }
        logSink(
            LogLine.text(
                level: level, program: programName, message: message(),
                wallNanoseconds: curve_wall_nanoseconds()))
    }

    // MARK: The loop

    /// Runs until ``stop()``, then closes what is open: each connection and each connect attempt hears of
    /// it by `.closedHere`, disk requests in flight are completed, timers are forgotten.
    public func run() {
        invariant(!hasRun, "a reactor runs once")
        hasRun = true
        let bell = BellWatch(self, inbox)
        bell.arm()
        while !isStopping { turn() }
        inbox.enter(.draining)
        bell.runPosted()
        windDown(bell)
        inbox.enter(.closed)
    }
    /// Ends ``run()`` after the present turn.
    public func stop() { isStopping = true }

    /// Hands SIGINT, SIGTERM and `others` to `action` on the loop, and makes SIGPIPE harmless. Call it before
    /// any other thread starts: threads inherit that the signals are blocked, and only then they arrive here.
    public func onTerminationSignals(
        and others: [Int32] = [], _ action: @escaping (Int32) -> Void
    ) throws(ReactorError) {
        signals = try SignalWatch(self, [SIGINT, SIGTERM] + others, action)
        signals?.arm()
    }

    private func turn() {
        giveAttention()
        var deadline = timers.nextDeadline
        if isStopping { deadline = min(deadline ?? .max, lastTurnNanoseconds + Self.endWaitNanoseconds) }
        let isDue = if let deadline { deadline <= lastTurnNanoseconds } else { false }
        let count = ring.turn(waits: !isDue && attention.isEmpty && deferred.isEmpty, until: deadline)
        lastTurnNanoseconds = curve_boot_nanoseconds()
        turnNanoseconds = lastTurnNanoseconds
        ring.dispatch(count)
        ring.settle()
        runDeferred()
        fireTimers()
        turnNanoseconds = nil
    }

    private func giveAttention() {
        var rounds = 0
        while !attention.isEmpty, rounds < Self.attentionRoundsMax {
            rounds += 1
            swap(&attended, &attention)
            attended.empty { $0.attend() }
        }
    }
    private func runDeferred() {
        guard !deferred.isEmpty else { return }
        var round: [Deferred] = []
        swap(&round, &deferred)
        for entry in round { entry.target.completed(entry.kind, result: entry.result, flags: 0) }
    }
    private func fireTimers() {
        let mark = timers.orderMark
        while let run = timers.popDue(now: nowNanoseconds, before: mark)?.run { run() }
    }

    /// The connection has something to send, to receive or to end; it is asked at the end of the turn, so
    /// that what one turn produced leaves in one system call.
    func attend(_ connection: SocketConnection) { attention.append(connection) }
    /// Completes an operation that never reached the kernel, in the next turn.
    func complete(_ target: RingTarget, _ kind: UInt8, result: Int32) {
        deferred.append(Deferred(target: target, kind: kind, result: result))
    }
    /// Queues an operation unless a test wants it to fail.
    /// - Parameter fill: gets the entry and how many bytes it may ask for.
    @inline(__always) func submit(
        _ call: SystemCall, _ target: RingTarget, _ kind: UInt8,
        _ fill: (UnsafeMutablePointer<io_uring_sqe>, _ bytesMax: Int) -> Void
    ) {
        var bytesMax = Int.max
        if let faults {
            switch faults.decide(call) {
            case .fail(let errno): return complete(target, kind, result: -errno)
            case .short(let bytes): bytesMax = bytes
            case nil: break
            }
        }
        unsafe ring.submit(target, kind) { unsafe fill($0, bytesMax) }
    }
    /// The errno that a test wants of a call outside the ring.
    func fault(_ call: SystemCall) -> Int32? {
        guard let faults, case .fail(let errno) = faults.decide(call) else { return nil }
        return errno
    }

    // MARK: The end

    /// At the end the loop also looks at its own deadline.
    private static let endWaitNanoseconds: Int64 = 100_000_000
    /// How long the end waits for the kernel, for a disk that hangs for example.
    private static let windDownNanosecondsMax: Int64 = 30_000_000_000

    private func windDown(_ bell: BellWatch) {
        for listener in listeners.elements { listener.close() }
        for attempt in attempts.elements { attempt.abort() }
        for connection in connections.elements { connection.stop() }
        signals?.disarm()
        let start = curve_boot_nanoseconds()
        while ring.inFlight > 0 || !deferred.isEmpty || !attention.isEmpty {
            let spent = curve_boot_nanoseconds() - start
            if spent > limits.lingerMax.wholeNanoseconds {
                for connection in connections.elements { connection.abort(.closedHere) }
            }
            guard spent < Self.windDownNanosecondsMax else {
                log(.error, "\(ring.inFlight) operations did not end; their memory is left to the kernel")
                // SAFETY: never released, because the kernel may still write there.
                _ = unsafe Unmanaged.passRetained(staging)
                return
            }
            if jobs.isIdle, connections.count == 0 { bell.disarm() }
            forgetTimers()
            turn()
        }
        forgetTimers()
        signals = nil  // Its action mostly holds this loop.
        staging.unregister(ring)
    }
}

extension Duration {
    /// Nanoseconds, pinned to what 64 bits hold.
    var wholeNanoseconds: Int64 {
        // Divisions of 128 bits are dear, and most timers of the data path want the end of the turn.
        guard self != .zero else { return 0 }
        let (seconds, attoseconds) = components
        let (scaled, overflowed) = seconds.multipliedReportingOverflow(by: 1_000_000_000)
        guard !overflowed else { return seconds < 0 ? .min : .max }
        let (sum, carried) = scaled.addingReportingOverflow(attoseconds / 1_000_000_000)
        return carried ? (seconds < 0 ? .min : .max) : sum
    }
}
