import BlockTypes
import Environment
import MemoryEnvironment
import Testing

/// The world of tests keeps the contract that sockets keep, so that servers can be tested in it.
@Suite("Streams in memory that move") struct MemoryMovingTests {
    @Test(
        "a stream moves between two environments, with nothing lost on either way", arguments: UInt64(1)..<20)
    func moves(seed: UInt64) {
        let (world, near, far) = pair(seed: seed)
        let homes = [world.environment("one"), world.environment("other")]
        let message = noise(20_000, seed: seed)
        let (asker, answerer) = (Recorder(), Recorder())
        near.handler = asker
        near.send([.bytes(message)])
        var (moves, link): (Int, any MovableConnection) = (0, far)
        func settle(_ connection: any MovableConnection) {
            link = connection
            var got = 0
            answerer.received = { new in
                if link !== connection { Issue.record("heard at the old place") }
                answerer.bytes.append(contentsOf: new)
                connection.send([.bytes(Array(new))])
                got += new.count
                guard got > 900 else { return }
                got = .min
                connection.release { moved in
                    let adopted = moved.flatMap { homes[moves % 2].adopt($0) }
                    guard let adopted = adopted as? any MovableConnection else {
                        Issue.record("not adopted")
                        return
                    }
                    #expect(adopted.peer == far.peer)
                    moves += 1
                    settle(adopted)
                    adopted.handler = answerer
                }
                connection.send([.bytes([9])])
            }
        }
        settle(far)
        far.handler = answerer
        world.run(for: .seconds(1))
        #expect(answerer.bytes == message && asker.bytes == message && moves > 3)
        near.close()
        world.run(for: .seconds(1))
        #expect(answerer.reasons == [.closedByPeer] && asker.reasons == [.closedHere])
    }

    @Test("what is adopted by nobody, or by another world, closes; the first of two has it")
    func adoption() {
        for how in ["dropped", "other world", "twice"] {
            let (world, near, far) = pair(seed: 1)
            let (asker, answerer) = (Recorder(), Recorder())
            (near.handler, far.handler) = (asker, Recorder())
            far.send([.bytes([1, 2])])
            far.release { moved in
                guard let moved, how != "dropped" else { return }
                let home = how == "twice" ? world : MemoryWorld()
                let adopted = home.environment("next").adopt(moved)
                adopted?.handler = answerer
                #expect((adopted != nil) == (how == "twice"))
                #expect(world.environment("late").adopt(moved) == nil || how == "other world")
            }
            world.run(for: .seconds(1))
            #expect(asker.bytes == [1, 2])
            if how != "twice" { continue }
            #expect(asker.reasons.isEmpty)
            near.send([.bytes([3])])
            world.run(for: .seconds(1))
            #expect(answerer.bytes == [3])
        }
    }

    @Test(
        "the other end's close, a reset and a close are heard of once", arguments: ["close", "reset", "own"])
    func ends(how: String) {
        for isHandedOut in [false, true] {
            let (world, near, far) = pair(seed: 1)
            let (first, second) = (Recorder(), Recorder())
            (near.handler, far.handler) = (Recorder(), first)
            var outcomes: [(any MovedConnection)?] = []
            far.release { outcomes.append($0) }
            #expect(outcomes.isEmpty)
            if isHandedOut { world.settle() }
            switch how {
            case "close": near.close()
            case "reset": near.reset()
            default: far.close()
            }
            world.run(for: .milliseconds(1))
            guard outcomes.count == 1 else {
                Issue.record("told \(outcomes.count) times")
                continue
            }
            // What comes after the hand-over, and the mere end of a stream, are the next owner's to hear.
            let isNext = isHandedOut || how != "own"
            #expect((outcomes[0] != nil) == isNext)
            if let moved = outcomes[0] { world.environment("next").adopt(moved)?.handler = second }
            world.run(for: .seconds(10))
            #expect(first.reasons == (isNext ? [] : [.closedHere]))
            let heard: [NetworkError] =
                how == "close" ? [.closedByPeer] : how == "reset" ? [.reset] : []
            #expect(second.reasons == (isNext ? heard : []))
        }
    }

    private func pair(seed: UInt64) -> (MemoryWorld, MemoryConnection, MemoryConnection) {
        let world = MemoryWorld(seed: seed)
        world.pieceBytesMax = 700
        world.cutsAtRandom = true
        let (near, far) = MemoryConnection.pair(in: world)
        return (world, near, far)
    }
}
