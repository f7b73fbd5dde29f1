import BlockTypes
import ControlMessages
import CurveWire
import Environment

#if canImport(FoundationEssentials)
    import FoundationEssentials
#else
    import Foundation
#endif

/// Small versioned values of the cluster itself: the configuration of its gateways, for example. Whoever
/// reaches the metadata server may read and change them. Loop-confined.
public final class ClusterValues {
    /// A question that waits for news is asked anew after this long.
    public static let watchTime = Duration.seconds(20)
    /// Before asking again after a failure.
    public static let retryAfter = Duration.milliseconds(500)

    private let environment: any Environment
    private let channel: ControlChannel
    private var isClosed = false

    /// Values of the cluster whose metadata servers listen at `metadataServers`.
    public init(environment: any Environment, metadataServers: [SocketAddress]) {
        self.environment = environment
        channel = ControlChannel(
            environment: environment, addresses: metadataServers, hello: Hello(role: .client),
            pool: BufferPool())
    }
    /// Asks nothing any more, and answers nobody.
    public func close() {
        isClosed = true
        channel.close()
    }

    /// A value, once its version is higher than `after` or `wait` is over.
    public func value(
        _ name: String, after: UInt64 = 0, wait: Duration = .zero,
        completed: @escaping (Result<VolumeValue, AttachError>) -> Void
    ) {
        var request = ControlGetValueRequest()
        (request.volume, request.name, request.afterVersion) = (VolumeID.cluster.rawValue, name, after)
        let (seconds, attoseconds) = wait.components
        request.waitMilliseconds = UInt32(clamping: seconds * 1000 + attoseconds / 1_000_000_000_000_000)
        ask(.getValue(request), wait) { completed($0.map(\.value)) }
    }
    /// Changes a value whose version is `expected`; 0: there is none yet. Durable when `completed` says so.
    /// It is given what is there then, and whether that is what was wanted.
    public func swap(
        _ name: String, expected: UInt64, bytes: [UInt8],
        completed: @escaping (Result<(value: VolumeValue, isSwapped: Bool), AttachError>) -> Void
    ) {
        var request = ControlSwapValueRequest()
        (request.volume, request.name) = (VolumeID.cluster.rawValue, name)
        (request.expectedVersion, request.value) = (expected, Data(bytes))
        request.attempt = max(1, environment.random())
        ask(.swapValue(request), .zero, completed)
    }
    private func ask(
        _ body: ControlRequest.OneOf_Body, _ wait: Duration,
        _ completed: @escaping (Result<(value: VolumeValue, isSwapped: Bool), AttachError>) -> Void
    ) {
        let timeout = RemoteVolume.callTimeout + wait
        channel.call(ControlRequest(body), timeout: timeout, isIdempotent: true) { [weak self] result in
            guard self?.isClosed == false else { return }
            switch result {
            case .failure(let error): completed(.failure(.control(error)))
            case .success(let response):
                guard case .value(let answer)? = response.body else {
                    return completed(.failure(.badAnswer("an answer to another question")))
                }
                let value = VolumeValue(version: answer.version, bytes: Array(answer.value))
                completed(.success((value, answer.swapped)))
            }
        }
    }

    /// Tells of a value's newest state at once and after each change, until this is closed. A version that is
    /// lower than the last one is told too: an older copy of the metadata was put back.
    /// - Parameters:
    ///   - failed: called with the reason when the value cannot be had, once until it can be had again.
    public func watch(
        _ name: String, failed: @escaping (AttachError) -> Void, changed: @escaping (VolumeValue) -> Void
    ) { watch(name, last: nil, isFailing: false, failed, changed) }

    private func watch(
        _ name: String, last: VolumeValue?, isFailing: Bool, _ failed: @escaping (AttachError) -> Void,
        _ changed: @escaping (VolumeValue) -> Void
    ) {
        guard !isClosed else { return }
        let wait = last == nil || isFailing ? Duration.zero : Self.watchTime
        value(name, after: last?.version ?? 0, wait: wait) { [weak self] result in
            guard let self else { return }
            switch result {
            case .success(let value):
                if value != last { changed(value) }
                watch(name, last: value, isFailing: false, failed, changed)
            case .failure(let error):
                if !isFailing { failed(error) }
                environment.after(Self.retryAfter) { [weak self] in
                    self?.watch(name, last: last, isFailing: true, failed, changed)
                }
            }
        }
    }
}
