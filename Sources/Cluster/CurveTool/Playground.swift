import BlockTypes
import ControlMessages
import Environment
import Foundation
import ToolSupport

/// A whole cluster on this machine: one MDS or more, three chunkservers, one volume served over NBD.
final class Playground: @unchecked Sendable {
    // SAFETY: used only on the main queue.
    static let chunkservers = 3
    static let copysets: UInt32 = 12
    static let volumeName = "demo"
    static let volumeBytesDefault: UInt64 = 4 << 30
    /// Every usual file system takes a file of this size.
    static let storeBytesMax: UInt64 = 8 << 40
    /// The port that NBD clients try by default; another one is chosen when it is taken.
    static let preferredPort: UInt16 = 10809
    /// The same for iSCSI, which has a volume of its own: one program at a time serves a volume.
    static let preferredISCSIPort: UInt16 = 3260
    static let iscsiVolumeName = "demo-iscsi"
    static let iscsiTarget = "iqn.2026-11.io.curve:demo"

    let folder: PlaygroundFolder
    /// What the user asked for; `nil` when nothing.
    let wantedBytes: UInt64?
    let storeBytes: UInt64
    var isThrowAway: Bool { sweeper != nil }
    private let sweeper: Sweeper?
    let isPrewritten: Bool
    private let servesISCSI: Bool
    let supervisor: Supervisor
    private(set) var state: PlaygroundState?
    private let metadataServers: [Member]
    private var chunkserverMembers: [Member] = []
    private var nbd: Member?

    /// - Parameter sweeper: clears up behind a playground that is thrown away at its end.
    init(folder: PlaygroundFolder, options: PlaygroundOptions, sweeper: Sweeper? = nil) throws {
        (self.folder, wantedBytes, self.sweeper) = (folder, options.size?.bytes, sweeper)
        (isPrewritten, servesISCSI) = (options.prewritten, options.iscsi)
        // Room for the volume written in full, its journal and metadata, and a second volume to try things
        // with; as much as one file may have.
        storeBytes = min(max(2 * (wantedBytes ?? Self.volumeBytesDefault), 4 << 30), Self.storeBytesMax)
        supervisor = try Supervisor(logPath: folder.logFile)
        if let sweeper { (supervisor.processBegan, supervisor.processEnded) = (sweeper.began, sweeper.ended) }
        let data = folder.metadata
        // A restarted MDS comes back where everybody knows it.
        metadataServers = (1...options.mdsCount).map { number in
            Member(name: options.mdsCount == 1 ? "MDS" : "MDS \(number)", program: "curve") {
                ["mds", "--data", data, "--listen", $0.address ?? "127.0.0.1:0"]
            }
        }
    }

    /// Starts everything in order; `done` runs once.
    func start(done: @escaping (Result<PlaygroundState, ToolError>) -> Void) {
        startMetadataServers(metadataServers[...]) { [self] failure in
            if let failure { return done(.failure(failure)) }
            let mds = metadataServers.compactMap(\.address).joined(separator: ",")
            format(mds: mds) { [self] failure in
                if let failure { return done(.failure(failure)) }
                startChunkservers(mds: mds, done: done)
            }
        }
    }
    /// One after the other, so that the first one leads.
    private func startMetadataServers(_ rest: ArraySlice<Member>, done: @escaping (ToolError?) -> Void) {
        guard let next = rest.first else { return done(nil) }
        supervisor.start(next) { [self] result in
            if case .failure(let error) = result { return done(error) }
            startMetadataServers(rest.dropFirst(), done: done)
        }
    }

    private static func toolError(_ error: any Error) -> ToolError {
        error as? ToolError ?? .failed("\(error)")
    }

    /// Makes the stores that are missing, all at once; `done` runs once, with the first failure if there is
    /// one.
    private func format(mds: String, done: @escaping (ToolError?) -> Void) {
        let missing = (1...Self.chunkservers).filter {
            !FileManager.default.fileExists(atPath: folder.store($0))
        }
        var (waiting, failure) = (missing.count, ToolError?.none)
        if missing.isEmpty { return done(nil) }
        for number in missing {
            do { try makeFolder(folder.chunkserver(number), for: "a chunkserver") } catch {
                return done(Self.toolError(error))
            }
        }
        for number in missing {
            let arguments =
                [
                    "chunkserver", "format", "--store", folder.store(number), "--size", "\(storeBytes)",
                    "--mds", mds,
                ] + (isPrewritten ? [] : ["--lazy"])
            supervisor.runOnce("format of store \(number)", program: "curve", arguments: arguments) { error in
                waiting -= 1
                failure = failure ?? error
                if waiting == 0 { done(failure) }
            }
        }
    }

    private func startChunkservers(
        mds: String, done: @escaping (Result<PlaygroundState, ToolError>) -> Void
    ) {
        var waiting = Self.chunkservers
        var failure: ToolError?
        for number in 1...Self.chunkservers {
            let store = folder.store(number)
            let member = Member(name: "chunkserver \(number)", program: "curve") { _ in
                [
                    "chunkserver", "serve", "--store", store, "--mds", mds, "--listen", "127.0.0.1:0",
                    "--local-peers",
                ]
            }
            chunkserverMembers.append(member)
            supervisor.start(member) { [self] result in
                waiting -= 1
                if case .failure(let error) = result { failure = error }
                guard waiting == 0 else { return }
                if let failure { return done(.failure(failure)) }
                do { try makePoolAndVolume(mds: mds) } catch { return done(.failure(Self.toolError(error))) }
                startNBD(mds: mds, port: isThrowAway ? 0 : Self.preferredPort, done: done)
            }
        }
    }

