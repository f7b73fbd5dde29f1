import BlockTypes
import CLinux

/// Calls that only exist in a blocking form (name lookup, discard on a device), each on a thread of its own.
final class BlockingJobs {
    private let inbox: Inbox
    private var waiting = Fifo<Job>()
    private var runningCount = 0

    private struct Job {
        let work: @Sendable () -> Int32
        let completed: (Int32) -> Void
    }
    /// Threads at once: these calls are rare, and a hanging name server must not collect threads.
    private static let runningMax = 4

    init(_ inbox: Inbox) { self.inbox = inbox }

    var isIdle: Bool { runningCount == 0 && waiting.isEmpty }

    /// Runs `work` elsewhere and then `completed` with its result on the loop.
    func run(_ work: @escaping @Sendable () -> Int32, completed: @escaping (Int32) -> Void) {
        waiting.append(Job(work: work, completed: completed))
        startWaiting()
    }
    private func startWaiting() {
        while runningCount < Self.runningMax, let job = waiting.popFirst() { start(job) }
    }
    private func start(_ job: Job) {
        runningCount += 1
        let reply = JobReply(job.completed)
        let (work, inbox) = (job.work, inbox)
        let thread = startThread(name: "curve-blocking") {
            let result = work()
            _ = inbox.post(isReply: true) { reactor in reactor.jobs.finished(reply, result) }
        }
        switch thread {
        case .success(let thread): pthread_detach(thread)
        case .failure: _ = inbox.post(isReply: true) { $0.jobs.finished(reply, -EAGAIN) }
        }
    }
    private func finished(_ reply: JobReply, _ result: Int32) {
        runningCount -= 1
        reply.completed(result)
        startWaiting()
    }
}

/// What a job's thread carries for the loop without ever looking at it.
private final class JobReply: @unchecked Sendable {
    // SAFETY: made and called on the loop's thread; other threads only pass the reference on.
    let completed: (Int32) -> Void
    init(_ completed: @escaping (Int32) -> Void) { self.completed = completed }
}
