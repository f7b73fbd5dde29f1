import BlockTypes
import Environment

/// What a test can do to one request, see ``SimDisk/faultHook``.
public enum SimDiskFault: Sendable {
    /// The request fails and changes nothing.
    case fails(DiskError)
    /// A write fails with EIO after some of its sectors changed.
    case tears
    /// A write is acknowledged and changes nothing.
    case isLost
    /// A write or read goes to another place.
    case isMisdirected
    /// The request never completes.
    case hangs
    /// The request takes this much longer.
    case isDelayed(Duration)
}

/// A disk of the simulated world: it forgets, tears, lies and dies as real ones do.
///
/// Outlives the processes that use it; each attaches it to its ``SimHost``. A completed write is visible to
/// reads at once but durable only after a flush. At power loss each unsynced sector keeps, independently of
/// its neighbours, any of the contents it had since it was last durable, writes in flight included.
public final class SimDisk: Disk {
    /// For the trace.
    public let name: String
    /// Size and manners.
    public let geometry: DiskGeometry
    /// What goes wrong; may be changed at any time.
    public var faults: SimDiskFaults { didSet { pace = SimPace(faults) } }
    private var pace: SimPace
    /// Asked about each request when it is submitted; `nil` lets ``faults`` decide.
    public var faultHook: ((DiskRequest) -> SimDiskFault?)?
    /// Told of each completion, by the owner.
    public var completed: ((DiskToken, Result<Void, DiskError>) -> Void)?
    /// What the requests so far came to.
    public private(set) var counters = SimDiskCounters()

    private let world: SimWorld
    private let number: UInt64
    private var medium: SimMedium
    private var owner: SimHost?
    /// Changes when the owner does, so that completions of an earlier owner are dropped.
    private var ownership: UInt64 = 0
    /// In the order of submission.
    private var inFlight: [(id: UInt64, request: DiskRequest)] = []
    private var nextRequest: UInt64 = 0

    private static let eio: Int32 = 5

    /// An empty disk: reads as zeroes.
    /// - Parameter liesAboutCache: it has a volatile cache whatever `geometry` says.
    public init(
        _ world: SimWorld, name: String, geometry: DiskGeometry, faults: SimDiskFaults? = nil,
        liesAboutCache: Bool = false
    ) {
        invariant([512, 4096].contains(geometry.sectorBytes), "sectors of \(geometry.sectorBytes) bytes")
        invariant(
            geometry.size.bytes % UInt64(SimMedium.pageBytes) == 0, "\(geometry.size) is not whole pages")
        (self.world, self.name, self.geometry) = (world, name, geometry)
        self.faults = faults ?? world.faults.disk
        pace = SimPace(self.faults)
        number = world.takeNumber()
        medium = SimMedium(
            byteCount: geometry.size.bytes, sectorBytes: geometry.sectorBytes,
            hasVolatileCache: geometry.hasVolatileCache || liesAboutCache)
    }

    /// A copy of what a read of `other` would return now, as `dd` makes one: sound, and of its own fate.
    public init(copyOf other: SimDisk, name: String) {
        (world, self.name, geometry, faults) = (other.world, name, other.geometry, .none)
        pace = SimPace(faults)
        number = other.world.takeNumber()
        medium = other.medium.durableCopy
    }

    // MARK: Owners

    /// Gives the disk to a process. The one before must have closed it or be dead.
    public func attach(to host: SimHost) {
        invariant(owner == nil || owner?.isAlive == false, "\(name) is in use by another process")
        owner?.disown(self)
        owner = host
        ownership += 1
        completed = nil
        host.own(self)
    }
    /// Gives the disk back; no request may be in flight.
    public func close() {
        invariant(inFlight.isEmpty, "\(name) closed with \(inFlight.count) requests in flight")
        owner?.disown(self)
        owner = nil
        completed = nil
    }
    /// Power loss: see the type's description.
    func losePower() {
        let torn = inFlight.map(\.request).shuffled(using: &world.random)
        for case .write(_, let start, let payloads) in torn where !world.random.oneIn(3) {
            medium.write(at: start, SimMedium.Source(payloads), isAcknowledged: false)
        }
        let kept = medium.losePower(&world.random)
        counters.powerLosses += 1
        world.note { "\(name): lost power with \(inFlight.count) in flight, \(kept) unsynced pages" }
        inFlight.removeAll()
        ownerDied()
    }
    /// The process is gone; what it had submitted still happens.
    func ownerDied() {
        ownership += 1
        owner = nil
        completed = nil
    }

