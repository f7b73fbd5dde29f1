/// One operation on one register, as its client saw it.
///
/// Times are places in the order of all invocations and answers: a counter, never the same twice, from 1.
public struct RegisterOperation: Hashable, Sendable {
    /// What was asked.
    public enum Kind: Hashable, Sendable { case read, write }
    /// Read or write.
    public let kind: Kind
    /// What was read, or what was to be written. 0 is what every register holds at first.
    public let value: UInt64
    /// When it was asked.
    public let start: UInt64
    /// When it was answered; ``never`` for a write whose outcome nobody knows.
    public let finish: UInt64
    /// False for a write that may not have happened at all; if it has, then before ``finish``.
    public let isCertain: Bool

    /// No answer, or one that leaves the outcome open: the write may take effect at any later time, or never.
    public static let never = UInt64.max

    /// An operation; a read without an answer says nothing and must be left out.
    public init(_ kind: Kind, _ value: UInt64, start: UInt64, finish: UInt64, isCertain: Bool = true) {
        precondition(start > 0 && start < finish, "an operation takes time")
        precondition(isCertain || kind == .write, "a read that is not certain says nothing")
        self.isCertain = isCertain && finish != Self.never
        (self.kind, self.value, self.start, self.finish) = (kind, value, start, finish)
    }
}

extension RegisterOperation {
    /// The same, with another value that nobody reads either.
    func writing(_ value: UInt64) -> RegisterOperation {
        RegisterOperation(kind, value, start: start, finish: finish, isCertain: isCertain)
    }
}

/// Why a history cannot have come from a register that changes once per write, at one moment.
public struct RegisterViolation: Hashable, Sendable, CustomStringConvertible {
    /// The kinds of impossible history.
    public enum Cause: Hashable, Sendable {
        /// A read returned what nobody wrote.
        case unknownValue
        /// A read was answered before the write of its value was asked for.
        case readBeforeWrite
        /// Two values must each have been there throughout times that overlap.
        case overlappingValues
        /// A value must have come and gone while another was there throughout.
        case valueInsideAnother
        /// No order of the operations explains the reads of zero.
        case noOrder
    }
    /// What is impossible.
    public let cause: Cause
    /// The values it is about.
    public let values: [UInt64]
    /// Where to look: a place in the order of events.
    public let at: UInt64
    /// One line for a person.
    public var description: String {
        let shown = values.map { "0x" + String($0, radix: 16) }.joined(separator: ", ")
        return switch cause {
        case .unknownValue: "read \(shown), which nobody wrote, at event \(at)"
        case .readBeforeWrite: "read \(shown) before it was written, at event \(at)"
        case .overlappingValues: "values \(shown) were both there around event \(at)"
        case .valueInsideAnother: "value \(shown) came and went inside another's time around event \(at)"
        case .noOrder: "no order of operations explains \(shown) read at event \(at)"
        }
    }
}

/// How a check ended.
public enum RegisterVerdict: Hashable, Sendable {
    /// Some order of the operations explains every read.
    case linearizable
    /// None does.
    case violated(RegisterViolation)
    /// Too many open operations at once to decide within the limit.
    case undecided
}

/// Judges one register's history.
///
/// Every non-zero value is written at most once; zero may be written again and again (trim, write zeroes).
/// - Parameter statesMax: how many states the search may visit, when zero makes a search necessary.
public func checkRegister(_ operations: [RegisterOperation], statesMax: Int = 30_000) -> RegisterVerdict {
    // The usual case first: all that was written is done, and none of it is zero.
    guard operations.contains(where: { $0.kind == .write && ($0.value == 0 || !$0.isCertain) }) else {
        return checkZones(operations)
    }
    // A write that nobody saw and nobody promised may be taken as never done: it constrains nothing.
    let readValues = Set(operations.lazy.filter { $0.kind == .read }.map(\.value))
    let relevant = operations.filter {
        $0.kind == .read || $0.isCertain || readValues.contains($0.value)
    }
    let writesZero = relevant.contains { $0.kind == .write && $0.value == 0 }
    guard writesZero else { return checkZones(relevant) }
    // Zeroes that nobody saw are as good as values that are written once.
    guard readValues.contains(0) else {
        return checkZones(
            relevant.enumerated().map { $1.value == 0 ? $1.writing(UInt64.max - UInt64($0)) : $1 })
    }
    return searchOrders(relevant, readValues: readValues, statesMax: statesMax)
}
