import Foundation

/// Files that people name, read up to a bound, whatever they turn out to be.
package enum NamedFile {
    /// Reads one.
    /// - Parameters:
    ///   - path: what was typed; `nil`: standard input.
    ///   - bytesMax: what is longer is refused.
    ///   - what: `file`, `secret file`: for the sentence.
    ///   - look: judges the file before it is read.
    package static func read(
        _ path: String?, bytesMax: Int, what: String = "file", look: (stat) throws -> Void = { _ in }
    ) throws -> Data {
        let name = path.map { "the \(what) '\($0)'" } ?? "standard input"
        let descriptor = path.map { open($0, O_RDONLY | O_CLOEXEC) } ?? STDIN_FILENO
        guard descriptor >= 0 else {
            throw ToolError(
                status: errno == ENOENT ? 1 : 2,
                description: "\(name) cannot be read: \(systemWords(errno)); correct the path")
        }
        let handle = FileHandle(fileDescriptor: descriptor, closeOnDealloc: path != nil)
        var status = stat()
        guard fstat(descriptor, &status) == 0 else {
            throw ToolError.failed("\(name) cannot be read: \(systemWords(errno)); name a file")
        }
        try look(status)
        var data = Data()
        do {
            while data.count <= bytesMax,
                let more = try handle.read(upToCount: bytesMax + 1 - data.count), !more.isEmpty
            { data += more }
        } catch {
            let cause = (error as NSError).userInfo[NSUnderlyingErrorKey] as? NSError
            let why = cause.map { systemWords(Int32($0.code)) } ?? "\(error)"
            throw ToolError.failed("\(name) cannot be read: \(why); name a file")
        }
        guard data.count <= bytesMax else {
            throw ToolError.failed("\(name) has more than \(bytesMax) bytes; name the right one")
        }
        return data
    }
}
