import DeviceMapping
import Environment

/// Reads one question from a connection of the daemon's socket, and sends the answer.
final class QuestionReader: ConnectionHandler {
    private let connection: any Connection
    private let environment: any Environment
    private let asked: (DaemonSocket.Question, @escaping (DaemonSocket.Answer) -> Void) -> Void
    private let closed: () -> Void
    private var bytes: [UInt8] = []
    private var timer: TimerID?
    private var wasAsked = false

    /// A question comes at once or never.
    private static let patience = Duration.seconds(10)

    init(
        _ connection: any Connection, _ environment: any Environment,
        asked: @escaping (DaemonSocket.Question, @escaping (DaemonSocket.Answer) -> Void) -> Void,
        closed: @escaping () -> Void
    ) {
        (self.connection, self.environment, self.asked, self.closed) = (
            connection, environment, asked, closed
        )
        timer = environment.after(Self.patience) { connection.close() }
    }
    func connectionReceiveWindow() -> UnsafeMutableRawBufferPointer? { nil }
    func connectionReceived(_ received: UnsafeRawBufferPointer) {
        guard !wasAsked, bytes.count + received.count <= DaemonSocket.textBytesMax else {
            return connection.close()
        }
        bytes += received
        guard bytes.suffix(2) == [0x0A, 0x0A] else { return }
        wasAsked = true
        forgetTimer()
        guard let question = DaemonSocket.Question(parsing: String(decoding: bytes, as: UTF8.self)) else {
            return answer(.failed("the question makes no sense to this version", status: 2))
        }
        asked(question) { [self] in answer($0) }
    }
    private func answer(_ answer: DaemonSocket.Answer) {
        connection.send([.bytes(Array(answer.line.utf8))])
        connection.close()
    }
    private func forgetTimer() {
        if let timer { environment.cancel(timer) }
        timer = nil
    }
    func connectionDrained() {}
    func connectionClosed(_ reason: NetworkError) {
        forgetTimer()
        closed()
    }
}
