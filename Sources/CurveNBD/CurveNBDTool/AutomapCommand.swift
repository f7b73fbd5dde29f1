import ArgumentParser
import DeviceMapping
import Foundation
import ToolSupport

/// Maps and mounts what a table names, as a machine does when it starts.
struct AutomapCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "automap", abstract: "Map and mount the volumes of \(CurvetabEntry.standardPath).",
        discussion: """
            A line of the table:  + VOLUME OPTIONS MOUNT-POINT MOUNT-OPTIONS
            '-' in a place means none; a line that begins with '-' is passed over. What is mapped \\
            or mounted already stays. --stop unmounts and unmaps, the last line first.
            """)
    @Option(help: "The table.") var file = CurvetabEntry.standardPath
    @Flag(help: "Unmount and unmap instead.") var stop = false
    @OptionGroup var metadata: MetadataOptions

    func run() throws {
        guard let text = try? String(contentsOfFile: file, encoding: .utf8) else {
            throw ToolError.notFound("cannot read \(file); a line of it: + /VOLUME OPTIONS /MOUNT-POINT")
        }
        let entries: [CurvetabEntry]
        do { entries = try CurvetabEntry.entries(in: text) } catch {
            throw ToolError.failed("\(file), \(error)")
        }
        // One volume that is in trouble does not keep the others away.
        var failure: ToolError?
        for entry in stop ? entries.reversed() : entries {
            do {
                if stop { try release(entry) } else { try provide(entry) }
            } catch let error as ToolError {
                ToolExit.say("\(entry.volume): \(error)")
                failure = error
            }
        }
        if let failure { throw ExitCode(failure.status) }
    }

    private func provide(_ entry: CurvetabEntry) throws {
        let device = try mapped(entry.volume) ?? map(entry)
        guard let point = entry.mountPoint else { return print("\(device)") }
        try makeFolder(point, for: "mounting \(entry.volume)")
        if isMounted(device, at: point) { return print("\(device) on \(point)") }
        try execute(
            ["mount"] + (entry.mountOptions.isEmpty ? [] : ["-o", entry.mountOptions]) + [device, point])
        print("\(device) on \(point)")
    }
    private func map(_ entry: CurvetabEntry) throws -> String {
        var arguments = [entry.volume]
        if !entry.options.isEmpty { arguments += ["-o", entry.options] }
        if let mds = metadata.mds { arguments += ["--mds", mds] }
        return try MapCommand.parse(arguments).map()
    }
    private func release(_ entry: CurvetabEntry) throws {
        guard let device = try mapped(entry.volume) else { return }
        if let point = entry.mountPoint, isMounted(device, at: point) { try execute(["umount", point]) }
        do { try DeviceRemoval.unmap(try DeviceName.index(device), force: false) } catch {
            throw (error as? ToolError) ?? DeviceName.toolError(error)
        }
    }

    /// The device that serves a volume now.
    private func mapped(_ volume: String) throws -> String? {
        guard let index = try? DeviceName.find(volume) else { return nil }
        return DaemonMark.pid(of: index) == nil ? nil : "/dev/nbd\(index)"
    }
    private func isMounted(_ device: String, at point: String) -> Bool {
        guard let index = BlockDeviceTable.index(of: device) else { return false }
        return BlockDeviceTable().device(index)?.users.contains("mounted on \(point)") ?? false
    }
    private func execute(_ words: [String]) throws {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = words
        let output = Pipe()
        process.standardError = output
        do { try process.run() } catch { throw ToolError.failed("cannot run \(words[0]): \(error)") }
        let said = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        guard process.terminationStatus == 0 else {
            let line =
                said.split(separator: "\n").first.map(String.init) ?? "status \(process.terminationStatus)"
            throw ToolError.failed("\(words.joined(separator: " ")): \(line)")
        }
    }
}
