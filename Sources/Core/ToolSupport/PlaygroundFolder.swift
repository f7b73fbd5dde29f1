import BlockTypes
import Foundation

/// Where a playground keeps its data.
package struct PlaygroundFolder {
    package let path: String
    package init(path: String) { self.path = path }
    /// The folder that `--data` names, or the usual one.
    package init(data: String?) throws {
        guard let data else {
            self = .standard
            return
        }
        guard !data.isEmpty else { throw ToolError.failed("--data names no folder") }
        path = URL(fileURLWithPath: data).standardizedFileURL.path
    }

    /// `${XDG_STATE_HOME:-~/.local/state}/curve`.
    package static var standard: PlaygroundFolder {
        let environment = ProcessInfo.processInfo.environment
        func folder(_ name: String) -> String? {
            environment[name].flatMap { $0.hasPrefix("/") ? $0 : nil }  // Others do not count, says XDG.
        }
        let state = folder("XDG_STATE_HOME") ?? (folder("HOME") ?? NSHomeDirectory()) + "/.local/state"
        return PlaygroundFolder(path: state + "/curve")
    }

    package var metadata: String { path + "/mds" }
    package func chunkserver(_ number: Int) -> String { path + "/chunkserver-\(number)" }
    package func store(_ number: Int) -> String { chunkserver(number) + "/store" }
    /// Holds the pid of the process that runs here, which also holds a lock on it.
    package var lockFile: String { path + "/playground.lock" }
    package var logFile: String { path + "/playground.log" }
    /// What runs here now; present only while it runs.
    package var stateFile: String { path + "/playground.json" }
    package var nbdSocket: String { path + "/nbd.sock" }
    /// What a Unix socket's address has room for.
    private static let socketPathBytesMax = 107
    /// Marks a folder as a playground's, so that `--fresh` never removes anything else.
    package var marker: String { path + "/.curve-playground" }

    package var state: PlaygroundState? {
        guard let data = FileManager.default.contents(atPath: stateFile) else { return nil }
        return try? JSONDecoder().decode(PlaygroundState.self, from: data)
    }
    /// Where the MDS of the playground listens that runs here, if one does. The file alone may be the last
    /// word of one that was killed.
    package var knownMetadataAddress: String? {
        guard let state, state.pid == FolderLock.holder(of: self) else { return nil }
        return state.metadataAddress
    }

    /// Makes the folder, or checks that an existing one is a playground's.
    package func prepare() throws {
        guard nbdSocket.utf8.count <= Self.socketPathBytesMax else {
            throw ToolError.failed(
                "\(nbdSocket) is too long for a socket's path; choose a shorter folder with --data")
        }
        var isFolder: ObjCBool = false
        if FileManager.default.fileExists(atPath: path, isDirectory: &isFolder) {
            let entries = (try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []
            guard isFolder.boolValue, entries.isEmpty || FileManager.default.fileExists(atPath: marker) else {
                throw ToolError.failed(
                    "\(path) holds something that is not a playground; choose another with --data")
            }
        }
        try makeFolder(path, for: "the playground's data")
        guard FileManager.default.createFile(atPath: marker, contents: Data()) else {
            throw ToolError.failed("cannot write in \(path); choose another folder with --data")
        }
    }

    /// Removes the folder of a throw-away playground, again and again while somebody's last file appears in
    /// it.
    package func removeThrowAway() throws {
        let isOurs = FileManager.default.fileExists(atPath: marker)
        var attempts = 0
        while FileManager.default.fileExists(atPath: path) {
            // A folder of ours is marked, or so young that it is empty.
            if rmdir(path) == 0 || !isOurs { return }
            do {
                try FileManager.default.removeItem(atPath: path)
            } catch  where attempts < Self.retriesMax { usleep(50_000) }
            attempts += 1
        }
    }
    private static let retriesMax = 20

    /// Removes the playground's own files and nothing else.
    package func erase() throws {
        guard FileManager.default.fileExists(atPath: path) else { return }
        guard FileManager.default.fileExists(atPath: marker) else {
            throw ToolError.failed("\(path) is not a playground; nothing was removed")
        }
        var names = ["mds", "playground.log", "playground.json", "up.log", "nbd.sock"]
        let entries = (try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []
        names += entries.filter { $0.hasPrefix("chunkserver-") }
        for name in names where entries.contains(name) {
            try FileManager.default.removeItem(atPath: path + "/" + name)
        }
    }
}

/// What a running playground tells others.
package struct PlaygroundState: Codable {
    package struct Member: Codable {
        package let name: String
        package let pid: Int32
        package init(name: String, pid: Int32) { (self.name, self.pid) = (name, pid) }
    }
    package var pid: Int32
    package var metadataAddress: String
    package var nbdSocket: String
    package var nbdURIs: [String]
    /// Where a volume is served over iSCSI, if one is.
    package var iscsiURL: String?
    package var volume: String
    package var members: [Member]
    package init(
        pid: Int32, metadataAddress: String, nbdSocket: String, nbdURIs: [String], volume: String,
        members: [Member]
    ) {
        (self.pid, self.metadataAddress, self.nbdSocket) = (pid, metadataAddress, nbdSocket)
        (self.nbdURIs, self.volume, self.members) = (nbdURIs, volume, members)
    }
}

/// A lock that ends with the process, however it ends.
package final class FolderLock {
    private let descriptor: Int32

    /// - Throws: a ``ToolError`` that names the process which holds it.
    package init(_ folder: PlaygroundFolder) throws {
        descriptor = open(folder.lockFile, O_RDWR | O_CREAT | O_CLOEXEC, 0o644)
        guard descriptor >= 0 else { throw ToolError.failed("cannot write \(folder.lockFile)") }
        guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
            let holder = Self.holder(of: folder).map { " (pid \($0))" } ?? ""
            throw ToolError.failed(
                "a playground already runs in \(folder.path)\(holder); stop it with 'curve playground down', "
                    + "or choose another folder with --data")
        }
        let pid = Array("\(getpid())\n".utf8)
        _ = ftruncate(descriptor, 0)
        _ = pid.withUnsafeBytes { unsafe pwrite(descriptor, $0.baseAddress, $0.count, 0) }
    }
    deinit { close(descriptor) }

    /// The pid of the process that holds the folder's lock now, if one does.
    package static func holder(of folder: PlaygroundFolder) -> Int32? {
        let probe = open(folder.lockFile, O_RDONLY | O_CLOEXEC)
        guard probe >= 0 else { return nil }
        defer { close(probe) }
        if flock(probe, LOCK_SH | LOCK_NB) == 0 { return nil }
        let text = (try? String(contentsOfFile: folder.lockFile, encoding: .utf8)) ?? ""
        return Int32(text.trimmingCharacters(in: .whitespacesAndNewlines))
    }
}
