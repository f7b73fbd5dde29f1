import Environment
import Foundation
import Testing

@testable import Reactor

@Suite struct FileLockTests {
    private let path = NSTemporaryDirectory() + "file-lock-\(UUID().uuidString)"

    @Test("one holds it, the others read its note; released or let go it is free again")
    func oneHolder() throws {
        defer { unlink(path) }
        var first: FileLock? = FileLock(path: path)
        let second = FileLock(path: path)
        #expect(try first?.take(note: "a longer note of the first") == nil)
        #expect(try first?.take(note: "again") == nil)
        #expect(try second.take(note: "second") == "a longer note of the first")
        first?.release()
        #expect(try second.take(note: "second") == nil)
        #expect(try first?.take(note: "first") == "second")
        second.release()
        #expect(try first?.take(note: "first") == nil)
        first = nil
        #expect(try second.take(note: "second") == nil)
    }

    @Test("the lock ends with the process that holds it, and not while that stands still")
    func deadHolder() throws {
        defer { unlink(path) }
        let holder = Process()
        let output = Pipe()
        holder.executableURL = URL(fileURLWithPath: "/usr/bin/flock")
        holder.arguments = ["--no-fork", path, "sh", "-c", "echo held; exec sleep 100"]
        holder.standardOutput = output
        try holder.run()
        _ = output.fileHandleForReading.availableData
        let lock = FileLock(path: path)
        #expect(try lock.take(note: "us") != nil)
        kill(holder.processIdentifier, SIGSTOP)
        #expect(try lock.take(note: "us") != nil)
        kill(holder.processIdentifier, SIGKILL)
        holder.waitUntilExit()
        #expect(try lock.take(note: "us") == nil)
    }

    @Test("a place where no lock can be is named")
    func refusal() {
        let lock = FileLock(path: path + "/no/such/folder")
        #expect { try lock.take(note: "") } throws: { "\($0)".contains("/no/such/folder") }
    }
}
