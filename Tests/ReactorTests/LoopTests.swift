import BlockTypes
import Environment
import Glibc
import Testing

@testable import Reactor

@Suite("The loop") struct LoopTests {
    @Test("timers fire by deadline, then by the order in which they were set; a cancelled one never")
    func timers() throws {
        var fired: [String] = []
        try onLoop { reactor in
            reactor.after(.milliseconds(20)) {
                fired.append("second")
                reactor.after(.zero) { reactor.stop() }
            }
            reactor.after(.milliseconds(10)) { fired.append("first") }
            let cancelled = reactor.after(.milliseconds(5)) { fired.append("never") }
            reactor.after(.zero) {
                fired.append("now")
                reactor.cancel(cancelled)
                reactor.after(.zero) { fired.append("next turn") }
            }
            reactor.after(.milliseconds(-5)) { fired.append("now too") }
            reactor.after(.seconds(1 << 40)) { fired.append("far away") }
        }
        #expect(fired.prefix(2) == ["now", "now too"])
        // On a slow machine all of them may be due in the first turn.
        #expect(fired.filter { $0 != "next turn" } == ["now", "now too", "first", "second"])
        #expect(fired.count { $0 == "next turn" } == 1)
    }

    @Test("the heap keeps order and names under any mix of setting, cancelling and firing", arguments: 0..<50)
    func heap(seed: Int) {
        var random = SeededRandom(seed: UInt64(seed))
        var heap = TimerHeap<Int>()
        var model: [(deadline: Int64, number: Int, name: UInt64)] = []
        var oldNames: [UInt64] = []
        var clock: Int64 = 0
        for number in 0..<400 {
            switch Int.random(in: 0..<5, using: &random) {
            case 4:
                clock += Int64.random(in: 0...1, using: &random)
                model.append((clock, number, heap.set(deadline: clock, isDue: true, number)))
            case 0, 1:
                let deadline = Int64.random(in: 0..<100, using: &random)
                model.append((deadline, number, heap.set(deadline: deadline, number)))
            case 2 where !model.isEmpty:
                let victim = model.remove(at: Int.random(in: 0..<model.count, using: &random))
                let wasCancelled = heap.cancel(victim.name) != nil
                #expect(wasCancelled)
                oldNames.append(victim.name)
            default:
                let now = Int64.random(in: 0..<60, using: &random)
                let first = model.min { ($0.deadline, $0.number) < ($1.deadline, $1.number) }
                let due = first.flatMap { $0.deadline <= now ? $0 : nil }
                let popped = heap.popDue(now: now, before: .max)
                #expect(popped == due?.number)
                if let due {
                    model.removeAll { $0.number == due.number }
                    oldNames.append(due.name)
                }
            }
            let wronglyCancelled = oldNames.filter { heap.cancel($0) != nil }
            #expect(wronglyCancelled.isEmpty, "an old name cancels nothing")
            #expect(heap.count == model.count)
            #expect(heap.nextDeadline == model.map(\.deadline).min())
        }
    }

    @Test("a timer that is set while the loop waits for a later one is not late")
    func earlierTimer() throws {
        try onLoop { reactor in
            // The first wait is for the story's end, a minute away, and this ends it.
            let isPosted = reactor.handle.post { reactor in
                reactor.after(.milliseconds(5)) { reactor.stop() }
            }
            #expect(isPosted)
        }
    }

    @Test("time stands still within a turn and never goes back")
    func time() throws {
        try onLoop { reactor in
            reactor.after(.milliseconds(1)) {
                let first = reactor.now
                for _ in 0..<100_000 { _ = reactor.random() }
                #expect(reactor.now == first)
                reactor.after(.milliseconds(1)) {
                    #expect(reactor.now >= first + .milliseconds(1))
                    reactor.stop()
                }
            }
        }
    }

    @Test("what other threads post runs on the loop, in their order, also while it stops")
    func posting() throws {
        let thread = try ReactorThread(name: "loop-under-test")
        let seen = Shared<[Int]>([])
        let posted = (0..<1000).allSatisfy { number in thread.post { _ in seen.change { $0.append(number) } }
        }
        let stopped = thread.post { reactor in reactor.stop() }
        let isLate = thread.post { _ in seen.change { $0.append(-1) } }
        thread.join()
        #expect(posted && stopped)
        #expect(seen.value == Array(0..<1000) + (isLate ? [-1] : []))
        let afterTheEnd = thread.post { _ in }
        #expect(!afterTheEnd, "refused after the end")
        thread.stop()
        thread.join()
    }

    @Test("a full inbox refuses")
    func fullInbox() throws {
        var limits = ReactorLimits()
        limits.postedActionsMax = 3
        let ran = Shared(0)
        try onLoop(limits: limits) { reactor in
            let posts = (0..<5).map { _ in reactor.handle.post { _ in ran.change { $0 += 1 } } }
            #expect(posts == [true, true, true, false, false])
            reactor.handle.stop()
        }
        #expect(ran.value == 3)
    }

