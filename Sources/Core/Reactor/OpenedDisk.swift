import BlockTypes
import CLinux
import Environment
import Glibc

extension ReactorDisk {
    /// Opens a block device or regular file and locks it.
    /// - Throws: ``DiskOpenError`` that names the path, who holds it, and what to do.
    public static func open(
        _ reactor: Reactor, path: String, mode: DiskMode = .readWrite
    ) throws(DiskOpenError) -> ReactorDisk {
        let opened = try Predecessor.outlive { () throws(DiskOpenError) -> OpenedDisk in
            try OpenedDisk(path, mode, fault: reactor.fault)
        } isTaken: {
            if case .busy = $0 { true } else { false }
        }
        if !opened.isDirect {
            reactor.log(
                .notice, "\(path): its file system has no direct I/O; the page cache is used and flushed")
        }
        return ReactorDisk(reactor, opened)
    }
}

/// A descriptor with its lock and what was found out about it.
struct OpenedDisk {
    let path: String
    let descriptor: Int32
    let isDirect: Bool
    let geometry: DiskGeometry
    let discarding: ReactorDisk.Discarding

    init(_ path: String, _ mode: DiskMode, fault: (SystemCall) -> Int32?) throws(DiskOpenError) {
        self.path = path
        let (descriptor, isDirect) = try Self.openDirectly(path, mode, fault)
        do throws(DiskOpenError) {
            var about = stat()
            guard unsafe fstat(descriptor, &about) == 0 else {
                throw DiskOpenError(path, errno: errno, call: "fstat")
            }
            try Self.lock(descriptor, path, about, mode, fault)
            switch about.st_mode & S_IFMT {
            case S_IFREG: (geometry, discarding) = try Self.lookAtFile(descriptor, about, path)
            case S_IFBLK: (geometry, discarding) = try Self.lookAtDevice(descriptor, about, path)
            default: throw .notADisk(path: path)
            }
        } catch {
            close(descriptor)
            throw error
        }
        (self.descriptor, self.isDirect) = (descriptor, isDirect)
    }

    private static func openDirectly(
        _ path: String, _ mode: DiskMode, _ fault: (SystemCall) -> Int32?
    ) throws(DiskOpenError) -> (descriptor: Int32, isDirect: Bool) {
        var about = stat()
        guard unsafe stat(path, &about) == 0 else { throw DiskOpenError(path, errno: errno, call: "stat") }
        let isDevice = about.st_mode & S_IFMT == S_IFBLK
        guard isDevice || about.st_mode & S_IFMT == S_IFREG else { throw .notADisk(path: path) }
        // On a block device O_EXCL keeps out mounts and everybody else who claims it.
        let flags = (mode == .readWrite ? O_RDWR : O_RDONLY) | (isDevice && mode == .readWrite ? O_EXCL : 0)
        var isDirect = true
        var descriptor = unsafe fault(.open).map { -$0 } ?? curve_open(path, flags | curve_o_direct(), 0)
        if descriptor == -EINVAL {
            isDirect = false
            descriptor = unsafe curve_open(path, flags, 0)
        }
        if descriptor == -EBUSY {
            throw .busy(path: path, holder: DiskHolder.ofDevice(UInt64(about.st_rdev)))
        }
        guard descriptor >= 0 else { throw DiskOpenError(path, errno: -descriptor, call: "open") }
        return (descriptor, isDirect)
    }
    private static func lock(
        _ descriptor: Int32, _ path: String, _ about: stat, _ mode: DiskMode, _ fault: (SystemCall) -> Int32?
    ) throws(DiskOpenError) {
        let kind = mode == .readWrite ? LOCK_EX : LOCK_SH
        guard let why = fault(.lock) ?? (flock(descriptor, kind | LOCK_NB) == 0 ? nil : errno) else { return }
        guard why == EWOULDBLOCK else { throw DiskOpenError(path, errno: why, call: "flock") }
        throw .busy(path: path, holder: DiskHolder.ofLock(on: about))
    }
    private static func lookAtFile(
        _ descriptor: Int32, _ about: stat, _ path: String
    ) throws(DiskOpenError) -> (DiskGeometry, ReactorDisk.Discarding) {
        var (memory, offset) = (UInt32(0), UInt32(0))
        _ = unsafe curve_direct_alignment(descriptor, &memory, &offset)
        let known = [512, 4096].contains(Int(offset)) && memory <= offset
        let sectorBytes = known ? Int(offset) : 4096
        // Whatever the device below does: space that a write has allocated, or a discard has freed, is the
        // file system's metadata, and only a flush makes it last.
        let geometry = DiskGeometry(
            size: ByteCount(bytes: UInt64(about.st_size) / UInt64(sectorBytes) * UInt64(sectorBytes)),
            sectorBytes: sectorBytes, hasVolatileCache: true)
        return (geometry, .punchingHoles)
    }
    private static func lookAtDevice(
        _ descriptor: Int32, _ about: stat, _ path: String
    ) throws(DiskOpenError) -> (DiskGeometry, ReactorDisk.Discarding) {
        var (bytes, sectorBytes) = (UInt64(0), Int32(0))
        let code = unsafe min(
            curve_block_size_bytes(descriptor, &bytes), curve_block_sector_bytes(descriptor, &sectorBytes))
        guard code == 0 else { throw DiskOpenError(path, errno: -code, call: "ioctl") }
        guard [512, 4096].contains(sectorBytes) else {
            throw .unsupportedSectors(path: path, bytes: Int(sectorBytes))
        }
        let queue = BlockDeviceQueue(UInt64(about.st_rdev))
        let geometry = DiskGeometry(
            size: ByteCount(bytes: bytes), sectorBytes: Int(sectorBytes),
            hasVolatileCache: queue.hasVolatileCache)
        return (geometry, queue.canDiscard ? .blockDevice : .nothing)
    }
}

