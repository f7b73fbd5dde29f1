import BlockTypes
import ControlMessages
import CurveWire
import Environment
import Reactor
import VolumeCore

/// The calls of tasks that the loop has accepted and not yet answered; lives on the loop.
///
/// When the loop ends, timers and connections drop what they would have called. Without this table a task
/// whose answer was among that would wait for ever.
private struct WaitingCalls {
    private var refusals: [UInt64: () -> Void] = [:]
    private var lastCall: UInt64 = 0

    mutating func begin(refuse: @escaping () -> Void) -> UInt64 {
        lastCall += 1
        refusals[lastCall] = refuse
        return lastCall
    }
    /// - Returns: false when the call has been refused already.
    mutating func end(_ call: UInt64) -> Bool { refusals.removeValue(forKey: call) != nil }
    mutating func refuseAll() {
        let left = refusals
        refusals = [:]
        for refuse in left.values { refuse() }
    }
}

/// A connection to a cluster: where programs that embed the client begin.
///
/// ```swift
/// let cluster = try await CurveCluster.connect(mds: ["10.0.0.1:6700"])
/// let volume = try await cluster.open("/databases/orders")
/// try await volume.write(at: 0, [UInt8](repeating: 7, count: 4096))
/// let bytes = try await volume.read(at: 0, byteCount: 4096)
/// await volume.close()
/// await cluster.close()
/// ```
///
/// All I/O runs on one thread of its own; any task may call. This file and `Volume.swift` are the only places
/// of the client where `async` is used.
public final class CurveCluster: Sendable {
    let addresses: [SocketAddress]
    let name: String
    private let thread: ReactorThread
    private let channel = LoopBound<ControlChannel>()
    /// What is attached, until it is detached; `nil` once the cluster is being closed.
    private let open = LoopBound<[ObjectIdentifier: LoopBound<RemoteVolume>]>()
    private let waiting = LoopBound<WaitingCalls>()
    /// Who waits for the volumes to be detached.
    private let closing = LoopBound<[() -> Void]>()

    /// A call to the metadata server is given up after this long.
    public static let callTimeout = Duration.seconds(10)

    /// Starts the client's thread and makes sure that a metadata server answers.
    /// - Parameters:
    ///   - mds: where metadata servers listen, `HOST:PORT`, at most 8; the one that leads is found.
    ///   - name: who this program is, for people; shown as the holder of volumes.
    public static func connect(
        mds: [String], name: String = "a program with the client library"
    ) async throws(CurveError) -> CurveCluster {
        let addresses: [SocketAddress]
        do throws(MetadataServerListError) {
            addresses = try MetadataServerList(texts: mds).addresses
        } catch {
            throw CurveError(AttachError.metadataServers(error))
        }
        let cluster = try CurveCluster(addresses, name)
        do throws(CurveError) {
            _ = try await cluster.call(ControlRequest(.getCluster(ControlGetClusterRequest())))
        } catch {
            await cluster.close()
            throw error
        }
        return cluster
    }

    private init(_ addresses: [SocketAddress], _ name: String) throws(CurveError) {
        (self.addresses, self.name) = (addresses, name)
        let (channel, open, waiting) = (channel, open, waiting)
        do throws(ReactorError) {
            thread = try ReactorThread(
                name: "curve-client",
                setUp: { reactor in
                    (open.value, waiting.value) = ([:], WaitingCalls())
                    channel.value = ControlChannel(
                        environment: reactor, addresses: addresses, hello: Hello(role: .client),
                        pool: BufferPool())
                },
                ended: {
                    channel.value = nil
                    waiting.value?.refuseAll()
                })
        } catch { throw CurveError(.system, "\(error)") }
    }
    deinit {
        // What lives on the loop must also end there.
        let channel = channel
        _ = thread.post { _ in
            channel.value?.close()
            channel.value = nil
        }
        thread.stop()
    }

    /// Runs `action` on the loop and waits for what it answers with; `refused` when the loop ends before.
    func onLoop<Answer: Sendable>(
        refused: Answer, _ action: @escaping @Sendable (Reactor, @escaping (Answer) -> Void) -> Void
    ) async -> Answer {
        let waiting = waiting
        return await withCheckedContinuation { continuation in
            let isPosted = thread.post { reactor in
                let call = waiting.value?.begin { continuation.resume(returning: refused) }
                action(reactor) { answer in
                    guard let call, waiting.value?.end(call) == true else { return }
                    continuation.resume(returning: answer)
                }
            }
            if !isPosted { continuation.resume(returning: refused) }
        }
    }

