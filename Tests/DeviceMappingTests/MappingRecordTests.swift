import BlockTypes
import Foundation
import Testing

@testable import DeviceMapping

@Suite struct MappingRecordTests {
    private var full: MappingRecord {
        var record = MappingRecord(
            path: "/databases/main orders", metadataServers: ["10.0.0.1:6700", "[::1]:6701"],
            holderKey: "map /x on host7")
        (record.index, record.cluster, record.volume) = (7, String(repeating: "ab", count: 16), 1 << 40)
        (record.isReadOnly, record.takesOver, record.connections, record.blockBytes) = (true, true, 4, 512)
        (record.requestTimeoutSeconds, record.deadConnectionTimeoutSeconds) = (9, 99)
        (record.errorAfterSeconds, record.cookie, record.refusesTrim) = (30, "pvc 1", true)
        (record.isDirect, record.usesIoctl) = (true, true)
        return record
    }

    @Test("what is written is read; unknown lines of a newer program are passed over")
    func text() throws {
        #expect(MappingRecord(full.text) == full)
        let least = MappingRecord(path: "/a", metadataServers: ["h:1"], holderKey: "k")
        #expect(MappingRecord(least.text) == least)
        #expect(MappingRecord(full.text + "shape round\n") == full)
    }
    @Test("the identifier names cluster and volume, never the path")
    func identifier() {
        var renamed = full
        renamed.path = "/elsewhere"
        #expect(renamed.identifier == full.identifier && !full.identifier.contains("orders"))
        #expect(full.identifier.hasPrefix(MappingRecord.identifierPrefix))
    }
    @Test("text cut at any byte is no record, or a whole one")
    func truncation() {
        let bytes = Array(full.text.utf8)
        for end in bytes.indices {
            guard let record = MappingRecord(String(decoding: bytes[..<end], as: UTF8.self)) else { continue }
            #expect(record.path == full.path && record.holderKey != "")
        }
    }
    @Test(
        "values that cannot be are refused",
        arguments: [
            ("connections 4", "connections 17"), ("connections 4", "connections x"),
            ("block-size 512", "block-size 1000"), ("dead-conn-timeout 99", "dead-conn-timeout 0"),
            ("read-only yes", "read-only perhaps"), ("device nbd7", "device sda"), ("path /", "path "),
            ("mapping 1", "mapping 2"), ("holder-key map /x on host7", "holder-key "),
        ])
    func nonsense(from: String, to: String) {
        #expect(full.text.contains(from))
        #expect(MappingRecord(full.text.replacing(from, with: to)) == nil)
    }
    @Test("a value that would begin a line of its own is seen before it is written")
    func lines() {
        var record = full
        #expect(record.isPlain)
        record.cookie = "a\nvolume 9"
        #expect(!record.isPlain)
    }

    @Test("state files are kept by device, and another device's file is not believed")
    func folder() throws {
        let path = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString).path
        defer { try? FileManager.default.removeItem(atPath: path) }
        let folder = MappingFolder(path: path)
        #expect(folder.records().isEmpty && folder.record(of: 3) == nil)
        try folder.save(full, of: 3)
        try folder.save(full, of: 12)
        var kept = full
        (kept.index, kept.takesOver) = (3, false)
        #expect(folder.record(of: 3) == kept && folder.records().map(\.index) == [3, 12])
        try FileManager.default.copyItem(atPath: "\(path)/nbd3", toPath: "\(path)/nbd4")
        try Data("nonsense".utf8).write(to: URL(fileURLWithPath: "\(path)/nbd5"))
        #expect(folder.records().map(\.index) == [3, 12])
        folder.remove(3)
        folder.remove(3)
        #expect(folder.records().map(\.index) == [12])
    }
}

@Suite struct DaemonSocketTests {
    @Test("questions and answers are read as they were written")
    func texts() throws {
        let record = MappingRecord(path: "/a", metadataServers: ["h:1"], holderKey: "k")
        for question in [DaemonSocket.Question("status"), DaemonSocket.Question("map", record)] {
            #expect(question.text.hasSuffix("\n\n"))
            #expect(DaemonSocket.Question(parsing: question.text) == question)
        }
        for answer in [DaemonSocket.Answer.done("/dev/nbd0"), .done(""), .failed("no, because", status: 1)] {
            #expect(DaemonSocket.Answer(String(answer.line.dropLast())) == answer)
        }
        #expect(DaemonSocket.Answer.failed("two\nlines", status: 2).line == "error 2 two lines\n")
    }
    @Test("nonsense is no question and no answer", arguments: ["", "\n", "map", "map\nrecord\n\n", "\n\n"])
    func nonsense(text: String) {
        #expect(DaemonSocket.Question(parsing: text) == nil)
        #expect(DaemonSocket.Answer(text) == nil)
    }
    @Test("nobody listens: no answer, and no error")
    func nobody() throws {
        let path = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString).path
        #expect(try DaemonSocket.ask(DaemonSocket.Question("status"), timeoutSeconds: 1, at: path) == nil)
    }
}

@Suite struct CurvetabTests {
    @Test("lines with + count, others are for people")
    func table() throws {
        let text = """
            # volumes of this machine
            + /db/orders  io-timeout=5,ro  /srv/orders  noatime,discard
            \t+   logs
            - /db/archive device=/dev/nbd7

            + /c - /mnt
            """
        let entries = try CurvetabEntry.entries(in: text)
        #expect(entries.map(\.volume) == ["/db/orders", "/logs", "/c"])
        #expect(entries.map(\.options) == ["io-timeout=5,ro", "", ""])
        #expect(entries.map(\.mountPoint) == ["/srv/orders", nil, "/mnt"])
        #expect(entries.map(\.mountOptions) == ["noatime,discard", "", ""])
        #expect(try CurvetabEntry.entries(in: "").isEmpty)
    }
    @Test(
        "the first line that makes no sense is named",
        arguments: [
            ("+ /a\n* /b", 2), ("+", 1), ("+ -", 1), ("+ /a - mnt", 1), ("\n\n+ /a b /c d e", 3),
        ])
    func nonsense(text: String, line: Int) {
        #expect { try CurvetabEntry.entries(in: text) } throws: { ($0 as? CurvetabError)?.line == line }
    }
}
