import BlockTypes
import CLinux
import Glibc

/// Memory in which data of any connection arrives. The kernel picks a buffer when there is data, so an
/// idle connection holds none. It takes them in turn, so a few are offered as long as a few are enough: what
/// comes next then lands where the processor's cache knows it.
@safe final class StagingBuffers {
    // SAFETY: both mappings live from init to deinit; the kernel writes into a buffer only between
    // `giveBack` and the completion that names the buffer, and not at all after `unregister`.
    private let memory: UnsafeMutableRawPointer
    private let entries: UnsafeMutablePointer<io_uring_buf_ring>
    private let count: Int
    private var offeredCount = 0
    private var isRegistered = true

    /// One receive brings at most this much: room for many small requests, or for the start of a large one.
    static let bufferBytes = 64 << 10
    /// The loop's only group.
    static let group: UInt16 = 1
    private static let offeredAtFirst = 4

    init(_ ring: Ring, count wanted: Int) throws(ReactorError) {
        var count = 1
        while count < wanted { count *= 2 }  // The kernel wants a power of two.
        let bytes = count * Self.bufferBytes
        let entriesBytes = count * MemoryLayout<io_uring_buf>.stride
        guard let memory = unsafe Self.map(bytes) else { throw .outOfMemory }
        guard let entries = unsafe Self.map(entriesBytes) else {
            unsafe munmap(memory, bytes)
            throw .outOfMemory
        }
        self.count = count
        unsafe self.memory = memory
        unsafe self.entries = entries.bindMemory(to: io_uring_buf_ring.self, capacity: 1)
        var request = io_uring_buf_reg()
        request.ring_addr = UInt64(UInt(bitPattern: entries))
        request.ring_entries = UInt32(count)
        request.bgid = Self.group
        let code = ring.register(&request)
        guard code == 0 else {
            isRegistered = false
            throw code == -ENOMEM ? .outOfMemory : .init(creatingRing: -code)
        }
        unsafe io_uring_buf_ring_init(self.entries)
        offer(Self.offeredAtFirst)
    }
    /// There were not enough: twice as many from now on.
    func offerMore() { offer(offeredCount) }
    private func offer(_ more: Int) {
        let first = offeredCount
        offeredCount = min(first + more, count)
        for buffer in first..<offeredCount { giveBack(buffer) }
    }
    deinit {
        unsafe munmap(memory, count * Self.bufferBytes)
        unsafe munmap(entries, count * MemoryLayout<io_uring_buf>.stride)
    }
    private static func map(_ bytes: Int) -> UnsafeMutableRawPointer? {
        let address = unsafe mmap(nil, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        return unsafe address == MAP_FAILED ? nil : address
    }

    func bytes(_ buffer: Int) -> UnsafeMutableRawBufferPointer {
        unsafe UnsafeMutableRawBufferPointer(
            start: memory + buffer * Self.bufferBytes, count: Self.bufferBytes)
    }
    /// Lets the kernel fill the buffer again.
    func giveBack(_ buffer: Int) {
        invariant(buffer >= 0 && buffer < offeredCount, "no staging buffer \(buffer)")
        unsafe io_uring_buf_ring_add(
            entries, memory + buffer * Self.bufferBytes, UInt32(Self.bufferBytes), UInt16(buffer),
            Int32(count - 1), 0)
        unsafe io_uring_buf_ring_advance(entries, 1)
    }
    func unregister(_ ring: Ring) {
        if isRegistered { ring.unregisterBuffers(group: Int32(Self.group)) }
        isRegistered = false
    }
}
