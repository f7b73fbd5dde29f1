import ControlMessages
import Fuzzing

/// What the package manager's `main` stands for.
@c(curve_fuzz_control_main) public func fuzzMain(_ count: CInt, _ arguments: UnsafeMutableRawPointer?) -> CInt
{
    runFuzzer([FuzzTarget(name: "control", feed: feedControl)], count, arguments)
}

/// Messages of the control protocol, both directions.
private func feedControl(_ input: [UInt8]) {
    var bytes = input
    if bytes.takeByte() % 2 == 0 {
        guard let request = try? ControlRequest(serializedBytes: bytes) else { return }
        let again: [UInt8]? = try? request.serializedBytes()
        require(again != nil, "a request cannot be sent again")
    } else {
        guard let response = try? ControlResponse(serializedBytes: bytes) else { return }
        let again: [UInt8]? = try? response.serializedBytes()
        require(again != nil, "a response cannot be sent again")
    }
}
