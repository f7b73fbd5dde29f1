import BlockTypes
import CLinux
import Glibc

/// Something that the kernel works for. The kernel holds one reference for each operation in flight, so
/// memory that the object owns stays valid until the kernel is done with it.
class RingTarget {
    /// One operation ended.
    /// - Parameters:
    ///   - kind: what the submitter called the operation, 0...15.
    ///   - result: what the system call would have returned, or -errno.
    ///   - flags: `IORING_CQE_F_*`.
    func completed(_ kind: UInt8, result: Int32, flags: UInt32) {
        invariant(false, "nobody takes completion \(kind)")
    }
    /// Every silent operation that was submitted before now is over. What went wrong has been told by
    /// ``completed(_:result:flags:)``; what said nothing was done as a whole.
    func settled() {}
}

/// One io_uring, created, used and closed on one thread.
@safe final class Ring {
    // SAFETY: allocated in init, freed in deinit, never leave the owning thread.
    private let ring: UnsafeMutablePointer<io_uring>
    private let batch: UnsafeMutablePointer<UnsafeMutablePointer<io_uring_cqe>?>
    private let taken: UnsafeMutablePointer<Completion>
    private let alarmTime: UnsafeMutablePointer<__kernel_timespec>
    /// Operations that the kernel has not answered.
    private(set) var inFlight = 0

    /// Those who have silent operations: queued since the last turn, and seen by the kernel since.
    private var silent: [RingTarget] = []
    private var unsettled: [RingTarget] = []
    /// The last turn may have left completions unread.
    private var hasUnread = false
    /// When the kernel wakes this thread at the latest, on the clock of boot; `nil`: only for news.
    private var alarm: Int64?

    private struct Completion {
        var token: UInt64
        var result: Int32
        var flags: UInt32
    }
    /// Entries of the submission queue: when more is to be done in one turn, it costs one more system call.
    private static let entries: UInt32 = 512
    /// Entries of the completion queue; what does not fit waits inside the kernel.
    private static let completions: UInt32 = 4096
    /// Completions acted on per turn, so that timers and sends get their turn too.
    private static let batchMax = 256
    /// Swift objects are 16-byte aligned, which leaves this part of a token for the kind.
    private static let kindMask: UInt64 = 15
    /// Kinds with this bit are silent: the kernel reports them only when they fail or fall short. Such an
    /// operation must be one that never waits (for a send: `MSG_DONTWAIT`, and `MSG_WAITALL` so that less
    /// than everything counts as a failure): it is over when the turn that submitted it returns.
    static let silentBit: UInt8 = 8
    /// The token of operations whose outcome interests nobody.
    private static let nobody: UInt64 = 0
    /// The token of the alarm: no object has this address.
    private static let alarmToken: UInt64 = kindMask + 1

    init() throws(ReactorError) {
        let ring = UnsafeMutablePointer<io_uring>.allocate(capacity: 1)
        var params = io_uring_params()
        params.flags =
            IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_COOP_TASKRUN
            | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_SUBMIT_ALL
        params.cq_entries = Self.completions
        let code = unsafe io_uring_queue_init_params(Self.entries, ring, &params)
        guard code == 0 else {
            unsafe ring.deallocate()
            throw ReactorError(creatingRing: -code)
        }
        unsafe io_uring_register_ring_fd(ring)  // Only saves time; without it all works the same.
        unsafe self.ring = ring
        unsafe batch = .allocate(capacity: Self.batchMax)
        unsafe taken = .allocate(capacity: Self.batchMax)
        unsafe alarmTime = .allocate(capacity: 1)
    }
    deinit {
        unsafe io_uring_queue_exit(ring)
        unsafe ring.deallocate()
        unsafe batch.deallocate()
        unsafe taken.deallocate()
        unsafe alarmTime.deallocate()
    }

    /// Queues an operation; the kernel sees it at the next ``turn(waits:until:)``.
    @inline(__always) func submit(
        _ target: RingTarget, _ kind: UInt8, _ fill: (UnsafeMutablePointer<io_uring_sqe>) -> Void
    ) {
        let entry = unsafe nextEntry()
        unsafe fill(entry)
        let reference: UnsafeMutableRawPointer
        if kind & Self.silentBit != 0 {
            unsafe curve_sqe_skip_success(entry)
            silent.append(target)
            unsafe reference = Unmanaged.passUnretained(target).toOpaque()
        } else {
            unsafe reference = Unmanaged.passRetained(target).toOpaque()
        }
        let token = UInt64(UInt(bitPattern: reference))
        invariant(token & Self.kindMask == 0 && UInt64(kind) <= Self.kindMask, "a token holds a small kind")
        unsafe io_uring_sqe_set_data64(entry, token | UInt64(kind))
        inFlight += 1
    }
    /// Asks the kernel to give up an operation. It still completes, once, mostly with -ECANCELED.
    func cancel(_ target: RingTarget, _ kind: UInt8) {
        let entry = unsafe nextEntry()
        let token = UInt64(UInt(bitPattern: unsafe Unmanaged.passUnretained(target).toOpaque()))
        unsafe io_uring_prep_cancel64(entry, token | UInt64(kind), 0)
        unsafe io_uring_sqe_set_data64(entry, Self.nobody)
    }
    private func nextEntry() -> UnsafeMutablePointer<io_uring_sqe> {
        while true {
            if let entry = unsafe io_uring_get_sqe(ring) { return unsafe entry }
            unsafe io_uring_submit(ring)
        }
    }

