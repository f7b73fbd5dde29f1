import BlockTypes
import CLinux
import Environment
import Glibc

/// One request of a disk on its way through the kernel, continued until all of it is done.
@safe final class DiskOperation: RingTarget {
    // SAFETY: `vectors` is allocated here and freed in deinit; the kernel's reference to this object keeps it
    // and, through `request`, the payloads while an operation is in flight.
    private var vectors: UnsafeMutablePointer<iovec>?
    private var vectorsCapacity = 0
    private var disk: ReactorDisk?
    private var request: DiskRequest?
    private var byteCount = 0
    private var doneBytes = 0
    private var retries = 0

    /// The kernel's limit on the pieces of one operation.
    private static let vectorsMax = 1024
    /// Fits the kernel's 32 bits; a longer read goes on after its first part.
    private static let readBytesMax = 1 << 30
    /// An operation that is interrupted this often in a row has some other problem.
    private static let retriesMax = 16

    deinit { unsafe vectors?.deallocate() }

    func start(_ request: DiskRequest, on disk: ReactorDisk) {
        (self.request, self.disk) = (request, disk)
        (doneBytes, retries) = (0, 0)
        switch request {
        case .read(_, _, let payload): byteCount = payload.byteCount
        case .write(_, _, let payloads): byteCount = payloads.reduce(0) { $0 + $1.byteCount }
        case .flush, .discard: byteCount = 0
        }
        goOn()
    }

    private func goOn() {
        guard let disk, let request else { return }
        let reactor = disk.reactor
        switch request {
        case .read(_, let start, let payload):
            unsafe reactor.submit(.read, self, 0) { entry, limit in
                let memory = unsafe payload.buffer.bytes[(payload.startByte + doneBytes)...]
                unsafe io_uring_prep_read(
                    entry, disk.descriptor, UnsafeMutableRawBufferPointer(rebasing: memory).baseAddress,
                    UInt32(min(byteCount - doneBytes, limit, Self.readBytesMax)),
                    start.bytes + UInt64(doneBytes))
            }
        case .write(_, let start, let payloads):
            unsafe reactor.submit(.write, self, 0) { entry, limit in
                let count = fillVectors(payloads, bytesMax: limit)
                unsafe io_uring_prep_writev(
                    entry, disk.descriptor, vectors, UInt32(count), start.bytes + UInt64(doneBytes))
            }
        case .flush:
            unsafe reactor.submit(.flush, self, 0) { entry, _ in
                unsafe io_uring_prep_fsync(entry, disk.descriptor, IORING_FSYNC_DATASYNC)
            }
        case .discard(_, let start, let length): discard(start, length, disk)
        }
    }
    private func discard(_ start: ByteOffset, _ length: ByteCount, _ disk: ReactorDisk) {
        switch disk.discarding {
        case .nothing: disk.reactor.complete(self, 0, result: 0)
        case .punchingHoles:
            unsafe disk.reactor.submit(.discard, self, 0) { entry, _ in
                unsafe io_uring_prep_fallocate(
                    entry, disk.descriptor, curve_punch_hole_mode(), off_t(start.bytes), off_t(length.bytes))
            }
        case .blockDevice:
            let descriptor = disk.descriptor
            disk.reactor.jobs.run(
                { curve_block_discard(descriptor, start.bytes, length.bytes) },
                completed: { [self] in completed(0, result: $0, flags: 0) })
        }
    }
    /// Names what is left of `payloads`, as far as one operation goes.
    private func fillVectors(_ payloads: [Payload], bytesMax: Int) -> Int {
        let wanted = min(payloads.count, Self.vectorsMax)
        if vectorsCapacity < wanted {
            unsafe vectors?.deallocate()
            unsafe vectors = .allocate(capacity: wanted)
            vectorsCapacity = wanted
        }
        guard let vectors = unsafe vectors else { return 0 }
        var (skip, room, count) = (doneBytes, bytesMax, 0)
        for payload in payloads {
            if skip >= payload.byteCount {
                skip -= payload.byteCount
                continue
            }
            guard count < wanted, room > 0 else { break }
            let length = min(payload.byteCount - skip, room)
            let start = payload.startByte + skip
            unsafe vectors[count] = unsafe iovec(
                iov_base: payload.buffer.bytes.baseAddress.map { unsafe $0 + start }, iov_len: length)
            (skip, room, count) = (0, room - length, count + 1)
        }
        return count
    }

    override func completed(_ kind: UInt8, result: Int32, flags: UInt32) {
        guard let request, let disk else { return }
        if result < 0 { return failed(-result, request, disk) }
        switch request {
        case .flush, .discard: finish(.success(()))
        case .read, .write:
            // With O_DIRECT what follows must start at a sector; the rest of a torn one is done again.
            let sector = disk.geometry.sectorBytes
            let progress = Int(result) - (doneBytes + Int(result) == byteCount ? 0 : Int(result) % sector)
            doneBytes += progress
            guard doneBytes < byteCount else { return finish(.success(())) }
            guard progress > 0 else { return finish(.failure(.short(got: doneBytes + Int(result)))) }
            retries = 0
            goOn()
        }
    }
    private func failed(_ errno: Int32, _ request: DiskRequest, _ disk: ReactorDisk) {
        switch errno {
        case EINTR, EAGAIN:
            retries += 1
            if retries <= Self.retriesMax { return goOn() }
        case EOPNOTSUPP:
            if case .discard = request { return finish(.success(())) }  // Allowed to do nothing.
        case ENOSPC, EDQUOT:
            if case .write = request { return finish(.failure(.full)) }
        default: break
        }
        finish(.failure(.io(errno: errno)))
    }
    private func finish(_ result: Result<Void, DiskError>) {
        guard let request, let disk else { return }
        (self.request, self.disk) = (nil, nil)
        disk.finished(self, request.token, result)
    }
}
