import Environment
import ISCSIProtocol
import ISCSIServer

/// A loop of the process, as others see it.
public struct GatewayLoop: Sendable {
    /// Runs an action there, in the order of posting. After the loop's end nothing is run.
    let post: @Sendable (_ action: @escaping @Sendable (any AdoptingEnvironment) -> Void) -> Void
    /// The loop that `post` reaches; it gives actions the loop's environment.
    public init(
        post: @escaping @Sendable (_ action: @escaping @Sendable (any AdoptingEnvironment) -> Void) -> Void
    ) { self.post = post }
}

/// One lane of a gateway, as the gateway sees it from its own loop: what it says to it arrives in order.
/// Loop-confined to the gateway.
final class LaneLink {
    /// The lane on the gateway's own loop.
    let local: GatewayLane?
    private let loop: GatewayLoop?
    private let remote = LoopBound<GatewayLane>()
    /// As the lane told them last.
    var facts = LaneFacts()
    /// No session is left there since the last drain began.
    var isDrained = false
    /// Connections on their way there.
    private var passing = 0 { didSet { if passing == 0 { hasComplained = false } } }
    /// One line per shortage is enough.
    var hasComplained = false
    /// As many as may be logging in there: more of them means that the loop stands still.
    static let passingMax = ISCSIServerLimits().loginsMax

    /// A lane on the gateway's own loop.
    init(_ lane: GatewayLane) { (local, loop) = (lane, nil) }
    /// A lane that is made on another loop.
    init(on loop: GatewayLoop, make: @escaping @Sendable (any AdoptingEnvironment) -> GatewayLane) {
        (local, self.loop) = (nil, loop)
        loop.post { [remote] in remote.value = make($0) }
    }
    func tell(_ action: @escaping @Sendable (GatewayLane) -> Void) {
        if let local { return action(local) }
        loop?.post { [remote] _ in
            if let lane = remote.value { action(lane) }
        }
    }
    /// Hands a connection over.
    /// - Returns: false when too many wait there to be taken; then it is dropped, which closes it.
    func pass(_ connection: any MovedConnection, _ login: MovingLogin, portal: Int?, home: GatewayLoop?)
        -> Bool
    {
        guard passing < Self.passingMax else { return false }
        if let local {
            local.serve(connection, login, portal: portal)
            return true
        }
        passing += 1
        let link = LoopBound<LaneLink>()
        link.value = self
        tell { lane in
            lane.serve(connection, login, portal: portal)
            home?.post { _ in link.value?.passing -= 1 }
        }
        return true
    }
    /// Nothing is said to it any more.
    func forget() { loop?.post { [remote] _ in remote.value = nil } }
}

extension GatewayLane {
    /// Goes on with a connection that came by the gateway's portals.
    func serve(_ moved: any MovedConnection, _ login: MovingLogin, portal: Int?) {
        guard let environment = environment as? any AdoptingEnvironment,
            let connection = environment.adopt(moved)
        else { return log(.error, "the connection of \(moved.peer) could not be moved to its target's loop") }
        server.serve(connection, movedWith: login, portal: portal)
    }
}

extension ConfiguredGateway {
    /// Does something in every lane that ends, and says when it has in all.
    func inAllLanes(
        _ action: @escaping @Sendable (GatewayLane, @escaping () -> Void) -> Void,
        completed: @escaping () -> Void
    ) {
        collect { lane, done in
            action(lane) { done(()) }
        } completed: { (_: [Void]) in
            completed()
        }
    }
    /// Asks every lane for something, and hands out the answers in the order of the lanes.
    func collect<Answer: Sendable>(
        _ ask: @escaping @Sendable (GatewayLane, @escaping (Answer) -> Void) -> Void,
        completed: @escaping ([Answer]) -> Void
    ) {
        let waiting = LoopBound<Answers<Answer>>()
        waiting.value = Answers(count: lanes.count, completed: completed)
        guard !lanes.isEmpty else { return completed([]) }
        for (index, lane) in lanes.enumerated() {
            lane.tell { [home] asked in
                let isHere = index == 0
                ask(asked) { answer in
                    if isHere {
                        waiting.value?.take(answer, from: index)
                    } else {
                        home?.post { _ in waiting.value?.take(answer, from: index) }
                    }
                }
            }
        }
    }
}

/// Answers of lanes that have come so far.
private struct Answers<Answer> {
    private var answers: [Answer?]
    private let completed: ([Answer]) -> Void

    init(count: Int, completed: @escaping ([Answer]) -> Void) {
        answers = Array(repeating: nil, count: count)
        self.completed = completed
    }
    mutating func take(_ answer: Answer, from index: Int) {
        answers[index] = answer
        let all = answers.compactMap { $0 }
        if all.count == answers.count { completed(all) }
    }
}
