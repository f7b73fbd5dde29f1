import Foundation
import Testing

@testable import ToolSupport

@Suite struct ToolSupportTests {
    @Test(
        "sizes are read as people write them",
        arguments: [
            ("4096", 4096), ("0", 0), ("4k", 4096), ("1K", 1024), ("20G", 20 << 30), ("512MiB", 512 << 20),
            ("1gb", 1 << 30), ("1.5G", 3 << 29), ("0.5k", 512), ("1P", 1 << 50), ("2.125M", 17 << 17),
        ] as [(String, UInt64)])
    func sizes(text: String, bytes: UInt64) { #expect(ByteSize(argument: text)?.bytes == bytes) }

    @Test(
        "what is no size is refused",
        arguments: [
            "", "G", "lots", "-5", "+5", "1e9", "1.5", "1.3G", "1.G", ".5G", "1.2.3G", "1.0001G", " 1G",
            "1G ",
            "99999999999999999999", "18446744073709551615k", "16384P", "1.5X",
        ])
    func noSizes(text: String) { #expect(ByteSize(argument: text) == nil, "\(text)") }

    @Test("a size is shown by the largest unit that gives a whole number, and reads back")
    func sizeText() {
        for (bytes, text) in [(0, "0"), (1000, "1000"), (4096, "4K"), (3 << 29, "1536M"), (4 << 30, "4G")] {
            let size = ByteSize(bytes: UInt64(bytes))
            #expect(size.description == text)
            #expect(ByteSize(argument: text) == size)
        }
    }

    @Test("a sentence stays on its line, and does nothing to the terminal")
    func lines() {
        #expect(Text.line("no volume /größe 👍") == "no volume /größe 👍")
        #expect(Text.line("'a\nb\u{1b}[31m\0\u{2028}'") == "'a\\nb\\u{1B}[31m\\0\\u{2028}'")
    }

    @Test("columns are as wide as what they show, and cut nothing off")
    func tables() {
        #expect(
            Text.table([["USER", "N"], ["👍👍👍👍👍", "1"], ["ü", ""]]) == "USER   N\n👍👍👍👍👍  1\nü")
    }

    @Test("a command line that is not understood gets one line that names the help")
    func usage() {
        let full = "Error: Unknown option '--x'\nUsage: t v\n  See 't v --help' for more information."
        #expect(Text.usage("Unknown option '--x'", in: full) == "Unknown option '--x'; see 't v --help'")
        #expect(
            Text.usage("'--x'. Did you mean '--y'?", in: full)
                == "'--x'. Did you mean '--y'? See 't v --help'")
        #expect(Text.usage("One of:\n  a\n  b.", in: "Error: One of:") == "One of: a b")
    }

    @Test("a file that is read to a bound: a folder, one that is missing, one that is long")
    func namedFiles() throws {
        let path = NSTemporaryDirectory() + "tool-support-\(UUID().uuidString)"
        defer { try? FileManager.default.removeItem(atPath: path) }
        try Data("four".utf8).write(to: URL(fileURLWithPath: path))
        #expect(try NamedFile.read(path, bytesMax: 4) == Data("four".utf8))
        #expect(try NamedFile.read("/dev/null", bytesMax: 4) == Data())
        let cases: [(String, Int, Int32, String)] = [
            (path, 3, 2, "has more than 3 bytes"), ("/dev/zero", 4, 2, "has more than 4 bytes"),
            (path + "/x", 4, 2, "Not a directory; correct the path"),
            (path + "-x", 4, 1, "No such file or directory; correct the path"),
            (NSTemporaryDirectory(), 4, 2, "Is a directory; name a file"),
        ]
        for (path, bytesMax, status, words) in cases {
            let error = #expect(throws: ToolError.self) { try NamedFile.read(path, bytesMax: bytesMax) }
            #expect(error?.description.contains(words) == true, "\(error?.description ?? "")")
            #expect(error?.status == status)
        }
    }

    @Test("a folder is made with what is missing above it, or the reason is named")
    func folders() throws {
        let root = NSTemporaryDirectory() + "tool-support-\(UUID().uuidString)"
        defer { try? FileManager.default.removeItem(atPath: root) }
        try makeFolder(root + "/a/b", for: "a test")
        try makeFolder(root + "/a/b/", for: "a test")
        #expect(FileManager.default.createFile(atPath: root + "/file", contents: Data()))
        for (path, why) in [(root + "/file/x", "Not a directory"), (root + "/file", "is not a folder")] {
            let error = #expect(throws: ToolError.self) { try makeFolder(path, for: "a test") }
            #expect(error?.description.contains(why) == true, "\(error?.description ?? "")")
            #expect(error?.status == 2)
        }
    }

    @Test("an address in the state file counts only while its playground runs")
    func knownAddress() throws {
        let folder = PlaygroundFolder(path: NSTemporaryDirectory() + "tool-support-\(UUID().uuidString)")
        defer { try? FileManager.default.removeItem(atPath: folder.path) }
        try folder.prepare()
        let state = PlaygroundState(
            pid: getpid(), metadataAddress: "127.0.0.1:6700", nbdSocket: "", nbdURIs: [], volume: "",
            members: [])
        try JSONEncoder().encode(state).write(to: URL(fileURLWithPath: folder.stateFile))
        #expect(folder.knownMetadataAddress == nil)
        let lock = try FolderLock(folder)
        withExtendedLifetime(lock) { #expect(folder.knownMetadataAddress == "127.0.0.1:6700") }
    }

    @Test("a throw-away folder goes as a whole, another's folder stays")
    func removal() throws {
        let folder = PlaygroundFolder(path: NSTemporaryDirectory() + "tool-support-\(UUID().uuidString)")
        try folder.prepare()
        try makeFolder(folder.chunkserver(1), for: "a test")
        try folder.removeThrowAway()
        #expect(!FileManager.default.fileExists(atPath: folder.path))
        try makeFolder(folder.path + "/mine", for: "a test")
        defer { try? FileManager.default.removeItem(atPath: folder.path) }
        try folder.removeThrowAway()
        #expect(FileManager.default.fileExists(atPath: folder.path + "/mine"))
    }
}
