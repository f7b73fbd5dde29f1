import BlockTypes
import CLinux
import Environment
import Glibc

extension ReactorDisk {
    /// How a new file gets its space.
    public enum Provisioning: Hashable, Sendable {
        /// Every byte is written once, so that later writes neither allocate nor find the file system full.
        case prewritten
        /// Space is taken when something is written.
        case lazy
    }

    /// Makes a file that can be opened as a disk. Blocks; meant for tools, before any loop runs.
    /// - Parameters:
    ///   - size: a multiple of 4096.
    ///   - progress: told how much is written, after each MiB or so.
    /// - Throws: ``DiskOpenError``; then nothing is left at `path` that was not there before.
    public static func create(
        path: String, size: ByteCount, provisioning: Provisioning, progress: (ByteCount) -> Void = { _ in }
    ) throws(DiskOpenError) {
        try create(path, size, provisioning, progress, faults: nil)
    }

    static func create(
        _ path: String, _ size: ByteCount, _ provisioning: Provisioning, _ progress: (ByteCount) -> Void,
        faults: CallFaults?
    ) throws(DiskOpenError) {
        invariant(
            size.bytes > 0 && size.bytes % 4096 == 0 && size.bytes <= UInt64(Int64.max), "a size of \(size)")
        let flags = O_RDWR | O_CREAT | O_EXCL
        var descriptor = unsafe curve_open(path, flags | curve_o_direct(), 0o600)
        if descriptor == -EINVAL {
            // Some systems make the file before they refuse direct I/O.
            unsafe unlink(path)
            descriptor = unsafe curve_open(path, flags, 0o600)
        }
        guard descriptor >= 0 else { throw DiskOpenError(path, errno: -descriptor, call: "create") }
        defer { Glibc.close(descriptor) }
        do throws(DiskOpenError) {
            try fill(descriptor, path, size, provisioning, progress, faults)
        } catch {
            unsafe unlink(path)
            throw error
        }
    }
    private static func fill(
        _ descriptor: Int32, _ path: String, _ size: ByteCount, _ provisioning: Provisioning,
        _ progress: (ByteCount) -> Void, _ faults: CallFaults?
    ) throws(DiskOpenError) {
        func failed(_ errno: Int32, _ call: String) -> DiskOpenError {
            errno == ENOSPC || errno == EDQUOT || errno == EFBIG
                ? .full(path: path, wanted: size) : DiskOpenError(path, errno: errno, call: call)
        }
        switch provisioning {
        case .lazy:
            guard ftruncate(descriptor, off_t(size.bytes)) == 0 else { throw failed(errno, "ftruncate") }
        case .prewritten:
            // Asked first, because finding out after an hour of writing is worse.
            if let why = faults.fault(.allocate) ?? allocate(descriptor, size) {
                throw failed(why, "allocate")
            }
            if let why = writeZeroes(descriptor, size, progress, faults) { throw failed(why, "write") }
        }
        if let why = faults.fault(.flush) ?? (fsync(descriptor) == 0 ? nil : errno) {
            throw failed(why, "fsync")
        }
        if let why = syncDirectory(of: path) { throw failed(why, "fsync of the directory of") }
    }
    /// - Returns: an errno; `nil` also when the file system cannot reserve space.
    private static func allocate(_ descriptor: Int32, _ size: ByteCount) -> Int32? {
        let code = curve_allocate(descriptor, size.bytes)
        return code == 0 || code == -EOPNOTSUPP ? nil : -code
    }
    private static let pieceBytes = 4 << 20
    private static func writeZeroes(
        _ descriptor: Int32, _ size: ByteCount, _ progress: (ByteCount) -> Void, _ faults: CallFaults?
    ) -> Int32? {
        let piece = BlockBuffer(byteCount: pieceBytes)
        unsafe piece.bytes.initializeMemory(as: UInt8.self, repeating: 0)
        var done: UInt64 = 0
        while done < size.bytes {
            var wanted = Int(min(UInt64(pieceBytes), size.bytes - done))
            switch faults?.decide(.write) {
            case .fail(let errno): if errno != EINTR { return errno } else { continue }
            case .short(let bytes): wanted = min(wanted, bytes)
            case nil: break
            }
            let count = unsafe pwrite(descriptor, piece.bytes.baseAddress, wanted, off_t(done))
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { return count == 0 ? EIO : errno }
            done += UInt64(count)
            progress(ByteCount(bytes: done))
        }
        return nil
    }
    /// Without it a power failure may forget the file's name.
    private static func syncDirectory(of path: String) -> Int32? {
        let parent = path.lastIndex(of: "/").map { path[..<$0].isEmpty ? "/" : String(path[..<$0]) } ?? "."
        let descriptor = unsafe curve_open(parent, O_RDONLY | O_DIRECTORY, 0)
        guard descriptor >= 0 else { return -descriptor }
        defer { Glibc.close(descriptor) }
        return fsync(descriptor) == 0 || errno == EINVAL ? nil : errno
    }
}

extension CallFaults? {
    fileprivate func fault(_ call: SystemCall) -> Int32? {
        guard let self, case .fail(let errno) = self.decide(call) else { return nil }
        return errno
    }
}
