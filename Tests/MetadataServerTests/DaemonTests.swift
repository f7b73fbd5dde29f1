import BlockTypes
import ControlMessages
import CurveWire
import Environment
import MemoryEnvironment
import Testing

@testable import MetadataServer

/// A lock that the processes of a test share.
final class SharedLock {
    fileprivate var holder: ObjectIdentifier?
    fileprivate var note = ""
    var fails = false
    /// The holder's process is gone.
    func holderDied() { holder = nil }
}

private final class ProcessLock: ExclusiveLock {
    private let shared: SharedLock
    init(_ shared: SharedLock) { self.shared = shared }
    func take(note: String) throws(LockError) -> String? {
        if shared.fails { throw LockError("the lock cannot be made") }
        if let holder = shared.holder, holder != ObjectIdentifier(self) { return shared.note }
        (shared.holder, shared.note) = (ObjectIdentifier(self), note)
        return nil
    }
    func release() { if shared.holder == ObjectIdentifier(self) { shared.holder = nil } }
}

/// Metadata server processes on one database, and one who asks each of them.
private final class Pair {
    let world = MemoryWorld()
    let lock = SharedLock()
    let store = MemoryMetadataStore()
    /// The store was opened so often.
    var openings = 0
    var openError: MetadataStoreError?
    var ended: [String] = []

    static func address(_ name: String) -> SocketAddress { .tcp(host: name, port: 6700) }
    func make(_ name: String, _ number: Int32) -> MetadataDaemon {
        var options = MetadataDaemon.Options()
        (options.name, options.processID) = (name, number)
        let daemon = MetadataDaemon(
            environment: world.environment(name), lock: ProcessLock(lock), options: options
        ) { [unowned self] () throws(MetadataStoreError) -> any MetadataStore in
            openings += 1
            if let openError { throw openError }
            return store
        }
        daemon.failed = { [unowned self] error in ended.append("\(error)") }
        return daemon
    }
    func start(_ name: String, _ number: Int32) throws -> MetadataDaemon {
        let daemon = make(name, number)
        try daemon.start(listen: Self.address(name))
        return daemon
    }
    /// What `name` itself says.
    func ask(_ body: ControlRequest.OneOf_Body, _ name: String) -> Result<ControlResponse, ControlError>? {
        let channel = ControlChannel(
            environment: world.environment("tool"), addresses: [Self.address(name)],
            hello: Hello(role: .tool),
            pool: BufferPool())
        channel.looksForLeader = false
        var result: Result<ControlResponse, ControlError>?
        channel.call(ControlRequest(body), timeout: .seconds(1)) { result = $0 }
        world.settle()
        channel.close()
        return result
    }
    func refusal(_ body: ControlRequest.OneOf_Body, _ name: String) -> ControlFailure? {
        guard case .failure(.refused(let failure)) = ask(body, name) else { return nil }
        return failure
    }
    func cluster(_ name: String) -> UniqueID? {
        guard case .success(let answer) = ask(.getCluster(.init()), name) else { return nil }
        return UniqueID(controlBytes: answer.getCluster.clusterID)
    }
}

@Suite struct DaemonTests {
    @Test("the second of two stands by: it names the first to everybody and never opens the database")
    func standsBy() throws {
        let pair = Pair()
        let first = try pair.start("one", 11)
        let second = try pair.start("two", 12)
        #expect(first.leading != nil && second.leading == nil && pair.openings == 1)
        var make = ControlCreateVolumeRequest()
        (make.path, make.sizeBytes) = ("/v", 1 << 20)
        for body in [ControlRequest.OneOf_Body.getStatus(.init()), .createVolume(make), .getCluster(.init())]
        {
            let refusal = try #require(pair.refusal(body, "two"))
            #expect(refusal.code == .notLeading && refusal.leader == "one:6700")
            #expect(refusal.message.contains("waits for one, pid 11, at one:6700, which holds the database"))
        }
        pair.world.run(for: .seconds(600))
        #expect(second.leading == nil && pair.openings == 1)
        // Ten attempts a second say nothing new.
        #expect(pair.world.log.filter { $0.contains("stands by") }.count == 1)
    }

