import Foundation

/// Where the handler writes to.
// SAFETY: set once, before the handler is installed.
nonisolated(unsafe) private var handlerPipe: Int32 = -1

/// Takes the signals that ask a program to end, from the moment it is started, on a thread that does nothing
/// else.
///
/// A handler, because blocked or ignored signals would stay so in the programs that this one starts.
package enum SignalThread {
    /// What came.
    package struct Signal: Sendable {
        /// SIGINT, SIGTERM or SIGHUP.
        package let number: Int32
        /// True when a terminal sent it: then the processes of its foreground got it too.
        package let isFromTerminal: Bool
    }

    /// Calls `action` on the thread for each signal. One that the program's caller wanted ignored, as nohup
    /// does, stays ignored.
    package static func start(_ action: @escaping @Sendable (Signal) -> Void) {
        var ends: [Int32] = [-1, -1]
        guard pipe(&ends) == 0 else { return }  // Then signals do what they do by default.
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        handlerPipe = ends[1]
        let readEnd = ends[0]
        Thread.detachNewThread {
            var message: [UInt8] = [0, 0]
            while read(readEnd, &message, 2) == 2 {
                action(Signal(number: Int32(message[0]), isFromTerminal: message[1] != 0))
            }
        }
        for number in [SIGINT, SIGTERM, SIGHUP] {
            var handling = sigaction()
            sigaction(number, nil, &handling)
            let isIgnored = unsafeBitCast(handling.__sigaction_handler.sa_handler, to: Int.self) == 1
            guard !isIgnored else { continue }
            handling = sigaction()
            handling.sa_flags = SA_SIGINFO | SA_RESTART
            handling.__sigaction_handler.sa_sigaction = { number, about, _ in
                let before = errno
                var message = (
                    UInt8(truncatingIfNeeded: number),
                    UInt8(about.map { $0.pointee.si_code > 0 } == true ? 1 : 0)
                )
                _ = write(handlerPipe, &message, 2)
                errno = before
            }
            sigaction(number, &handling, nil)
        }
    }
}
