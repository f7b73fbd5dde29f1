import BlockTypes
import ControlMessages
import CurveWire
import Environment
import Reactor

/// What each metadata server of a list says of itself.
package struct MetadataSurvey {
    /// How one is.
    package enum State {
        case leads
        /// In its own words.
        case standsBy(String)
        /// Why it did not answer.
        case silent(String)

        /// For programs, too.
        package var name: String {
            switch self {
            case .leads: "leads"
            case .standsBy: "stands by"
            case .silent: "silent"
            }
        }
        /// What there is to say beyond that.
        package var note: String? {
            switch self {
            case .leads: nil
            case .standsBy(let note), .silent(let note): note
            }
        }
    }
    /// In the order of the list.
    package private(set) var findings: [(address: SocketAddress, state: State)]
    /// One that says nothing for this long is silent.
    private static let patience = Duration.seconds(2)

    /// Asks all of them at the same time.
    package init(_ servers: MetadataServerList) throws {
        let reactor: Reactor
        do { reactor = try Reactor() } catch { throw ToolError.failed("\(error)") }
        findings = servers.addresses.map { ($0, .silent("not asked")) }
        var states: [State?] = servers.addresses.map { _ in nil }
        let channels = servers.addresses.map {
            ControlChannel(
                environment: reactor, addresses: [$0], hello: Hello(role: .tool), pool: BufferPool())
        }
        for (index, channel) in channels.enumerated() {
            channel.looksForLeader = false
            channel.call(
                ControlRequest(.getCluster(ControlGetClusterRequest())), timeout: Self.patience,
                endsWhenRefused: true
            ) { result in
                states[index] = State(result)
                if !states.contains(where: { $0 == nil }) { reactor.stop() }
            }
        }
        reactor.run()
        for channel in channels { channel.close() }
        for (index, state) in states.enumerated() {
            findings[index].state = state ?? .silent("the question was interrupted")
        }
    }

    /// The address of the one that leads; else the whole list.
    package var leader: String {
        let leader = findings.first { if case .leads = $0.state { true } else { false } }
        return leader.map { "\($0.address)" } ?? findings.map { "\($0.address)" }.joined(separator: ",")
    }
    /// One that is missing takes nothing away today.
    package var warnings: [String] {
        findings.compactMap { finding in
            guard case .silent(let why) = finding.state else { return nil }
            return
                "the metadata server at \(finding.address) does not answer (\(why)); start it again, or take "
                + "it off the list"
        }
    }
}

extension MetadataSurvey.State {
    fileprivate init(_ result: Result<ControlResponse, ControlError>) {
        switch result {
        case .success: self = .leads
        case .failure(.refused(let failure)) where failure.code == .notLeading:
            self = .standsBy(failure.message)
        case .failure(let error): self = .silent("\(error)")
        }
    }
}
