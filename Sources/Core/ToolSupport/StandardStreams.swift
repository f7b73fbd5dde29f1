@preconcurrency import Glibc

/// Standard input, output and error, which whoever starts a tool may have closed, or tied to a full disk.
enum StandardStreams {
    /// Puts something in the place of those that are closed: else the next socket that is opened would be
    /// standard output, and be printed to. Using them fails as it did.
    static func hold() {
        for descriptor in [STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO]
        where fcntl(descriptor, F_GETFD) == -1 {
            // The lowest descriptor that is free is this one.
            _ = open("/dev/null", descriptor == STDIN_FILENO ? O_WRONLY : O_RDONLY)
        }
    }
    /// Writes out what was printed.
    /// - Returns: why not all of it could be written.
    static func flushOutput() -> String? {
        errno = 0
        let isWritten = unsafe fflush(stdout) == 0 && ferror(stdout) == 0
        guard !isWritten else { return nil }
        return errno == 0 ? "some of it was lost" : systemWords(errno)
    }
}
