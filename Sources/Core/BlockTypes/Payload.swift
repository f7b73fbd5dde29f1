import Synchronization

/// Block-aligned memory, shared by reference from the socket to the disk.
///
/// Filled once by whoever made it, then only read: whoever holds a ``Payload`` of it may read it from any
/// thread. Returns to its pool, if it has one, when the last reference goes.
@safe public final class BlockBuffer: @unchecked Sendable {
    // SAFETY: `memory` is allocated in init, freed in deinit, and written only before the buffer is shared.
    private let memory: UnsafeMutableRawPointer
    private let pool: BufferPool?
    /// Usable bytes.
    public let capacityBytes: Int

    /// Fresh memory of `byteCount` bytes, not cleared.
    public convenience init(byteCount: Int) {
        unsafe self.init(
            memory: .allocate(byteCount: byteCount, alignment: Geometry.blockBytes), byteCount: byteCount,
            pool: nil)
    }
    fileprivate init(memory: UnsafeMutableRawPointer, byteCount: Int, pool: BufferPool?) {
        unsafe self.memory = memory
        (capacityBytes, self.pool) = (byteCount, pool)
    }
    deinit {
        if let pool {
            unsafe pool.giveBack(memory, byteCount: capacityBytes)
        } else {
            unsafe memory.deallocate()
        }
    }
    /// The memory, for filling it (before sharing) or for handing it to the kernel.
    ///
    /// Valid while the buffer is referenced; the caller keeps it alive.
    @unsafe public var bytes: UnsafeMutableRawBufferPointer {
        unsafe UnsafeMutableRawBufferPointer(start: memory, count: capacityBytes)
    }
}

/// A run of bytes inside a ``BlockBuffer``; copying it copies a reference, never the bytes.
public struct Payload: Sendable {
    /// The memory.
    public let buffer: BlockBuffer
    /// Where the run starts in the buffer.
    public let startByte: Int
    /// Bytes in the run.
    public let byteCount: Int

    /// `byteCount` bytes of `buffer` from `startByte`.
    public init(_ buffer: BlockBuffer, startByte: Int = 0, byteCount: Int) {
        invariant(
            startByte >= 0 && byteCount >= 0 && startByte + byteCount <= buffer.capacityBytes,
            "payload \(startByte)+\(byteCount) outside a buffer of \(buffer.capacityBytes)")
        (self.buffer, self.startByte, self.byteCount) = (buffer, startByte, byteCount)
    }
    /// A payload of its own that holds a copy of `bytes`.
    public init(copying bytes: [UInt8]) {
        let buffer = BlockBuffer(byteCount: max(bytes.count, 1))
        unsafe bytes.withUnsafeBytes { unsafe buffer.bytes.copyMemory(from: $0) }
        self.init(buffer, byteCount: bytes.count)
    }
    /// The part `[start, start + count)` of this payload.
    public func slice(_ start: Int, _ count: Int) -> Payload {
        invariant(
            start >= 0 && count >= 0 && start + count <= byteCount, "slice \(start)+\(count) of \(byteCount)")
        return Payload(buffer, startByte: startByte + start, byteCount: count)
    }
    /// Lends the bytes to `body`.
    @inlinable public func withBytes<R>(_ body: (UnsafeRawBufferPointer) throws -> R) rethrows -> R {
        defer { extendLifetime(buffer) }
        return unsafe try body(
            UnsafeRawBufferPointer(rebasing: buffer.bytes[startByte..<(startByte + byteCount)]))
    }
    /// A copy of the bytes.
    public var array: [UInt8] { unsafe withBytes { unsafe Array($0) } }
}

/// Keeps freed block memory for the next buffer of the same size class. Safe to use from any thread.
///
/// Without it every large buffer would be mapped and page-faulted anew.
@safe public final class BufferPool: @unchecked Sendable {
    // SAFETY: `free` is touched only under its mutex; the pointers in it belong to nobody else.
    private let free: Mutex<[[UInt]]>
    private let keptBytesPerClassMax: Int
    private static let smallestClassBytes = Geometry.blockBytes
    private static let classCount = 14  // 4 KiB, 8 KiB, ... 32 MiB.

    /// - Parameter keptBytesPerClassMax: freed bytes held per size class; the rest goes back to the system.
    public init(keptBytesPerClassMax: Int = 32 << 20) {
        self.keptBytesPerClassMax = keptBytesPerClassMax
        free = Mutex(Array(repeating: [], count: Self.classCount))
    }
    deinit {
        free.withLock { lists in
            for list in lists {
                for address in list { unsafe UnsafeMutableRawPointer(bitPattern: address)?.deallocate() }
            }
        }
    }
    /// A buffer of at least `byteCount` bytes, not cleared.
    public func take(byteCount: Int) -> BlockBuffer {
        let (index, classBytes) = Self.sizeClass(byteCount)
        guard index < Self.classCount else { return BlockBuffer(byteCount: byteCount) }
        let kept = free.withLock { $0[index].popLast() }
        let memory =
            unsafe kept.flatMap { unsafe UnsafeMutableRawPointer(bitPattern: $0) }
            ?? .allocate(byteCount: classBytes, alignment: Geometry.blockBytes)
        return unsafe BlockBuffer(memory: memory, byteCount: classBytes, pool: self)
    }
    fileprivate func giveBack(_ memory: UnsafeMutableRawPointer, byteCount: Int) {
        let (index, classBytes) = Self.sizeClass(byteCount)
        let address = UInt(bitPattern: memory)
        let kept = free.withLock { lists -> Bool in
            guard (lists[index].count + 1) * classBytes <= keptBytesPerClassMax else { return false }
            lists[index].append(address)
            return true
        }
        if !kept { unsafe memory.deallocate() }
    }
    private static func sizeClass(_ byteCount: Int) -> (index: Int, bytes: Int) {
        var (index, bytes) = (0, smallestClassBytes)
        while bytes < byteCount { (index, bytes) = (index + 1, bytes * 2) }
        return (index, bytes)
    }
}
