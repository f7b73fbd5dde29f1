import BlockTypes
import ControlMessages
import Environment
import VolumeCore

#if canImport(FoundationEssentials)
    import FoundationEssentials
#else
    import Foundation
#endif

/// One of those who hold a volume together.
public struct GroupMember: Hashable, Sendable {
    /// The number of its attachment.
    public var epoch: Epoch
    /// Who it is, for people.
    public var holder: String
    /// It has not renewed its lease in time.
    public var isSilent: Bool
}

/// A small value that the volume's holders agree on.
public struct VolumeValue: Hashable, Sendable {
    /// Counts its changes; 0: there is no such value.
    public var version: UInt64
    /// What it is.
    public var bytes: [UInt8]
}

// Holding a volume together.
extension RemoteVolume {
    /// Who holds the volume together with this one, itself included; nobody when it is held alone.
    public func members(completed: @escaping (Result<[GroupMember], AttachError>) -> Void) {
        var question = ControlGetVolumeRequest()
        question.path = path
        ask(.getVolume(question)) { result in
            completed(
                result.flatMap { body in
                    guard case .volume(let answer) = body else { return .failure(Self.nonsense) }
                    return .success(
                        answer.volume.members.map {
                            GroupMember(epoch: Epoch($0.epoch), holder: $0.holder, isSilent: $0.silent)
                        })
                })
        }
    }

    /// Ends another member's attachment. When `completed` says so, every copyset refuses it, and nothing
    /// that it has sent can take effect any more.
    /// - Parameter force: also if its lease still runs.
    public func removeMember(
        _ member: Epoch, force: Bool = false, completed: @escaping (Result<Void, AttachError>) -> Void
    ) {
        var request = ControlRemoveMemberRequest()
        (request.volume, request.epoch) = (number.rawValue, epoch.rawValue)
        (request.member, request.force) = (member.rawValue, force)
        ask(.removeMember(request)) { [weak self] result in
            guard let self, self.lossReason == nil else { return completed(.failure(.lost(.fenced))) }
            switch result {
            case .failure(let error): completed(.failure(error))
            case .success(.removeMember(let answer)):
                self.removalWaiters.append((Epoch(answer.epoch), completed))
                self.feed(
                    .regroup(
                        Epoch(answer.epoch), change: answer.change, group: answer.group.map { Epoch($0) },
                        size: ByteCount(bytes: answer.sizeBytes)))
                self.serveRemovals()
            case .success: completed(.failure(Self.nonsense))
            }
        }
    }
    /// Removes a member for somebody who is none: joins the group for a moment, and leaves it again.
    public static func removeMember(
        _ member: Epoch, force: Bool, environment: any Environment, options: AttachOptions,
        completed: @escaping (Result<Void, AttachError>) -> Void
    ) {
        attach(environment: environment, options: options) { result in
            switch result {
            case .failure(let error): completed(.failure(error))
            case .success(let volume):
                volume.removeMember(member, force: force) { result in
                    volume.detach { completed(result) }
                }
            }
        }
    }

    func serveRemovals() {
        let announced = core.announcedEpoch
        let waiting = removalWaiters
        removalWaiters = waiting.filter { $0.epoch > announced }
        for waiter in waiting where waiter.epoch <= announced { waiter.completed(.success(())) }
    }
    func failRemovals(_ error: AttachError) {
        let waiting = removalWaiters
        removalWaiters = []
        for waiter in waiting { waiter.completed(.failure(error)) }
    }

    private static let nonsense = AttachError.badAnswer("an answer to another question")

    private func ask(
        _ body: ControlRequest.OneOf_Body, waiting: Duration = .zero,
        _ completed: @escaping (Result<ControlResponse.OneOf_Body?, AttachError>) -> Void
    ) {
        channel.call(ControlRequest(body), timeout: Self.callTimeout + waiting, isIdempotent: true) {
            result in
            completed(result.map(\.body).mapError { .control($0) })
        }
    }
}

// Values.
extension RemoteVolume {
    /// A value, once its version is higher than `after` or `wait` is over.
    public func value(
        _ name: String, after: UInt64 = 0, wait: Duration = .zero,
        completed: @escaping (Result<VolumeValue, AttachError>) -> Void
    ) {
        var request = ControlGetValueRequest()
        (request.volume, request.name, request.afterVersion) = (number.rawValue, name, after)
        let (seconds, attoseconds) = wait.components
        request.waitMilliseconds = UInt32(clamping: seconds * 1000 + attoseconds / 1_000_000_000_000_000)
        ask(.getValue(request), waiting: wait) { result in
            completed(
                result.flatMap { body in
                    guard case .value(let answer) = body else { return .failure(Self.nonsense) }
                    return .success(VolumeValue(version: answer.version, bytes: Array(answer.value)))
                })
        }
    }

    /// Changes a value whose version is `expected`; 0: there is none yet. Durable when `completed` says so.
    /// It is given what is there then, and whether that is what was wanted.
    public func swapValue(
        _ name: String, expected: UInt64, bytes: [UInt8],
        completed: @escaping (Result<(value: VolumeValue, isSwapped: Bool), AttachError>) -> Void
    ) {
        var request = ControlSwapValueRequest()
        (request.volume, request.epoch, request.name) = (number.rawValue, epoch.rawValue, name)
        (request.expectedVersion, request.value) = (expected, Data(bytes))
        request.attempt = max(1, environment.random())
        ask(.swapValue(request)) { result in
            completed(
                result.flatMap { body in
                    guard case .value(let answer) = body else { return .failure(Self.nonsense) }
                    let value = VolumeValue(version: answer.version, bytes: Array(answer.value))
                    return .success((value, answer.swapped))
                })
        }
    }
}
