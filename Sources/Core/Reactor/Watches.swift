import BlockTypes
import CLinux
import Glibc

/// Runs what other threads have posted when the bell rings.
final class BellWatch: RingTarget {
    private unowned let reactor: Reactor
    private let bell: Int32
    private let take: () -> [(Reactor) -> Void]
    private var isArmed = false
    private var isDisarmed = false

    init(_ reactor: Reactor, _ inbox: Inbox) {
        self.reactor = reactor
        bell = inbox.bell
        take = inbox.take
    }
    func arm() {
        isArmed = true
        unsafe reactor.ring.submit(self, 0) { unsafe io_uring_prep_poll_multishot($0, bell, UInt32(POLLIN)) }
    }
    func disarm() {
        guard isArmed, !isDisarmed else { return }
        isDisarmed = true
        reactor.ring.cancel(self, 0)
    }
    func runPosted() { for action in take() { action(reactor) } }

    override func completed(_ kind: UInt8, result: Int32, flags: UInt32) {
        isArmed = flags & UInt32(IORING_CQE_F_MORE) != 0
        runPosted()
        if !isArmed, !isDisarmed { arm() }
    }
}

/// Signals as events of the loop.
final class SignalWatch: RingTarget {
    private unowned let reactor: Reactor
    private let descriptor: Int32
    private let action: (Int32) -> Void
    private var isDisarmed = false

    init(_ reactor: Reactor, _ signals: [Int32], _ action: @escaping (Int32) -> Void) throws(ReactorError) {
        (self.reactor, self.action) = (reactor, action)
        signal(SIGPIPE, SIG_IGN)
        var set = sigset_t()
        unsafe sigemptyset(&set)
        for number in signals { unsafe sigaddset(&set, number) }
        unsafe pthread_sigmask(SIG_BLOCK, &set, nil)
        descriptor = unsafe signalfd(-1, &set, Int32(SFD_CLOEXEC | SFD_NONBLOCK))
        super.init()
        guard descriptor >= 0 else { throw .system(errno: errno, call: "signalfd") }
    }
    deinit { if descriptor >= 0 { close(descriptor) } }
    /// Waits for readiness, then reads on this thread: a read inside the ring may run on a kernel thread
    /// (Linux 6.1), which does not see what was sent to this thread alone.
    func arm() {
        unsafe reactor.ring.submit(self, 0) {
            unsafe io_uring_prep_poll_multishot($0, descriptor, UInt32(POLLIN))
        }
    }
    func disarm() {
        isDisarmed = true
        reactor.ring.cancel(self, 0)
    }

    override func completed(_ kind: UInt8, result: Int32, flags: UInt32) {
        var information = signalfd_siginfo()
        let size = MemoryLayout<signalfd_siginfo>.size
        while !isDisarmed, unsafe read(descriptor, &information, size) == size {
            action(Int32(information.ssi_signo))
        }
        if !isDisarmed, flags & UInt32(IORING_CQE_F_MORE) == 0 { arm() }
    }
}