    @Test("what is set up on the new thread serves others")
    func setUp() throws {
        let address = Shared<SocketAddress?>(nil)
        let server = try ReactorThread(name: "server") { reactor in
            let listener = try? reactor.listen(on: anyPort) { $0.handler = EchoHandler($0) }
            address.change { $0 = listener?.address }
        }
        while address.value == nil { sched_yield() }
        let target = try #require(address.value)
        try onLoop { reactor in
            reactor.dial(target) { connection in
                let handler = Recorder()
                handler.received = { _ in reactor.stop() }
                connection.handler = handler
                connection.send([.bytes([1])])
            }
        }
        server.stop()
        server.join()
    }

    @Test("SIGTERM arrives on the loop")
    func signals() throws {
        var got: [Int32] = []
        try onLoop { reactor in
            try reactor.onTerminationSignals { number in
                got.append(number)
                reactor.stop()
            }
            // To this thread alone: the others of the test process have not blocked it.
            reactor.after(.zero) { pthread_kill(pthread_self(), SIGTERM) }
        }
        #expect(got == [SIGTERM])
    }

    @Test("a line of the log: UTC time, level, program, message; no control characters, no endless text")
    func logLine() throws {
        let leapDay: Int64 = 1_709_210_096_789_000_000  // 2024-02-29T12:34:56.789Z
        #expect(
            LogLine.text(
                level: .warning, program: "curve", message: "a\nb\u{1b}[1m", wallNanoseconds: leapDay)
                == "2024-02-29T12:34:56.789Z warning curve: a\\nb\\u{1b}[1m")
        #expect(LogLine.timestamp(0) == "1970-01-01T00:00:00.000Z")
        #expect(LogLine.timestamp(4_102_444_799_999_000_000) == "2099-12-31T23:59:59.999Z")
        #expect(LogLine.clean(String(repeating: "x", count: 100_000)).utf8.count < 9000)
    }

    @Test("lines below the level are not even made")
    func logLevel() throws {
        var lines: [String] = []
        try onLoop { reactor in
            reactor.programName = "test"
            reactor.logLevel = .notice
            reactor.logSink = { lines.append($0) }
            func expensive() -> String {
                Issue.record("made a line that nobody reads")
                return ""
            }
            reactor.log(.info, expensive())
            reactor.log(.notice, "ready")
            reactor.stop()
        }
        #expect(lines.count == 1 && lines[0].hasSuffix("Z notice test: ready"))
    }

    @Test("a loop that has ended leaves nothing behind")
    func nothingLeft() throws {
        weak var loop: Reactor?
        weak var accepted: SocketConnection?
        weak var dialled: SocketConnection?
        weak var handler: EchoHandler?
        try onLoop { reactor in
            loop = reactor
            try reactor.onTerminationSignals { _ in reactor.stop() }
            let listener = try reactor.listen(on: anyPort) { connection in
                accepted = connection as? SocketConnection
                let echo = EchoHandler(connection)
                handler = echo
                connection.handler = echo
            }
            reactor.dial(listener.address) { connection in
                dialled = connection as? SocketConnection
                let recorder = Recorder()
                recorder.received = { _ in reactor.stop() }
                connection.handler = recorder
                connection.send([.bytes([1])])
                reactor.after(.seconds(30)) { connection.close() }
            }
        }
        #expect(loop == nil && accepted == nil && dialled == nil && handler == nil)
    }

    @Test("the process may open as many files as it is allowed to")
    func descriptorLimit() {
        let allowed = Reactor.raiseDescriptorLimit()
        #expect(allowed > 0 && allowed == Reactor.raiseDescriptorLimit())
    }

    @Test("an error of starting says what is wrong and what to do")
    func errors() {
        #expect("\(ReactorError.forbidden(sysctl: 2))".contains("sysctl kernel.io_uring_disabled=0"))
        #expect("\(ReactorError.forbidden(sysctl: 0))".contains("seccomp"))
        #expect("\(ReactorError(creatingRing: EINVAL))".contains("6.1"))
        #expect("\(ReactorError(creatingRing: ENOSYS))".contains("CONFIG_IO_URING"))
        #expect("\(ReactorError(creatingRing: ENOMEM))".contains("ulimit -l"))
    }

    @Test("first in, first out, whatever the mix", arguments: UInt64(0)..<20)
    func fifo(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        var (fifo, model, next) = (Fifo<Int>(), [Int](), 0)
        for _ in 0..<2000 {
            if Int.random(in: 0..<100, using: &random) < (seed % 2 == 0 ? 55 : 45) {
                fifo.append(next)
                model.append(next)
                next += 1
            } else {
                let popped = fifo.popFirst()
                #expect(popped == (model.isEmpty ? nil : model.removeFirst()))
            }
            #expect(fifo.count == model.count && fifo.first == model.first && fifo.isEmpty == model.isEmpty)
        }
    }
}
