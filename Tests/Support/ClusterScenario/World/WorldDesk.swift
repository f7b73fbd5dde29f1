import BlockTypes
import ControlMessages
import CurveWire
import Environment
import Simulation

/// Where people sit: asks the metadata server, one question at a time or in passing.
final class WorldDesk {
    private let world: SimWorld
    private let host: SimHost
    private let channel: ControlChannel

    init(_ world: SimWorld, name: String, _ metadataServers: [SocketAddress], pool: BufferPool) {
        self.world = world
        host = world.startHost(on: name)
        channel = ControlChannel(
            environment: host, addresses: metadataServers, hello: Hello(role: .client), pool: pool)
    }
    /// Asks once; nobody repeats it.
    func ask(
        _ body: ControlRequest.OneOf_Body, timeout: Duration = .seconds(5),
        completed: @escaping (Result<ControlResponse, ControlError>) -> Void
    ) {
        channel.call(ControlRequest(body), timeout: timeout, completed: completed)
    }
    /// Asks until there is an answer, and waits for it.
    /// - Returns: `nil` when there is no such thing, or no answer within a minute; ``refusal`` then says what
    ///   was heard last.
    func answer(to body: ControlRequest.OneOf_Body) -> ControlResponse.OneOf_Body? {
        var answer: ControlResponse.OneOf_Body?
        var isInVain = false
        func again() {
            ask(body) { [weak self] result in
                guard let self else { return }
                if case .success(let response) = result { return answer = response.body }
                if case .failure(let error) = result { refusal = "\(error)" }
                if case .failure(.refused(let failure)) = result, failure.code == .notFound {
                    return isInVain = true
                }
                host.after(.milliseconds(100)) { again() }
            }
        }
        again()
        _ = world.run(within: .seconds(60)) { answer != nil || isInVain }
        return answer
    }
    private(set) var refusal = "no answer"
    func close() { channel.close() }
}