/// What the kernel says in /sys about a block device's queue.
struct BlockDeviceQueue {
    private let directory: String

    init(directory: String) { self.directory = directory }
    init(_ device: UInt64, root: String = "/sys/dev/block") {
        let node = "\(root)/\(curve_device_major(device)):\(curve_device_minor(device))"
        // A partition has no queue of its own; its disk is the directory above.
        directory =
            readSmallFile("\(node)/queue/write_cache") != nil ? "\(node)/queue" : "\(node)/../queue"
    }
    /// True unless the device says that it writes through: not knowing costs a flush, guessing costs data.
    var hasVolatileCache: Bool { readSmallFile("\(directory)/write_cache") != "write through" }
    var canDiscard: Bool {
        guard let text = readSmallFile("\(directory)/discard_max_bytes"), let bytes = UInt64(text) else {
            return false
        }
        return bytes > 0
    }
}

/// Finds out who uses a disk, for the error message.
enum DiskHolder {
    /// The process with a lock on the file, as far as /proc tells.
    static func ofLock(on about: stat, locks: String? = readSmallFile("/proc/locks", bytesMax: 1 << 20))
        -> String
    {
        let device = UInt64(about.st_dev)
        func hex(_ number: UInt32) -> String { (number < 16 ? "0" : "") + String(number, radix: 16) }
        let name = "\(hex(curve_device_major(device))):\(hex(curve_device_minor(device))):\(about.st_ino)"
        for line in (locks ?? "").split(separator: "\n") {
            let words = line.split(separator: " ")
            guard words.count >= 6, words[1] == "FLOCK", words[5] == name, let process = Int32(words[4])
            else {
                continue
            }
            let program = readSmallFile("/proc/\(process)/comm") ?? "unknown"
            return "process \(process) (\(program))"
        }
        return "another process"
    }
    /// Who has claimed a block device: a mount, or a device stacked on it.
    static func ofDevice(_ device: UInt64) -> String {
        let name = "\(curve_device_major(device)):\(curve_device_minor(device))"
        for line in (readSmallFile("/proc/self/mountinfo", bytesMax: 1 << 20) ?? "").split(separator: "\n") {
            let words = line.split(separator: " ")
            if words.count > 4, words[2] == name { return "the file system mounted on \(words[4])" }
        }
        return "another process, or a device built on it (see /sys/dev/block/\(name)/holders)"
    }
}