    /// Submits what is queued, waits for a completion, and takes what has completed.
    /// - Parameters:
    ///   - waits: whether to wait at all.
    ///   - deadline: when to wait no longer, in nanoseconds since boot; `nil`: for ever.
    /// - Returns: how many completions ``dispatch(_:)`` should act on.
    func turn(waits: Bool, until deadline: Int64?) -> Int {
        if waits, unsettled.isEmpty, unsafe io_uring_cq_ready(ring) == 0 {
            if let deadline { setAlarm(deadline) }
            unsafe io_uring_submit_and_wait(ring, 1)
        } else {
            unsafe io_uring_submit_and_get_events(ring)
        }
        // Errors (-EINTR, -EBUSY) need nothing: whatever has not happened happens at the next turn.
        let count = Int(unsafe io_uring_peek_batch_cqe(ring, batch, UInt32(Self.batchMax)))
        for index in 0..<count {
            guard let entry = unsafe batch[index] else { continue }
            unsafe taken[index] = unsafe Completion(
                token: entry.pointee.user_data, result: entry.pointee.res, flags: entry.pointee.flags)
        }
        unsafe io_uring_cq_advance(ring, UInt32(count))
        hasUnread = count == Self.batchMax
        if unsafe io_uring_sq_ready(ring) == 0 {
            if unsettled.isEmpty {
                swap(&unsettled, &silent)
            } else {
                unsettled += silent
                silent.removeAll(keepingCapacity: true)
            }
        }
        return count
    }
    /// One timer of the kernel for many waits: most deadlines are given up or put off before they come, and
    /// to set and clear a timer for each wait is dear. One that rings too early costs one turn.
    private func setAlarm(_ deadline: Int64) {
        if let alarm, alarm <= deadline { return }
        unsafe alarmTime.pointee = __kernel_timespec(
            tv_sec: deadline / 1_000_000_000, tv_nsec: deadline % 1_000_000_000)
        let absolute = UInt32(IORING_TIMEOUT_ABS)
        let entry = unsafe nextEntry()
        if alarm == nil {
            unsafe io_uring_prep_timeout(entry, alarmTime, 0, absolute | UInt32(IORING_TIMEOUT_BOOTTIME))
            unsafe io_uring_sqe_set_data64(entry, Self.alarmToken)
        } else {
            // It keeps its clock. If it has just rung, this turn tells so, and the next one sets it anew.
            unsafe io_uring_prep_timeout_update(entry, alarmTime, Self.alarmToken, absolute)
            unsafe io_uring_sqe_set_data64(entry, Self.nobody)
        }
        alarm = deadline
    }
    /// Tells the targets of the last ``turn(waits:until:)`` what came out.
    func dispatch(_ count: Int) {
        for index in 0..<count {
            let completion = unsafe taken[index]
            if completion.token == Self.alarmToken { alarm = nil }
            guard completion.token > Self.alarmToken,
                let raw = unsafe UnsafeRawPointer(bitPattern: UInt(completion.token & ~Self.kindMask))
            else { continue }
            // SAFETY: the token is the reference that `submit` retained; an operation that goes on keeps it,
            // as `unsettled` keeps that of a silent one.
            let reference = unsafe Unmanaged<RingTarget>.fromOpaque(raw)
            let goesOn =
                completion.flags & UInt32(IORING_CQE_F_MORE) != 0
                || completion.token & UInt64(Self.silentBit) != 0
            if !goesOn { inFlight -= 1 }
            unsafe reference._withUnsafeGuaranteedRef {
                $0.completed(
                    UInt8(completion.token & Self.kindMask), result: completion.result,
                    flags: completion.flags)
            }
            if !goesOn { unsafe reference.release() }
        }
    }

    /// Tells those whose silent operations are over by now. To be called after ``dispatch(_:)``.
    func settle() {
        guard !hasUnread, silent.isEmpty, !unsettled.isEmpty else { return }
        inFlight -= unsettled.count
        unsettled.empty { $0.settled() }
    }

    /// Registers memory from which the kernel picks a buffer when data arrives.
    func register(_ request: inout io_uring_buf_reg) -> Int32 {
        unsafe io_uring_register_buf_ring(ring, &request, 0)
    }
    /// Ends ``register(_:)``.
    func unregisterBuffers(group: Int32) { unsafe io_uring_unregister_buf_ring(ring, group) }
}
