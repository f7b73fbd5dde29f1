import DeviceMapping
import Foundation
import ToolSupport

/// Asks the daemon of this machine's devices, and starts it when there is none.
struct DaemonClient {
    static let logPath = "\(DaemonMark.defaultFolder)/daemon.log"
    private let log: String
    private let logLevel: LogLevelName

    /// Attaching may wait for an election; a daemon that is ending is waited for as well.
    private static let answerSeconds = 120, startTries = 50, startPauseSeconds = 0.2

    init(logPath: String? = nil, logLevel: LogLevelName = .info) {
        (log, self.logLevel) = (logPath ?? Self.logPath, logLevel)
    }

    /// Has a volume mapped.
    /// - Returns: the device.
    func map(_ record: MappingRecord) throws -> String {
        guard geteuid() == 0 || FileManager.default.isWritableFile(atPath: DaemonMark.defaultFolder) else {
            throw ToolError.failed(
                "mapping devices is for root; run it by sudo, with --mds if the MDS is this user's playground"
            )
        }
        try makeFolder(DaemonMark.defaultFolder, for: "the daemons of mapped devices")
        for _ in 0..<Self.startTries {
            if let said = try ask(DaemonSocket.Question("map", record)) { return said }
            do {
                _ = try Background.start(
                    arguments: ["daemon", "--log-level", logLevel.rawValue], logPath: log)
            } catch { throw DeviceName.toolError(error) }
            if let said = try ask(DaemonSocket.Question("adopt", record)) { return said }
            Thread.sleep(forTimeInterval: Self.startPauseSeconds)
        }
        throw ToolError.failed("no daemon could be reached, though one seems to run; see \(log)")
    }
    /// - Returns: `nil` when no daemon runs.
    func ask(_ question: DaemonSocket.Question) throws -> String? {
        do {
            switch try DaemonSocket.ask(question, timeoutSeconds: Self.answerSeconds) {
            case .done(let text): return text
            case .failed(let text, let status): throw ToolError(status: status, description: text)
            case nil: return nil
            }
        } catch { throw (error as? ToolError) ?? DeviceName.toolError(error) }
    }
}
