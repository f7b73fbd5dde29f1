import BlockTypes
import Testing

@testable import MetadataCore

@Suite struct NamespaceTests {
    @Test("volumes and directories are listed in order, one level or all")
    func listing() throws {
        let bench = try Bench.ready()
        try bench.ask(.createDirectory(path: "/b/c", parents: true))
        try bench.ask(.createDirectory(path: "/a", parents: false))
        for path in ["/z", "/b/v", "/b/c/w", "/b/c/a"] { try bench.create(path) }
        #expect(try bench.listing("/") == ["/a/", "/b/", "/z"])
        #expect(try bench.listing("/b") == ["/b/c/", "/b/v"])
        #expect(
            try bench.listing("/", recursive: true)
                == ["/a/", "/b/", "/b/c/", "/b/c/a", "/b/c/w", "/b/v", "/z"])
        #expect(try bench.listing("/z") == ["/z"])
        #expect(bench.refusal(.list(path: "/q", recursive: false))?.code == .notFound)
    }

    @Test("a path without its first slash means the same")
    func missingSlash() throws {
        let bench = try Bench.ready()
        try bench.create("demo")
        #expect(try bench.info("/demo").path == "/demo")
    }

    @Test(
        "a bad name is refused with what is wrong with it",
        arguments: [
            ("", "a path is missing"), ("/a//b", "empty name"), ("/a/", "empty name"), ("/.", ". or .."),
            ("/a/..", ". or .."), ("/a\nb", "control character"), ("/a\u{9B}b", "control character"),
            ("/a\0", "control character"), ("/" + String(repeating: "x", count: 256), "256 bytes"),
            ("/" + Array(repeating: "d", count: 17).joined(separator: "/"), "at most 16"),
            (String(repeating: "/aaaa", count: 10_000), "at most 16"),
        ])
    func badNames(path: String, why: String) throws {
        let bench = try Bench.ready()
        let refusal = try #require(bench.refusal(.createDirectory(path: path, parents: true)))
        #expect(refusal.code == .badRequest)
        #expect(refusal.message.contains(why), "\(refusal.message)")
        #expect(refusal.message.utf8.count < 1000)
        #expect(!refusal.message.contains("\n"))
    }

    @Test("a name of 255 bytes and a path of 16 names are fine")
    func longNames() throws {
        let bench = try Bench.ready()
        let name = String(repeating: "é", count: 127) + "x"
        let path = "/" + Array(repeating: name, count: 15).joined(separator: "/")
        try bench.ask(.createDirectory(path: path, parents: true))
        try bench.create(path + "/" + name)
        #expect(try bench.info(path + "/" + name).path == path + "/" + name)
    }

    @Test("nothing is made twice, and nothing is made in a directory that does not exist")
    func creation() throws {
        let bench = try Bench.ready()
        try bench.create("/v")
        try bench.ask(.createDirectory(path: "/d", parents: false))
        try bench.ask(.createDirectory(path: "/d", parents: true))
        for path in ["/v", "/d"] {
            #expect(bench.refusal(.createDirectory(path: path, parents: false))?.code == .alreadyExists)
            let request = MetadataRequest.createVolume(
                path: path, sizeBytes: 1 << 20, pool: "", stripeUnitBytes: 0, stripeCount: 0)
            #expect(bench.refusal(request)?.code == .alreadyExists)
        }
        let missing = bench.refusal(.createDirectory(path: "/x/y", parents: false))
        #expect(missing?.message.contains("no directory /x; create it first") == true)
        #expect(bench.refusal(.createDirectory(path: "/v/y", parents: true))?.code == .alreadyExists)
        #expect(bench.refusal(.createDirectory(path: "/", parents: false))?.code == .alreadyExists)
        #expect(bench.refusal(.volume(path: "/d"))?.message.contains("is a directory") == true)
    }

    @Test("a directory goes away only when it is empty, the root never")
    func deleteDirectory() throws {
        let bench = try Bench.ready()
        try bench.ask(.createDirectory(path: "/d/e", parents: true))
        #expect(bench.refusal(.deleteDirectory(path: "/d"))?.code == .notEmpty)
        #expect(bench.refusal(.deleteDirectory(path: "/"))?.code == .badRequest)
        #expect(bench.refusal(.deleteDirectory(path: "/q"))?.code == .notFound)
        try bench.ask(.deleteDirectory(path: "/d/e"))
        try bench.ask(.deleteDirectory(path: "/d"))
        #expect(try bench.listing("/") == [])
    }

    @Test("a volume moves with its data, a directory with all that is in it")
    func rename() throws {
        let bench = try Bench.ready()
        try bench.ask(.createDirectory(path: "/d/e", parents: true))
        let id = try bench.create("/v").row.id
        guard case .volume(let moved) = try bench.ask(.rename(from: "/v", to: "/d/e/w")) else {
            throw Bench.Wrong.reply
        }
        #expect((moved.row.id, moved.path) == (id, "/d/e/w"))
        try bench.ask(.rename(from: "/d/e", to: "/f"))
        #expect(try bench.listing("/", recursive: true) == ["/d/", "/f/", "/f/w"])
        #expect(try bench.info("/f/w").row.id == id)
    }

    @Test("a move onto something, into itself, out of nothing, or too deep is refused")
    func badMoves() throws {
        let bench = try Bench.ready()
        try bench.ask(.createDirectory(path: "/d/e", parents: true))
        try bench.create("/v")
        #expect(bench.refusal(.rename(from: "/v", to: "/d"))?.code == .alreadyExists)
        #expect(bench.refusal(.rename(from: "/d", to: "/d/e/f"))?.code == .badRequest)
        #expect(bench.refusal(.rename(from: "/", to: "/r"))?.code == .badRequest)
        #expect(bench.refusal(.rename(from: "/q", to: "/r"))?.code == .notFound)
        #expect(bench.refusal(.rename(from: "/v", to: "/x/y"))?.code == .notFound)
        let deep = "/" + Array(repeating: "n", count: 15).joined(separator: "/")
        try bench.ask(.createDirectory(path: deep, parents: true))
        #expect(bench.refusal(.rename(from: "/d", to: deep + "/d"))?.code == .badRequest)
        try bench.ask(.rename(from: "/d/e", to: deep + "/e"))
    }

    @Test("a listing that would not fit a message is refused")
    func listingBound() throws {
        var limits = MetadataLimits()
        limits.listingBytesMax = 400
        let bench = try Bench.ready(limits: limits)
        for name in ["/a", "/b", "/c"] { try bench.create(name) }
        #expect(try bench.listing("/").count == 3)
        try bench.create("/d")
        #expect(bench.refusal(.list(path: "/", recursive: false))?.code == .badRequest)
    }

    @Test("UTC text is right on ordinary and on odd days")
    func utc() {
        #expect(utcText(secondsSince1970: 0) == "1970-01-01 00:00:00 UTC")
        #expect(utcText(secondsSince1970: 951_782_400) == "2000-02-29 00:00:00 UTC")
        #expect(utcText(secondsSince1970: 1_763_715_600) == "2025-11-21 09:00:00 UTC")
        #expect(utcText(secondsSince1970: 4_107_542_399) == "2100-02-28 23:59:59 UTC")
        #expect(utcText(secondsSince1970: 4_107_542_400) == "2100-03-01 00:00:00 UTC")
    }
}
