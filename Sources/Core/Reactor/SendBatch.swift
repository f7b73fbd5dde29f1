import BlockTypes
import CLinux
import Environment
import Glibc

/// What one `sendmsg` carries: small pieces packed together, payloads by reference until it completes.
@safe final class SendBatch {
    // SAFETY: allocated in init, freed in deinit. The connection that sends the batch keeps it until the
    // kernel has completed the send; `held` keeps the payloads' memory for as long.
    let message = UnsafeMutablePointer<msghdr>.allocate(capacity: 1)
    let vectors = UnsafeMutablePointer<iovec>.allocate(capacity: SendBatch.vectorsMax + 1)
    private let arena = UnsafeMutableRawPointer.allocate(byteCount: SendBatch.arenaBytes, alignment: 16)
    private var arenaUsed = 0
    private var arenaIsLast = false
    private var firstVector = 0
    private var vectorCount = 0
    private var held: [BlockBuffer] = []
    /// Bytes that the kernel has not taken.
    private(set) var byteCount = 0
    /// How many of them the message now carries.
    private(set) var preparedBytes = 0

    /// Enough for 32 headers each with its payload.
    static let vectorsMax = 64
    /// Room for the packed small pieces; a longer one is carried like a payload.
    static let arenaBytes = 8 << 10
    /// One send carries about this much, so that a long queue still shows progress.
    static let byteCountMax = 1 << 20
    /// Pieces up to this size are worth copying into the arena.
    static let packedBytesMax = 2 << 10

    init() { unsafe message.initialize(to: msghdr()) }
    deinit {
        unsafe message.deallocate()
        unsafe vectors.deallocate()
        unsafe arena.deallocate()
    }

    /// - Returns: false when there is no room; then nothing was taken.
    func add(_ piece: SendPiece) -> Bool {
        guard byteCount < Self.byteCountMax else { return false }
        switch piece {
        case .bytes(let bytes): return pack(bytes)
        case .payload(let payload): return add(payload)
        }
    }
    private func pack(_ bytes: [UInt8]) -> Bool {
        invariant(bytes.count <= Self.packedBytesMax, "long runs travel as payloads")
        guard arenaUsed + bytes.count <= Self.arenaBytes else { return false }
        if !arenaIsLast {
            guard vectorCount < Self.vectorsMax else { return false }
            unsafe vectors[vectorCount] = unsafe iovec(iov_base: arena + arenaUsed, iov_len: 0)
            vectorCount += 1
            arenaIsLast = true
        }
        unsafe bytes.withUnsafeBytes {
            unsafe UnsafeMutableRawBufferPointer(start: arena + arenaUsed, count: $0.count).copyMemory(
                from: $0)
        }
        unsafe vectors[vectorCount - 1].iov_len += bytes.count
        arenaUsed += bytes.count
        byteCount += bytes.count
        return true
    }
    private func add(_ payload: Payload) -> Bool {
        guard vectorCount < Self.vectorsMax else { return false }
        unsafe vectors[vectorCount] = unsafe iovec(
            iov_base: payload.buffer.bytes.baseAddress.map { unsafe $0 + payload.startByte },
            iov_len: payload.byteCount)
        vectorCount += 1
        arenaIsLast = false
        held.append(payload.buffer)
        byteCount += payload.byteCount
        return true
    }
    /// Fills in the message for what is left, or, with a smaller `bytesMax`, for a part of the first piece.
    func prepare(bytesMax: Int) -> UnsafeMutablePointer<msghdr> {
        if bytesMax >= byteCount {
            unsafe message.pointee.msg_iov = vectors + firstVector
            unsafe message.pointee.msg_iovlen = vectorCount - firstVector
            preparedBytes = byteCount
        } else {
            let spare = unsafe vectors + Self.vectorsMax
            unsafe spare.pointee = vectors[firstVector]
            unsafe spare.pointee.iov_len = min(spare.pointee.iov_len, bytesMax)
            unsafe message.pointee.msg_iov = spare
            unsafe message.pointee.msg_iovlen = 1
            unsafe preparedBytes = spare.pointee.iov_len
        }
        return unsafe message
    }
    /// The kernel took `count` bytes.
    func advance(_ count: Int) {
        invariant(count <= byteCount, "\(count) sent of \(byteCount)")
        byteCount -= count
        var rest = count
        while rest > 0 {
            let length = unsafe vectors[firstVector].iov_len
            if rest < length {
                unsafe vectors[firstVector].iov_base = vectors[firstVector].iov_base.map { unsafe $0 + rest }
                unsafe vectors[firstVector].iov_len = length - rest
                return
            }
            rest -= length
            firstVector += 1
        }
    }
    /// Empty again, holding nothing.
    func reset() {
        held.empty()
        (arenaUsed, arenaIsLast, firstVector, vectorCount, byteCount) = (0, false, 0, 0, 0)
    }
}

/// Batches for the connections that send right now, so that idle ones need none.
final class SendBatchPool {
    private var free: [SendBatch] = []
    /// More than these go back to the system.
    private static let keptMax = 64

    func take() -> SendBatch { free.popLast() ?? SendBatch() }
    func giveBack(_ batch: consuming SendBatch) {
        batch.reset()
        if free.count < Self.keptMax { free.append(batch) }
    }
}