    @Test("when the first has died the second leads, with everything that was there")
    func takesOver() throws {
        let pair = Pair()
        let first = try pair.start("one", 11)
        let second = try pair.start("two", 12)
        let cluster = try #require(pair.cluster("one"))
        var folder = ControlCreateDirectoryRequest()
        folder.path = "/d"
        _ = try #require(pair.ask(.createDirectory(folder), "one")).get()
        first.stop()
        pair.world.run(for: MetadataDaemon.attemptEvery)
        #expect(second.leading != nil && pair.cluster("two") == cluster)
        #expect(pair.refusal(.createDirectory(folder), "two")?.code == .alreadyExists)
        let third = try pair.start("one", 13)
        #expect(third.leading == nil && pair.refusal(.getCluster(.init()), "one")?.leader == "two:6700")
    }

    @Test(
        "a peer that met a server while it stood by is sent away at the takeover, and hears the cluster then")
    func newHello() throws {
        let pair = Pair()
        let first = try pair.start("one", 11)
        let second = try pair.start("two", 12)
        let channel = ControlChannel(
            environment: pair.world.environment("tool"), addresses: [Pair.address("two")],
            hello: Hello(role: .tool), pool: BufferPool())
        var answers: [Bool] = []
        channel.looksForLeader = false
        channel.call(ControlRequest(.getCluster(.init())), timeout: .seconds(1)) { result in
            answers.append((try? result.get()) != nil)
        }
        pair.world.settle()
        guard case .connected(_, let hello) = channel.state else { return #expect(Bool(false), "no link") }
        #expect(hello.cluster == nil && answers == [false])
        pair.lock.holderDied()
        pair.world.run(for: MetadataDaemon.attemptEvery)
        if case .connected = channel.state { Issue.record("still on the old connection") }
        channel.call(ControlRequest(.getCluster(.init())), timeout: .seconds(1)) { result in
            answers.append((try? result.get()) != nil)
        }
        pair.world.settle()
        guard case .connected(_, let next) = channel.state else { return #expect(Bool(false), "no link") }
        #expect(next.cluster == second.leading?.clusterID && answers == [false, true])
        first.stop()
    }

    @Test("a server that stood still holds the database: nobody else leads, however long it takes")
    func pausedHolder() throws {
        let pair = Pair()
        let first = try pair.start("one", 11)
        let second = try pair.start("two", 12)
        // It does nothing; the kernel keeps the lock for it.
        pair.world.run(for: .seconds(3600))
        #expect(second.leading == nil && first.leading != nil)
        #expect(pair.cluster("one") != nil)
    }

    @Test(
        "a database that a tool has open is waited for; one that is damaged ends the process with the reason")
    func databaseTrouble() throws {
        let pair = Pair()
        pair.openError = .inUse(path: "/db")
        let daemon = try pair.start("one", 11)
        let refusal = try #require(pair.refusal(.getStatus(.init()), "one"))
        #expect(refusal.message.contains("waits for another process") && refusal.leader.isEmpty)
        pair.openError = nil
        pair.world.run(for: MetadataDaemon.attemptEvery)
        #expect(daemon.leading != nil)
        let second = try pair.start("two", 12)
        pair.openError = .damagedRow("row 7")
        daemon.stop()
        pair.world.run(for: MetadataDaemon.attemptEvery)
        #expect(second.leading == nil && pair.ended.count == 1 && pair.ended[0].contains("row 7"))
        let third = pair.make("three", 13)
        #expect { try third.start(listen: Pair.address("three")) } throws: { "\($0)".contains("row 7") }
        pair.lock.fails = true
        #expect { try pair.start("four", 14) } throws: { "\($0)".contains("cannot be made") }
    }

    @Test("the note in the lock is read as it was written, and anything else is nobody")
    func notes() {
        for address in [SocketAddress.tcp(host: "::1", port: 6700), nil] {
            let holder = MetadataHolder(name: "host 7", processID: 12, address: address)
            #expect(MetadataHolder(note: holder.note) == holder)
        }
        let nasty = MetadataHolder(
            name: "a\nb" + String(repeating: "c", count: 200), processID: 1, address: nil)
        #expect(MetadataHolder(note: nasty.note)?.name.count == MetadataHolder.nameCharactersMax)
        for text in ["", "name x", "name x\npid y\naddress z\n", "pid 1\nname x\naddress -"] {
            #expect(MetadataHolder(note: text) == nil)
        }
    }
}
