import Foundation

/// One way in for foreign bytes.
struct FuzzTarget: Sendable {
    let name: String
    /// Feeds one input to the code under test; whatever it finds wrong ends the process.
    let feed: @Sendable ([UInt8]) -> Void
}

private let targets = wireTargets + storeTargets + nbdTargets

/// libFuzzer knows one function; which target it stands for is chosen by the environment.
private let chosen: FuzzTarget = {
    let name = ProcessInfo.processInfo.environment["CURVE_FUZZ"] ?? ""
    if let target = targets.first(where: { $0.name == name }) { return target }
    FileHandle.standardError.write(
        Data("CURVE_FUZZ must be one of: \(targets.map(\.name).joined(separator: " "))\n".utf8))
    exit(2)
}()

/// libFuzzer's loop; see compiler-rt's FuzzerInterface.h.
@_silgen_name("LLVMFuzzerRunDriver") private func runDriver(
    _ count: UnsafeMutablePointer<CInt>, _ arguments: UnsafeMutablePointer<UnsafeMutableRawPointer?>,
    _ feed: @convention(c) (UnsafePointer<UInt8>?, Int) -> CInt
) -> CInt

/// What the package manager's `main` stands for.
@c(curve_fuzz_main) public func fuzzMain(_ count: CInt, _ arguments: UnsafeMutableRawPointer?) -> CInt {
    var (count, arguments) = (count, arguments)
    return runDriver(&count, &arguments) { start, count in
        chosen.feed(Array(UnsafeBufferPointer(start: start, count: count)))
        return 0
    }
}

/// Ends the process when the code under test did what it must never do.
func require(_ holds: Bool, _ what: String) {
    if !holds { fatalError(what) }
}

extension Array where Element == UInt8 {
    /// Takes one byte that steers the test rather than being its input.
    mutating func takeByte() -> Int { isEmpty ? 0 : Int(removeFirst()) }

    mutating func put(_ value: UInt32, at offset: Int) {
        for byte in 0..<4 { self[offset + byte] = UInt8(truncatingIfNeeded: value >> UInt32(8 * byte)) }
    }
    func littleEndian32(at offset: Int) -> Int {
        (0..<4).reduce(0) { $0 | Int(self[offset + $1]) << (8 * $1) }
    }
}
