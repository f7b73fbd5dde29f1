import BlockTypes

/// Everything a shell may ask of the world. `Reactor` gives the real one, `Simulation` a seeded one.
///
/// One environment belongs to one thread (a loop). All its calls are made on that thread, and all its
/// callbacks run there, one at a time, never from inside a call that the shell is making.
public protocol Environment: AnyObject {
    /// Time since some start that only this environment knows; never goes back, also counts suspend.
    var now: Duration { get }
    /// Wall time, for what people read and for retention; may jump. Never used to order or to fence.
    var secondsSince1970: UInt64 { get }
    /// 64 random bits.
    func random() -> UInt64
    /// Runs `action` once, `delay` from now or a little later.
    @discardableResult func after(_ delay: Duration, _ action: @escaping () -> Void) -> TimerID
    /// Forgets a timer; harmless when it has fired.
    func cancel(_ timer: TimerID)
    /// Starts accepting connections.
    /// - Throws: ``NetworkError`` that names the address and what to do.
    func listen(on address: SocketAddress, accepted: @escaping (any Connection) -> Void) throws(NetworkError)
        -> any Listener
    /// Connects; `completed` runs once, also after a failure.
    func connect(
        to address: SocketAddress, timeout: Duration,
        completed: @escaping (Result<any Connection, NetworkError>) -> Void)
    /// Writes one line to the log.
    func log(_ level: LogLevel, _ message: @autoclosure () -> String)
}

/// Names a timer of one environment.
public struct TimerID: Hashable, Sendable {
    /// The number.
    public let rawValue: UInt64
    /// Timer `rawValue`.
    public init(rawValue: UInt64) { self.rawValue = rawValue }
}

/// How much a line of the log matters.
public enum LogLevel: Int, Comparable, Sendable {
    case debug, info, notice, warning, error
    /// Order by weight.
    public static func < (a: LogLevel, b: LogLevel) -> Bool { a.rawValue < b.rawValue }
}
