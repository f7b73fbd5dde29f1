import BlockTypes
import CLinux
import Environment
import Glibc

/// A block device, or a file used as one, behind the loop's io_uring.
@safe public final class ReactorDisk: Disk {
    /// Size and manners.
    public let geometry: DiskGeometry
    /// What was opened, for messages.
    public let path: String
    /// Called once per request, on the loop, never from inside ``submit(_:)``.
    public var completed: ((DiskToken, Result<Void, DiskError>) -> Void)?

    unowned let reactor: Reactor
    let descriptor: Int32
    let discarding: Discarding
    private var waiting = Fifo<DiskRequest>()
    private var inFlight = 0
    private var free: [DiskOperation] = []
    private var isClosed = false

    /// How space is given back.
    enum Discarding {
        /// The bytes are undefined afterwards, so doing nothing is allowed.
        case nothing
        case punchingHoles
        /// Exists only as a blocking call.
        case blockDevice
    }
    /// Operations kept for the next requests.
    private static let freeMax = 32

    init(_ reactor: Reactor, _ opened: OpenedDisk) {
        (self.reactor, path, descriptor) = (reactor, opened.path, opened.descriptor)
        (geometry, discarding) = (opened.geometry, opened.discarding)
    }

    /// Starts a request, or queues it when ``ReactorLimits/diskRequestsInFlightMax`` are in flight.
    public func submit(_ request: DiskRequest) {
        invariant(!isClosed, "\(path) is closed")
        check(request)
        waiting.append(request)
        startWaiting()
    }
    /// Releases the lock and the descriptor. No request may be in flight.
    public func close() {
        invariant(inFlight == 0 && waiting.isEmpty, "\(path) has \(inFlight) requests in flight")
        guard !isClosed else { return }
        isClosed = true
        _ = Glibc.close(descriptor)
    }
    deinit { if !isClosed { _ = Glibc.close(descriptor) } }

    /// What the owner promised; a device would refuse it with a riddle.
    private func check(_ request: DiskRequest) {
        let sector = geometry.sectorBytes
        func checkRun(_ start: ByteOffset, _ bytes: UInt64) {
            invariant(
                start.bytes % UInt64(sector) == 0 && bytes % UInt64(sector) == 0 && bytes > 0
                    && start.bytes < UInt64(Int64.max) - bytes,
                "\(path): [\(start), +\(bytes)) is not made of sectors of \(sector)")
        }
        func checkMemory(_ payload: Payload) {
            invariant(
                payload.startByte % sector == 0 && payload.byteCount % sector == 0 && payload.byteCount > 0,
                "\(path): memory at \(payload.startByte)+\(payload.byteCount) is not sector-aligned")
        }
        switch request {
        case .read(_, let start, let payload):
            checkRun(start, UInt64(payload.byteCount))
            checkMemory(payload)
        case .write(_, let start, let payloads):
            for payload in payloads { checkMemory(payload) }
            checkRun(start, UInt64(payloads.reduce(0) { $0 + $1.byteCount }))
        case .discard(_, let start, let length): checkRun(start, length.bytes)
        case .flush: break
        }
    }
    private func startWaiting() {
        while inFlight < reactor.limits.diskRequestsInFlightMax, let request = waiting.popFirst() {
            inFlight += 1
            (free.popLast() ?? DiskOperation()).start(request, on: self)
        }
    }
    /// An operation has ended, on the loop.
    func finished(_ operation: DiskOperation, _ token: DiskToken, _ result: Result<Void, DiskError>) {
        inFlight -= 1
        if free.count < Self.freeMax { free.append(operation) }
        completed?(token, result)
        startWaiting()
    }
}