    private func call(_ request: ControlRequest) async throws(CurveError) -> ControlResponse {
        let channel = channel
        let closed = Result<ControlResponse, ControlError>.failure(.closed)
        let result = await onLoop(refused: closed) { _, answer in
            guard let channel = channel.value else { return answer(closed) }
            channel.call(request, timeout: Self.callTimeout, completed: answer)
        }
        do throws(ControlError) { return try result.get() } catch { throw CurveError(error) }
    }

    /// Creates a volume.
    /// - Parameters:
    ///   - path: `/databases/orders`, with or without the first slash; the directory must exist.
    ///   - sizeBytes: a multiple of 4096 from 1 MiB to 1 PiB.
    ///   - stripeUnitBytes: how much stays together before the next chunk's turn, a power of two from 4 KiB
    ///     to 16 MiB; 0 for the cluster's default.
    ///   - stripeCount: chunks that take turns, 1 to 64; 0 for the cluster's default.
    ///   - pool: where its data go; empty for the only pool.
    public func createVolume(
        _ path: String, sizeBytes: UInt64, stripeUnitBytes: UInt32 = 0, stripeCount: UInt32 = 0,
        pool: String = ""
    ) async throws(CurveError) {
        var request = ControlCreateVolumeRequest()
        (request.path, request.sizeBytes, request.pool) = (Self.rooted(path), sizeBytes, pool)
        (request.stripeUnitBytes, request.stripeCount) = (stripeUnitBytes, stripeCount)
        _ = try await call(ControlRequest(.createVolume(request)))
    }

    private static func rooted(_ path: String) -> String { path.hasPrefix("/") ? path : "/" + path }

    /// Attaches a volume.
    /// - Parameters:
    ///   - path: `/databases/orders`, with or without the first slash.
    ///   - takeOver: takes it from another holder, whose requests fail from then on.
    ///   - isReadOnly: refuses writes; the attachment is exclusive all the same.
    ///   - policy: what to do when replicas are out of reach.
    public func open(
        _ path: String, takeOver: Bool = false, isReadOnly: Bool = false, policy: UnavailablePolicy = .queue
    ) async throws(CurveError) -> Volume {
        let path = Self.rooted(path)
        let options = AttachOptions(
            path: path, metadataServers: addresses, holder: name, takeOver: takeOver, isReadOnly: isReadOnly,
            policy: policy)
        let (bound, open) = (LoopBound<RemoteVolume>(), open)
        let closed = CurveError(.shuttingDown as VolumeError)
        let failure: CurveError? = await onLoop(refused: closed) { reactor, answer in
            guard open.value != nil else { return answer(closed) }
            RemoteVolume.attach(environment: reactor, options: options) { result in
                switch result {
                case .failure(let error): answer(CurveError(error))
                case .success(let volume):
                    guard open.value != nil else { return volume.detach { answer(closed) } }
                    bound.value = volume
                    open.value?[ObjectIdentifier(bound)] = bound
                    answer(nil)
                }
            }
        }
        if let failure { throw failure }
        return Volume(self, bound, path: path)
    }

    /// Detaches a volume; on the loop.
    func letGo(_ bound: LoopBound<RemoteVolume>, completed: @escaping () -> Void) {
        guard let volume = bound.value else { return completed() }
        let open = open
        volume.detach {
            bound.value = nil
            open.value?[ObjectIdentifier(bound)] = nil
            completed()
        }
    }
    /// As ``letGo(_:completed:)``, from anywhere and without waiting.
    func letGoSoon(_ bound: LoopBound<RemoteVolume>) {
        // The cluster goes along, so that its thread outlives the detachment.
        _ = thread.post { _ in self.letGo(bound) { extendLifetime(self) } }
    }

    /// Detaches every volume that is still open and ends the client's thread. Calls that are under way then
    /// fail with ``CurveError/Code/closed``, and so do later ones.
    public func close() async {
        let (open, channel, closing) = (open, channel, closing)
        await onLoop(refused: ()) { _, answer in
            guard let volumes = open.value?.values else {
                if closing.value == nil { answer(()) } else { closing.value?.append { answer(()) } }
                return
            }
            open.value = nil
            channel.value?.close()
            var left = volumes.count
            if left == 0 { return answer(()) }
            closing.value = [{ answer(()) }]
            for bound in volumes {
                self.letGo(bound) {
                    left -= 1
                    guard left == 0, let all = closing.value else { return }
                    closing.value = nil
                    for closed in all { closed() }
                }
            }
        }
        thread.stop()
    }
}
