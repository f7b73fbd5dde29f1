import BlockTypes
import ControlMessages
import CurveWire
import Environment

/// One attachment on its way: asks what the volume's last attachment was, then for the next one.
///
/// The request names the attachment it is to follow. So a copy of it that comes late, after its caller has
/// moved on and somebody else has attached, changes nothing; and a copy of one that was granted gets the same
/// answer.
final class Attaching {
    /// A metadata server that is not ready yet is asked again after this long.
    static let askAgainAfter = Duration.milliseconds(200)
    /// An answer that takes longer is worth a line to whoever waits for it.
    static let silenceMax = Duration.seconds(2)

    private let environment: any Environment
    private let options: AttachOptions
    private let channel: ControlChannel
    private let pool = BufferPool()
    private let deadline: Duration
    private let completed: (Result<RemoteVolume, AttachError>) -> Void
    /// Holds this while it is under way: callbacks of the channel, which this owns, must not.
    private var keeper: TimerID?
    private var patience: TimerID?

    init(
        _ environment: any Environment, _ options: AttachOptions,
        _ completed: @escaping (Result<RemoteVolume, AttachError>) -> Void
    ) {
        var options = options
        if options.holderKey.isEmpty {
            options.holderKey = UniqueID(high: environment.random(), low: environment.random()).description
        }
        (self.environment, self.options, self.completed) = (environment, options, completed)
        deadline = environment.now + options.timeout
        channel = ControlChannel(
            environment: environment, addresses: options.metadataServers, hello: Hello(role: .client),
            pool: pool)
    }

    func start() {
        keeper = environment.after(options.timeout * 2) { withExtendedLifetime(self) {} }
        patience = environment.after(Self.silenceMax) { [weak self] in self?.tellWhatIsWaitedFor() }
        askForVolume()
    }
    private func askForVolume() {
        var question = ControlGetVolumeRequest()
        question.path = options.path
        ask(.getVolume(question)) { attaching, body in
            guard case .volume(let answer) = body else { return attaching.endInNonsense() }
            attaching.attach(after: answer.volume.epoch)
        }
    }
    private func attach(after epoch: UInt32) {
        var request = ControlAttachVolumeRequest()
        (request.path, request.holder, request.holderKey) = (options.path, options.holder, options.holderKey)
        (request.takeOver, request.readOnly) = (options.takeOver, options.isReadOnly)
        (request.expectedEpoch, request.attempt) = (epoch, max(1, environment.random()))
        request.group = options.group
        ask(.attachVolume(request)) { attaching, body in
            guard case .attachVolume(let answer) = body else { return attaching.endInNonsense() }
            attaching.letGo()
            do throws(AttachError) {
                try RemoteVolume.begin(
                    answer, attaching.environment, attaching.channel, attaching.pool, attaching.options,
                    completed: attaching.completed)
            } catch {
                attaching.end(error)
            }
        }
    }

    /// Asks, and begins anew when the metadata server says that it is not ready.
    private func ask(
        _ body: ControlRequest.OneOf_Body,
        _ answered: @escaping (Attaching, ControlResponse.OneOf_Body?) -> Void
    ) {
        let timeout = max(deadline - environment.now, .milliseconds(1))
        channel.call(ControlRequest(body), timeout: timeout, isIdempotent: true) { [weak self] result in
            guard let self else { return }
            switch result {
            case .success(let response): answered(self, response.body)
            case .failure(.refused(let failure))
            where failure.code == .notReady && environment.now + Self.askAgainAfter < deadline:
                environment.after(Self.askAgainAfter) { [weak self] in self?.askForVolume() }
            case .failure(let error): end(.control(error))
            }
        }
    }
    private func tellWhatIsWaitedFor() {
        patience = nil
        let left = (deadline - environment.now).components.seconds
        let servers = options.metadataServers.map { "\($0)" }.joined(separator: ", ")
        environment.log(
            .notice,
            "\(options.path): waits for the metadata server at \(servers) (\(channel.lastFailure)); gives up in \(left) s"
        )
    }
    private func endInNonsense() { end(.badAnswer("an answer to another question")) }
    private func letGo() {
        if let keeper { environment.cancel(keeper) }
        if let patience { environment.cancel(patience) }
        (keeper, patience) = (nil, nil)
    }
    private func end(_ error: AttachError) {
        letGo()
        channel.close()
        completed(.failure(error))
    }
}