    // MARK: Requests

    /// Starts a request.
    public func submit(_ request: DiskRequest) {
        check(request)
        let (id, ownership) = (nextRequest, ownership)
        nextRequest += 1
        inFlight.append((id, request))
        counters.count(request)
        let fault = faultHook?(request) ?? chooseFault(request)
        var delay = pace.latencyMin + world.nanoseconds(upTo: pace.latencyJitter)
        if world.chance(oneIn: faults.spikeOneIn) { delay += world.nanoseconds(upTo: pace.spikeMax) }
        if case .isDelayed(let extra) = fault { delay += extra.wholeNanoseconds }
        if case .hangs = fault { return world.note { "\(name): \(Self.words(request)) hangs" } }
        let flushed = medium.completedWrites
        world.schedule(afterNanoseconds: delay, owner: nil) { [self] in
            guard let index = inFlight.firstIndex(where: { $0.id == id }) else { return }
            inFlight.remove(at: index)
            let result = perform(request, fault, flushThrough: flushed)
            report(request, result, ownership)
        }
    }
    private func report(_ request: DiskRequest, _ result: Result<Void, DiskError>, _ ownership: UInt64) {
        world.mix(request.token.rawValue)
        if case .failure(let error) = result {
            counters.failures += 1
            world.note { "\(name): \(Self.words(request)) fails: \(error)" }
        }
        guard ownership == self.ownership, let owner, owner.isAlive else { return }
        let token = request.token
        if owner.isPaused {
            owner.schedule { [self] in if ownership == self.ownership { completed?(token, result) } }
        } else {
            completed?(token, result)
        }
    }
    private func chooseFault(_ request: DiskRequest) -> SimDiskFault? {
        if world.chance(oneIn: faults.hangOneIn) { return .hangs }
        switch request {
        case .read:
            if world.chance(oneIn: faults.readErrorOneIn) { return .fails(.io(errno: Self.eio)) }
            if world.chance(oneIn: faults.misdirectedReadOneIn) { return .isMisdirected }
        case .write:
            if world.chance(oneIn: faults.writeErrorOneIn) { return .tears }
            if world.chance(oneIn: faults.lostWriteOneIn) { return .isLost }
            if world.chance(oneIn: faults.misdirectedWriteOneIn) { return .isMisdirected }
        case .flush:
            if world.chance(oneIn: faults.flushErrorOneIn) { return .fails(.io(errno: Self.eio)) }
        case .discard: break
        }
        return nil
    }
    private func perform(
        _ request: DiskRequest, _ fault: SimDiskFault?, flushThrough: UInt64
    ) -> Result<Void, DiskError> {
        if case .fails(let error) = fault {
            if case .flush = request { medium.curse(through: flushThrough) }
            return .failure(error)
        }
        switch request {
        case .read(_, let start, let target): return read(at: start, target, fault)
        case .write(_, let start, let payloads): return write(at: start, payloads, fault)
        case .flush:
            medium.flush(through: flushThrough)
            return .success(())
        case .discard(_, let start, let count):
            medium.discard(at: start, count, &world.random)
            return .success(())
        }
    }
    private func read(
        at start: ByteOffset, _ target: Payload, _ fault: SimDiskFault?
    ) -> Result<Void, DiskError> {
        let end = start.bytes + UInt64(target.byteCount)
        guard end <= geometry.size.bytes else {
            return .failure(.short(got: Int(geometry.size.bytes - min(start.bytes, geometry.size.bytes))))
        }
        if medium.hasLatentError(at: start, byteCount: target.byteCount) {
            return .failure(.io(errno: Self.eio))
        }
        var place = start
        if case .isMisdirected = fault { place = elsewhere(target.byteCount) }
        medium.read(at: place, into: target)
        return .success(())
    }
    private func write(
        at start: ByteOffset, _ payloads: [Payload], _ fault: SimDiskFault?
    ) -> Result<Void, DiskError> {
        let source = SimMedium.Source(payloads)
        guard start.bytes + UInt64(source.byteCount) <= geometry.size.bytes else {
            return .failure(.io(errno: Self.eio))
        }
        guard medium.fits(at: start, source.byteCount, within: faults.spaceBytesMax) else {
            return .failure(.full)
        }
        switch fault {
        case .isLost: return .success(())
        case .isMisdirected:
            medium.write(at: elsewhere(source.byteCount), source, isAcknowledged: true)
            return .success(())
        case .tears:
            medium.tear(at: start, source, &world.random)
            return .failure(.io(errno: Self.eio))
        case .fails, .hangs, .isDelayed, nil: break
        }
        medium.write(at: start, source, isAcknowledged: true)
        damage(start, source.byteCount)
        return .success(())
    }
    /// Rot and latent errors are decided when a block is written: every block on a medium was written once.
    private func damage(_ start: ByteOffset, _ byteCount: Int) {
        guard faults.bitRotOneIn > 0 || faults.latentErrorOneIn > 0 else { return }
        for at in stride(from: start.bytes, to: start.bytes + UInt64(byteCount), by: SimMedium.pageBytes) {
            if world.chance(oneIn: faults.bitRotOneIn) { rot(at: ByteOffset(bytes: at)) }
            if world.chance(oneIn: faults.latentErrorOneIn) { breakSector(at: ByteOffset(bytes: at)) }
        }
    }
    private func elsewhere(_ byteCount: Int) -> ByteOffset {
        let sectors = (geometry.size.bytes - UInt64(byteCount)) / UInt64(geometry.sectorBytes)
        return ByteOffset(
            bytes: UInt64.random(in: 0...sectors, using: &world.random) * UInt64(geometry.sectorBytes))
    }
    /// What O_DIRECT demands: whole sectors, in memory too. Anything else is the caller's mistake.
    private func check(_ request: DiskRequest) {
        let sector = UInt64(geometry.sectorBytes)
        func aligned(_ start: ByteOffset, _ payloads: [Payload]) {
            invariant(start.bytes % sector == 0, "\(Self.words(request)): offset not in whole sectors")
            for payload in payloads {
                let isAligned = unsafe payload.withBytes {
                    UInt64(UInt(bitPattern: $0.baseAddress)) % sector == 0
                }
                invariant(isAligned, "\(Self.words(request)): memory not aligned to a sector")
                invariant(
                    payload.byteCount > 0 && UInt64(payload.byteCount) % sector == 0,
                    "\(Self.words(request)): not whole sectors")
            }
        }
        switch request {
        case .read(_, let start, let target): aligned(start, [target])
        case .write(_, let start, let payloads): aligned(start, payloads)
        case .flush: break
        case .discard(_, let start, let count):
            invariant(
                start.bytes % sector == 0 && count.bytes % sector == 0,
                "\(Self.words(request)): not whole sectors")
        }
    }
    private static func words(_ request: DiskRequest) -> String {
        switch request {
        case .read(_, let at, let target): "read \(at)+\(target.byteCount)"
        case .write(_, let at, let payloads): "write \(at)+\(payloads.reduce(0) { $0 + $1.byteCount })"
        case .flush: "flush"
        case .discard(_, let at, let count): "discard \(at)+\(count.bytes)"
        }
    }

