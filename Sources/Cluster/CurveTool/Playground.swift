import BlockTypes
import ControlMessages
import Environment
import Foundation
import ToolSupport

/// A whole cluster on this machine: one MDS, three chunkservers, one volume served over NBD.
final class Playground: @unchecked Sendable {
    // SAFETY: used only on the main queue.
    static let chunkservers = 3
    static let copysets: UInt32 = 12
    static let volumeName = "demo"
    /// The port that NBD clients try by default; another one is chosen when it is taken.
    static let preferredPort: UInt16 = 10809

    let folder: PlaygroundFolder
    let volumeBytes: UInt64
    let storeBytes: UInt64
    let isThrowAway: Bool
    let isPrewritten: Bool
    let supervisor: Supervisor
    private(set) var state: PlaygroundState?
    private let mds: Member
    private var chunkserverMembers: [Member] = []
    private var nbd: Member?

    init(folder: PlaygroundFolder, volumeBytes: UInt64, isThrowAway: Bool, isPrewritten: Bool) throws {
        (self.folder, self.volumeBytes) = (folder, volumeBytes)
        (self.isThrowAway, self.isPrewritten) = (isThrowAway, isPrewritten)
        // Room for the volume written in full, its journal and metadata, and a second volume to try things
        // with.
        storeBytes = max(2 * volumeBytes, 4 << 30)
        supervisor = try Supervisor(logPath: folder.logFile)
        let data = folder.metadata
        // A restarted MDS comes back where everybody knows it.
        mds = Member(name: "MDS", program: "curve") {
            ["mds", "--data", data, "--listen", $0.address ?? "127.0.0.1:0"]
        }
    }

    /// Starts everything in order; `done` runs once.
    func start(done: @escaping (Result<PlaygroundState, ToolError>) -> Void) {
        supervisor.start(mds) { [self] result in
            switch result {
            case .failure(let error): done(.failure(error))
            case .success(let address):
                do { try format(mds: address) } catch { return done(.failure(Self.toolError(error))) }
                startChunkservers(mds: address, done: done)
            }
        }
    }

    private static func toolError(_ error: any Error) -> ToolError {
        error as? ToolError ?? .failed("\(error)")
    }

    /// Makes the stores that are missing, all at once.
    private func format(mds: String) throws {
        var running: [(Process, Pipe, String)] = []
        for number in 1...Self.chunkservers
        where !FileManager.default.fileExists(atPath: folder.store(number)) {
            try makeFolder(folder.chunkserver(number), for: "a chunkserver")
            let process = Process()
            process.executableURL = URL(fileURLWithPath: Supervisor.programFolder + "/curve")
            process.arguments =
                [
                    "chunkserver", "format", "--store", folder.store(number), "--size", "\(storeBytes)",
                    "--mds", mds,
                ] + (isPrewritten ? [] : ["--lazy"])
            let errors = Pipe()
            (process.standardOutput, process.standardError) = (FileHandle.nullDevice, errors)
            try process.run()
            running.append((process, errors, folder.store(number)))
        }
        for (process, errors, store) in running {
            let text = errors.fileHandleForReading.readDataToEndOfFile()
            process.waitUntilExit()
            guard process.terminationStatus == 0 else {
                throw ToolError.failed("formatting \(store) failed: \(String(decoding: text, as: UTF8.self))")
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
        guard let address = SocketAddress(mds) else { throw ToolError.failed("'\(mds)' is not an address") }
        let call = MetadataCall(address: address)
        let status = try call(.getStatus(ControlGetStatusRequest())).getStatus
        if status.pools.isEmpty {
            var request = ControlCreatePoolRequest()
            (request.name, request.replicas, request.copysets) = ("default", 3, Self.copysets)
            request.failureDomain = .device
            _ = try call(.createPool(request))
        }
        var question = ControlGetVolumeRequest()
        question.path = "/" + Self.volumeName
        do {
            _ = try call(.getVolume(question))
        } catch let error as ToolError where error.status == 1 {
            var request = ControlCreateVolumeRequest()
            (request.path, request.sizeBytes) = ("/" + Self.volumeName, volumeBytes)
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
                let state = PlaygroundState(
                    pid: getpid(), metadataAddress: mds, nbdSocket: socket, nbdURIs: uris,
                    volume: Self.volumeName,
                    members: supervisor.members.map {
                        .init(name: $0.name, pid: $0.process?.processIdentifier ?? 0)
                    })
                self.state = state
                writeState()
                done(.success(state))
            }
        }
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
            if isThrowAway { try? FileManager.default.removeItem(atPath: folder.path) }
            done()
        }
    }
}