    private func makePoolAndVolume(mds: String) throws {
        let call = MetadataCall(try MetadataServerList(forTool: mds))
        let status = try call(.getStatus(ControlGetStatusRequest())).getStatus
        if status.pools.isEmpty {
            var request = ControlCreatePoolRequest()
            (request.name, request.replicas, request.copysets) = ("default", 3, Self.copysets)
            request.failureDomain = .device
            _ = try call(.createPool(request))
        }
        let names = [Self.volumeName] + (servesISCSI ? [Self.iscsiVolumeName] : [])
        for name in names { try makeVolume(name, call) }
    }
    private func makeVolume(_ name: String, _ call: MetadataCall) throws {
        var question = ControlGetVolumeRequest()
        question.path = "/" + name
        do {
            let volume = try call(.getVolume(question)).volume.volume
            if let wantedBytes, wantedBytes != volume.sizeBytes {
                ToolExit.say(
                    "the volume '\(name)' is there already, with \(Text.size(volume.sizeBytes)); change it "
                        + "by 'curve volume resize \(name) --size \(ByteSize(bytes: wantedBytes))'")
            }
        } catch let error as ToolError where error.status == 1 {
            var request = ControlCreateVolumeRequest()
            (request.path, request.sizeBytes) = ("/" + name, wantedBytes ?? Self.volumeBytesDefault)
            _ = try call(.createVolume(request))
        }
    }

    private func startNBD(
        mds: String, port: UInt16, done: @escaping (Result<PlaygroundState, ToolError>) -> Void
    ) {
        let (socket, key) = (folder.nbdSocket, "playground \(folder.path)")
        let member = Member(name: "curve-nbd", program: "curve-nbd") { member in
            // A restarted gateway listens where its clients look for it.
            let tcp = member.address?.split(separator: " ").first { !$0.hasPrefix("unix:") }
            return [
                "serve", Self.volumeName, "--mds", mds, "--listen", "unix:\(socket)",
                "--listen", tcp.map(String.init) ?? "127.0.0.1:\(port)", "--holder-key", key, "--stats",
            ]
        }
        member.lines = { [weak self] line in self?.took(line) }
        supervisor.start(member) { [self] result in
            switch result {
            case .failure where port != 0:  // Most likely the port is taken: let the system choose one.
                supervisor.forget(member)
                startNBD(mds: mds, port: 0, done: done)
            case .failure(let error): done(.failure(error))
            case .success(let addresses):
                nbd = member
                let found = addresses.split(separator: " ").map(String.init)
                let uris = found.compactMap { Self.uri(for: $0) }
                state = PlaygroundState(
                    pid: getpid(), metadataAddress: mds, nbdSocket: socket, nbdURIs: uris,
                    volume: Self.volumeName, members: [])
                guard servesISCSI else { return finish(done) }
                startISCSI(mds: mds, port: isThrowAway ? 0 : Self.preferredISCSIPort, done: done)
            }
        }
    }
    private func startISCSI(
        mds: String, port: UInt16, done: @escaping (Result<PlaygroundState, ToolError>) -> Void
    ) {
        let key = "playground \(folder.path)"
        let member = Member(name: "curve-iscsi", program: "curve-iscsi") { member in
            [
                "serve", "--target", Self.iscsiTarget, "--lun", "0=\(Self.iscsiVolumeName)", "--mds", mds,
                "--portal", member.address ?? "127.0.0.1:\(port)", "--holder-key", key,
            ]
        }
        supervisor.start(member) { [self] result in
            switch result {
            case .failure where port != 0:
                supervisor.forget(member)
                startISCSI(mds: mds, port: 0, done: done)
            case .failure(let error): done(.failure(error))
            case .success(let address):
                state?.iscsiURL = "iscsi://\(address)/\(Self.iscsiTarget)/0"
                finish(done)
            }
        }
    }
    private func finish(_ done: @escaping (Result<PlaygroundState, ToolError>) -> Void) {
        writeState()
        if let state { done(.success(state)) }
    }

    static func uri(for address: String) -> String? {
        if address.hasPrefix("unix:") { return "nbd+unix:///\(volumeName)?socket=\(address.dropFirst(5))" }
        return "nbd://\(address)/\(volumeName)"
    }

    /// Rewrites the state file with the pids of now.
    func writeState() {
        state?.members = supervisor.members.map {
            .init(name: $0.name, pid: $0.process?.processIdentifier ?? 0)
        }
        guard let state, let data = try? JSONEncoder().encode(state) else { return }
        _ = FileManager.default.createFile(atPath: folder.stateFile, contents: data)
    }

    /// The newest line of counters that curve-nbd printed.
    private(set) var stats = ""
    private func took(_ line: String) {
        if line.hasPrefix("stats ") { stats = String(line.dropFirst(6)) }
    }

    func stop(done: @escaping () -> Void) {
        supervisor.stopAll { [self] in
            try? FileManager.default.removeItem(atPath: folder.stateFile)
            sweeper?.finish()
            done()
        }
    }
}
