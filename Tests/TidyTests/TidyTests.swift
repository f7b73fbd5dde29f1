import Foundation
import Testing

/// The walls of the house (docs/DESIGN.md, section 5), held by a machine.
@Suite struct TidyTests {
    static let root = URL(fileURLWithPath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
    static let linesPerFileMax = 600
    static let linesPerFunctionMax = 70
    static let columnsMax = 110

    /// Rooms of pure logic: values in, effects out.
    static let cores = [
        "Core/BlockTypes", "Core/CurveWire", "ClientLib/VolumeCore", "Cluster/Raft", "Cluster/ChunkStore",
        "Cluster/MetadataCore", "CurveNBD/NBDProtocol", "ISCSITarget/ISCSIProtocol",
        "ISCSITarget/SCSIBoundary", "ISCSITarget/SCSICommands", "ISCSITarget/ISCSIConfiguration",
    ]
    static let bannedInCores = [
        "import Foundation", "import Glibc", "import Dispatch", "import Reactor", "import CLinux",
        "import Synchronization", " async ", "await ", " Task {", " Task.", "actor ", "Date()",
        "ContinuousClock", "SuspendingClock", "SystemRandomNumberGenerator", ".randomElement()", "getenv(",
        "DispatchQueue", "print(",
    ]
    /// Shells run in the simulator too: they wait only through `Environment`.
    static let shells = [
        "Cluster/ChunkServer", "Cluster/MetadataServer", "CurveNBD/NBDServer",
        "ISCSITarget/ISCSIServer", "ISCSITarget/ISCSICoordination", "ISCSITarget/ISCSIGateway",
        "Core/FramedLink", "Core/ControlMessages",
        "Core/Simulation",
    ]
    static let bannedInShells = [
        "import Glibc", "import Dispatch", "import Reactor", "import CLinux", " async ", "await ", " Task {",
        "actor ", "Date()", "ContinuousClock", "SystemRandomNumberGenerator", "print(",
    ]

    struct Line {
        let file: String
        let number: Int
        let text: String
    }

    static func swiftFiles(below folder: String) -> [URL] {
        let base = root.appendingPathComponent(folder)
        guard let walker = FileManager.default.enumerator(at: base, includingPropertiesForKeys: nil) else {
            return []
        }
        return walker.compactMap { $0 as? URL }.filter { $0.pathExtension == "swift" }
            .sorted { $0.path < $1.path }
    }

    /// Lines of the folder's sources without generated files.
    static func sources(below folder: String) throws -> [(name: String, lines: [String])] {
        try swiftFiles(below: folder).compactMap { url in
            let text = try String(contentsOf: url, encoding: .utf8)
            if url.lastPathComponent.hasSuffix(".pb.swift") { return nil }
            let name = String(url.path.dropFirst(root.path.count + 1))
            return (name, text.components(separatedBy: "\n"))
        }
    }

    static func code(_ line: String) -> Substring {
        guard let comment = line.range(of: "//") else { return line[...] }
        return line[..<comment.lowerBound]
    }

    static func search(_ folder: String, for banned: [String], why: String, except: Set<String> = []) throws {
        for (name, lines) in try sources(below: "Sources/\(folder)") {
            for (index, line) in lines.enumerated() {
                for word in banned where code(line).contains(word) && !except.contains("\(name):\(word)") {
                    Issue.record("\(name):\(index + 1): \(why) '\(word)'")
                }
            }
        }
    }

    @Test("cores do no I/O, read no clock and never suspend", arguments: cores)
    func coresArePure(room: String) throws {
        // One lock guards the pool of payload memory, which any thread may give back to.
        try Self.search(
            room, for: Self.bannedInCores, why: "a core may not use",
            except: ["Sources/Core/BlockTypes/Payload.swift:import Synchronization"])
    }

    @Test("shells wait only through Environment", arguments: shells)
    func shellsUsePorts(room: String) throws {
        try Self.search(room, for: Self.bannedInShells, why: "a shell may not use")
    }

    @Test("nothing in Sources traps on what the world does")
    func noForce() throws {
        for (name, lines) in try Self.sources(below: "Sources") {
            for (index, line) in lines.enumerated() {
                let code = Self.code(line)
                for word in ["try!", "as!", "fatalError(", "unowned(unsafe)"] where code.contains(word) {
                    if name == "Sources/Core/BlockTypes/Machine.swift", word == "fatalError(" { continue }
                    Issue.record("\(name):\(index + 1): '\(word)' is not allowed in Sources")
                }
            }
        }
    }

    @Test("files, functions and lines stay small", arguments: ["Sources", "Tests"])
    func sizes(folder: String) throws {
        for (name, lines) in try Self.sources(below: folder) {
            if lines.count > Self.linesPerFileMax + 1 {
                Issue.record("\(name): \(lines.count) lines, at most \(Self.linesPerFileMax)")
            }
            // A message is searched for as a whole, so a line with a literal may be longer.
            for (index, line) in lines.enumerated() where line.count > Self.columnsMax && !line.contains("\"")
            {
                Issue.record("\(name):\(index + 1): \(line.count) columns, at most \(Self.columnsMax)")
            }
            for (start, length) in Self.functions(in: lines) where length > Self.linesPerFunctionMax {
                Issue.record(
                    "\(name):\(start + 1): a function of \(length) lines, at most \(Self.linesPerFunctionMax)"
                )
            }
        }
    }

    /// Functions by their indentation: from `func` or `init` to the brace that closes at the same column.
    static func functions(in lines: [String]) -> [(start: Int, length: Int)] {
        var found: [(Int, Int)] = []
        for (index, line) in lines.enumerated() {
            let trimmed = line.drop { $0 == " " }
            let isFunction =
                code(line).contains("func ")
                || (trimmed.contains("init(") || trimmed.contains("init?(")) && !trimmed.contains(".init(")
            // A body opens on this line, or the signature goes on below it; a protocol's requirement does
            // neither.
            guard isFunction, let last = code(line).last, last == "{" || last == "(" else { continue }
            let indent = line.count - trimmed.count
            let closing = String(repeating: " ", count: indent) + "}"
            for end in (index + 1)..<max(index + 1, lines.count) where lines[end].hasPrefix(closing) {
                if lines[end] == closing || lines[end].hasPrefix(closing + " ") {
                    found.append((index, end - index + 1))
                    break
                }
            }
        }
        return found
    }

    @Test("every room has a page at its door")
    func readmes() {
        let base = Self.root.appendingPathComponent("Sources")
        for wing in ["Core", "ClientLib", "Cluster", "CurveNBD", "ISCSITarget"] {
            let folder = base.appendingPathComponent(wing)
            let rooms = (try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? []
            for room in rooms.sorted() {
                let page = folder.appendingPathComponent(room).appendingPathComponent("README.md")
                let text = (try? String(contentsOf: page, encoding: .utf8)) ?? ""
                if text.count < 400 {
                    Issue.record("Sources/\(wing)/\(room): README.md is missing or says nothing")
                }
            }
        }
    }

    @Test("the project speaks of itself alone")
    func words() throws {
        let banned = ["TODO", "FIXME", "HACK", "XXX:"]
        for folder in ["Sources", "Tests"] {
            for (name, lines) in try Self.sources(below: folder) where !name.hasPrefix("Tests/TidyTests") {
                for (index, line) in lines.enumerated() {
                    for word in banned where line.contains(word) {
                        Issue.record("\(name):\(index + 1): '\(word)': do it or open an issue")
                    }
                }
            }
        }
    }
}
