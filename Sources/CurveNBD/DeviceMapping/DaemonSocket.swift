import Glibc

/// The daemon's ear: a Unix socket for one question and one answer a connection.
///
/// A question is a verb and, behind it, a record; an empty line ends it. The answer is one line: `ok TEXT`,
/// or `error STATUS TEXT`.
public enum DaemonSocket {
    /// Where the daemon of this machine listens.
    public static let path = "\(DaemonMark.defaultFolder)/control.sock"
    /// Longest question and longest answer.
    public static let textBytesMax = 64 << 10

    /// What a daemon was asked.
    public struct Question: Hashable, Sendable {
        /// `map`, `adopt`, `status`, `upgrade`.
        public var verb: String
        /// What `map` and `adopt` are about.
        public var record: MappingRecord?
        /// A question of this verb.
        public init(_ verb: String, _ record: MappingRecord? = nil) {
            (self.verb, self.record) = (verb, record)
        }

        var text: String { "\(verb)\n\(record?.text ?? "")\n" }
        /// Reads a whole question.
        /// - Returns: `nil` when it makes no sense.
        public init?(parsing text: String) {
            let parts = text.split(separator: "\n", maxSplits: 1, omittingEmptySubsequences: false)
            guard let verb = parts.first, !verb.isEmpty, parts.count == 2 else { return nil }
            self.verb = String(verb)
            let rest = String(parts[1])
            guard rest != "\n", !rest.isEmpty else { return }
            guard let record = MappingRecord(rest) else { return nil }
            self.record = record
        }
    }
    /// What it said.
    public enum Answer: Hashable, Sendable {
        /// Done, with what there is to print.
        case done(String)
        /// Not done, with the exit status that fits.
        case failed(String, status: Int32)

        /// The line on the wire.
        public var line: String {
            switch self {
            case .done(let text): "ok \(text)\n"
            case .failed(let text, let status): "error \(status) \(text.replacing("\n", with: " "))\n"
            }
        }
        init?(_ line: String) {
            let words = line.split(separator: " ", maxSplits: 2, omittingEmptySubsequences: false)
            if words.first == "ok" {
                self = .done(String(line.dropFirst(3)))
            } else if words.count == 3, words[0] == "error", let status = Int32(words[1]) {
                self = .failed(String(words[2]), status: status)
            } else {
                return nil
            }
        }
    }

    /// Asks the daemon and waits for its answer. Blocks.
    /// - Returns: `nil` when no daemon listens, or when it ended before it had answered.
    public static func ask(
        _ question: Question, timeoutSeconds: Int, at path: String = path
    ) throws(DeviceError) -> Answer? {
        let descriptor: Int32
        do throws(DeviceError) {
            descriptor = try ServerSocket.connected(to: path, stepSeconds: timeoutSeconds)
        } catch .system(_, ENOENT), .system(_, ECONNREFUSED) { return nil }
        defer { close(descriptor) }
        let bytes = Array(question.text.utf8)
        let sent = unsafe send(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL))
        guard sent == bytes.count else { return nil }
        var (said, piece) = ([UInt8](), [UInt8](repeating: 0, count: 4096))
        while said.count < textBytesMax, !said.contains(0x0A) {
            let count = unsafe piece.withUnsafeMutableBytes {
                unsafe recv(descriptor, $0.baseAddress, $0.count, 0)
            }
            if count < 0, errno == EINTR { continue }
            if count < 0, errno == EAGAIN {
                throw .daemon("the daemon has not answered for \(timeoutSeconds) s", status: 2)
            }
            guard count > 0 else { break }
            said += piece[..<count]
        }
        guard let end = said.firstIndex(of: 0x0A) else { return nil }
        return Answer(String(decoding: said[..<end], as: UTF8.self))
    }
}
