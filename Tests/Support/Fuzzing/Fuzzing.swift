import Glibc

/// One way in for foreign bytes.
public struct FuzzTarget: Sendable {
    let name: String
    /// Feeds one input to the code under test; whatever it finds wrong ends the process.
    let feed: @Sendable ([UInt8]) -> Void

    /// The way in that `feed` stands for.
    public init(name: String, feed: @escaping @Sendable ([UInt8]) -> Void) {
        (self.name, self.feed) = (name, feed)
    }
}

/// libFuzzer's loop; see compiler-rt's FuzzerInterface.h.
@_silgen_name("LLVMFuzzerRunDriver") private func runDriver(
    _ count: UnsafeMutablePointer<CInt>, _ arguments: UnsafeMutablePointer<UnsafeMutableRawPointer?>,
    _ feed: @convention(c) (UnsafePointer<UInt8>?, Int) -> CInt
) -> CInt

/// Set once, before the loop begins: libFuzzer knows one function, and it takes no context.
private nonisolated(unsafe) var feedChosen: @Sendable ([UInt8]) -> Void = { _ in }

/// Runs libFuzzer on the target that `CURVE_FUZZ` names; what the package manager's `main` stands for.
public func runFuzzer(
    _ targets: [FuzzTarget], _ count: CInt, _ arguments: UnsafeMutableRawPointer?
) -> CInt {
    let name = getenv("CURVE_FUZZ").map { String(cString: $0) } ?? ""
    guard let target = (targets + [canary]).first(where: { $0.name == name }) else {
        let names = targets.map(\.name).joined(separator: " ")
        let text = "CURVE_FUZZ must be one of: \(names) canary\n"
        _ = write(STDERR_FILENO, text, text.utf8.count)
        return 2
    }
    feedChosen = target.feed
    var (count, arguments) = (count, arguments)
    return runDriver(&count, &arguments) { start, count in
        feedChosen(Array(UnsafeBufferPointer(start: start, count: count)))
        return 0
    }
}

/// Must be found at fault: if it is not, the fuzzer sees nothing and its silence means nothing.
private let canary = FuzzTarget(name: "canary") { input in
    guard input.count > 3, input[0] == 0x62, input[1] == 0x75, input[2] == 0x67 else { return }
    fatalError("the canary sings")
}

/// Ends the process when the code under test did what it must never do.
public func require(_ holds: Bool, _ what: String) {
    if !holds { fatalError(what) }
}

extension Array where Element == UInt8 {
    /// Takes one byte that steers the test rather than being its input.
    public mutating func takeByte() -> Int { isEmpty ? 0 : Int(removeFirst()) }

    /// Writes `value` little-endian at `offset`.
    public mutating func put(_ value: UInt32, at offset: Int) {
        for byte in 0..<4 { self[offset + byte] = UInt8(truncatingIfNeeded: value >> UInt32(8 * byte)) }
    }
    /// The little-endian number at `offset`.
    public func littleEndian32(at offset: Int) -> Int {
        (0..<4).reduce(0) { $0 | Int(self[offset + $1]) << (8 * $1) }
    }
    /// The first `count` bytes, filled up with zeroes.
    public func filledUp(to count: Int) -> [UInt8] {
        var filled = [UInt8](repeating: 0, count: count)
        let kept = Swift.min(count, self.count)
        filled.replaceSubrange(..<kept, with: self[..<kept])
        return filled
    }
}
