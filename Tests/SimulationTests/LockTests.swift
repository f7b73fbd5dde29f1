import Environment
import Simulation
import Testing

@Suite struct LockTests {
    @Test("a paused process holds its lock, a dead one loses it a moment later")
    func fate() throws {
        let world = SimWorld(seed: 1)
        let file = SimLockFile(world)
        let (one, two) = (world.startHost(on: "one"), world.startHost(on: "two"))
        let (first, second) = (SimLock(file, one), SimLock(file, two))
        #expect(try first.take(note: "one") == nil)
        #expect(try second.take(note: "two") == "one" && file.livingHolder === one)
        one.pause()
        world.run(for: .seconds(60))
        #expect(try second.take(note: "two") == "one")
        one.kill()
        #expect(file.livingHolder == nil)
        _ = try second.take(note: "two")
        world.run(for: .milliseconds(51))
        #expect(try second.take(note: "two") == nil && file.livingHolder === two)
        #expect(throws: LockError.self) { try first.take(note: "one") }
        second.release()
        let third = SimLock(file, world.startHost(on: "one"))
        #expect(try third.take(note: "three") == nil)
    }
}
