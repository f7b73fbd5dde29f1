import ArgumentParser
import ControlMessages
import CurveWire
import BlockTypes
import Environment
import Foundation
import Reactor

/// Where the MDS is: an option every verb has.
package struct MetadataOptions: ParsableArguments {
    @Option(
        help: """
            Address of the MDS, host:port, or of several with commas between: the one that leads is found \
            (default: CURVE_MDS, else the playground of this user).
            """)
    package var mds: String?

    package init() {}

    package func servers() throws -> MetadataServerList {
        let text: String
        if let mds {
            text = mds
        } else if let fromEnvironment = ProcessInfo.processInfo.environment["CURVE_MDS"] {
            text = fromEnvironment
        } else if let known = PlaygroundFolder.standard.knownMetadataAddress {
            text = known
        } else {
            throw ToolError.notFound(
                "no MDS is known; start one with 'curve playground up', or name it with --mds HOST:PORT")
        }
        return try MetadataServerList(forTool: text)
    }
}

extension MetadataServerList {
    /// Reads a list for somebody at a terminal.
    package init(forTool text: String) throws {
        do throws(MetadataServerListError) {
            try self.init(text)
        } catch {
            throw ToolError.failed("\(error)")
        }
    }
}

/// One question to the MDS and its answer, for a tool that has nothing else to do meanwhile.
package struct MetadataCall {
    package let servers: MetadataServerList
    package var timeout: Duration
    /// Asking twice is harmless: after a broken connection the question is asked again.
    package var isIdempotent = false
    /// A connection that is not there after this long ends the call: an MDS that is being started again is
    /// worth a moment, and nobody likes to wait for a wrong address.
    private static let connectPatience = Duration.seconds(3)
    package init(_ servers: MetadataServerList, timeout: Duration = .seconds(10)) {
        (self.servers, self.timeout) = (servers, timeout)
    }
    /// Each address may take as long as it takes to give it up.
    private var patience: Duration {
        Self.connectPatience + ControlChannel.connectTimeout * (servers.addresses.count - 1)
    }

    /// Asks again while the MDS says that it is not ready for this yet, for `timeout` in all.
    package func whenReady(_ body: ControlRequest.OneOf_Body) throws -> ControlResponse {
        let end = ContinuousClock.now + timeout
        while true {
            let outcome = try ask(body)
            guard case .failure(.refused(let failure)) = outcome, failure.code == .notReady,
                ContinuousClock.now < end
            else { return try Self.answer(outcome) }
            Thread.sleep(forTimeInterval: Self.askAgainAfterSeconds)
        }
    }
    private static let askAgainAfterSeconds = 0.3

    package func callAsFunction(_ body: ControlRequest.OneOf_Body) throws -> ControlResponse {
        try Self.answer(ask(body))
    }
    private func ask(_ body: ControlRequest.OneOf_Body) throws -> Result<ControlResponse, ControlError> {
        let reactor: Reactor
        do { reactor = try Reactor() } catch { throw ToolError.failed("\(error)") }
        let channel = ControlChannel(
            environment: reactor, addresses: servers.addresses, hello: Hello(role: .tool), pool: BufferPool())
        var request = ControlRequest()
        request.body = body
        var outcome: Result<ControlResponse, ControlError>?
        channel.call(request, timeout: timeout, isIdempotent: isIdempotent) { result in
            outcome = outcome ?? result
            channel.close()
            reactor.stop()
        }
        reactor.after(min(patience, timeout)) {
            let words: String
            switch channel.state {
            case .waiting(let why): words = why
            case .connecting(let address):
                let others = servers.addresses.count > 1 ? "; \(channel.lastFailure)" : ""
                words = "\(address) does not answer; correct the address\(others)"
            case .idle, .connected, .closed: return
            }
            outcome = .failure(
                .unreachable("no metadata server: \(words)"))
            channel.close()
            reactor.stop()
        }
        reactor.run()
        guard let outcome else {
            throw ToolError.failed("the question to the MDS at \(servers) was interrupted")
        }
        return outcome
    }
    private static func answer(_ outcome: Result<ControlResponse, ControlError>) throws -> ControlResponse {
        switch outcome {
        case .success(let response): return response
        case .failure(.refused(let failure)):
            let missing = failure.code == .notFound
            throw missing ? ToolError.notFound(failure.message) : ToolError.failed(failure.message)
        case .failure(let error): throw ToolError.notFound("\(error)")
        }
    }
}
