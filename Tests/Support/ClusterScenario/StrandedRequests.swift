import Simulation

/// Makes copies of requests late: what a client sends to one server waits in the network, as a stream does
/// whose way is blocked. The server stands still until others lead, so the client repeats its requests there,
/// is answered, and writes something newer. Then those others die, and while the first server leads again,
/// the way opens.
///
/// All of it shorter than the time after which a client makes a silent connection anew.
struct StrandedRequests {
    private let pause: Duration
    private let dethronedAfter: Duration
    private let downFor: Duration
    private let openAfter: Duration

    init(_ dice: inout DeedDice) {
        pause = .milliseconds(1_200) + dice.time(upTo: 1_000)
        dethronedAfter = pause + dice.time(upTo: 2_000)
        downFor = dice.time(upTo: 300)
        openAfter = dethronedAfter + .milliseconds(1_000) + dice.time(upTo: 2_500)
    }
    func begin(
        in world: SimWorld, client: String, server: String, pause: (Duration) -> Void,
        dethrone: @escaping (Duration) -> Void
    ) {
        world.block(from: client, to: server)
        pause(self.pause)
        let downFor = downFor
        world.after(dethronedAfter) { dethrone(downFor) }
        world.after(openAfter) { world.unblock(from: client, to: server) }
    }
}