    // MARK: For tests

    /// Flips a bit of what is kept at `offset`.
    public func rot(at offset: ByteOffset) {
        medium.rot(at: offset, mask: 1 << UInt8.random(in: 0...7, using: &world.random))
        world.note { "\(name): bit rot at \(offset)" }
    }
    /// Makes the 4 KiB around `offset` unreadable until they are written again.
    public func breakSector(at offset: ByteOffset) {
        medium.breakPage(at: offset)
        world.note { "\(name): latent error at \(offset)" }
    }
    /// What a read would return now, with no fault on the way.
    public func contents(at offset: ByteOffset, byteCount: Int) -> [UInt8] {
        let target = Payload(BlockBuffer(byteCount: max(byteCount, 1)), byteCount: byteCount)
        medium.read(at: offset, into: target)
        return target.array
    }
    /// Requests submitted and not completed.
    public var inFlightCount: Int { inFlight.count }
}

/// What a disk was asked for.
public struct SimDiskCounters: Hashable, Sendable {
    /// Requests by kind.
    public var reads = 0, writes = 0, flushes = 0, discards = 0
    /// Bytes by direction.
    public var readBytes = 0, writtenBytes = 0
    /// Requests that failed.
    public var failures = 0
    /// Times it lost power.
    public var powerLosses = 0

    mutating func count(_ request: DiskRequest) {
        switch request {
        case .read(_, _, let target):
            reads += 1
            readBytes += target.byteCount
        case .write(_, _, let payloads):
            writes += 1
            writtenBytes += payloads.reduce(0) { $0 + $1.byteCount }
        case .flush: flushes += 1
        case .discard: discards += 1
        }
    }
}
