import BlockTypes
import CurveClient
import Environment

/// One value of a volume: what is there as far as it was heard, changes by compare-and-swap, and a watch.
/// Loop-confined.
final class SharedValue {
    /// How a swap ended.
    enum Swap: Hashable {
        case swapped
        /// Another gateway was faster; ``SharedValue/bytes`` is what it left.
        case outdated
        /// Nobody could be asked, or nobody knows any more whether it was done.
        case failed
    }
    /// A question that waits for news is asked anew after this long; the metadata server lets none wait
    /// longer than 30 s.
    static let watchTime = Duration.seconds(20)
    /// Before asking again after a failure.
    static let retryAfter = Duration.milliseconds(500)
    /// A read or a swap is given up after so many failures; each has its own timeout.
    static let attemptsMax = 3

    /// The metadata server refuses longer values.
    static let bytesMax = 64 << 10

    let name: String
    let volume: any SharedVolume
    private let environment: any Environment
    /// Counts changes; 0: there is no such value.
    private(set) var version: UInt64 = 0
    private(set) var bytes: [UInt8] = []
    /// Called after a newer version was heard of, whoever made it.
    var changed: (() -> Void)?
    /// Counts watches; only the last one goes on.
    private var watches = 0
    private var isWatching = false
    private var hasComplained = false

    init(_ name: String, of volume: any SharedVolume, environment: any Environment) {
        (self.name, self.volume, self.environment) = (name, volume, environment)
    }

    /// Hears what is there now.
    func read(attempt: Int = 1, completed: @escaping (_ isRead: Bool) -> Void) {
        volume.value(name, after: 0, wait: .zero) { [self] result in
            switch result {
            case .success(let value):
                note(value)
                completed(true)
            case .failure(let error):
                guard attempt < Self.attemptsMax, !error.isFinal else { return completed(false) }
                environment.after(Self.retryAfter) { [self] in
                    read(attempt: attempt + 1, completed: completed)
                }
            }
        }
    }

    /// Puts `new` into the place of version `expected`. Two callers never offer the same bytes, so what is
    /// found there after a lost answer tells whose it is.
    func swap(_ new: [UInt8], expected: UInt64, completed: @escaping (Swap) -> Void) {
        swap(new, expected: expected, attempt: 1, completed: completed)
    }
    private func swap(
        _ new: [UInt8], expected: UInt64, attempt: Int, completed: @escaping (Swap) -> Void
    ) {
        volume.swapValue(name, expected: expected, bytes: new) { [self] result in
            switch result {
            case .success(let answer):
                note(answer.value)
                if answer.value.version < expected { complainOfPast(answer.value.version) }
                if answer.isSwapped || answer.value.version == expected + 1 && answer.value.bytes == new {
                    return completed(.swapped)
                }
                // After a lost answer it may have been there in between.
                let isDoubtful = attempt > 1 && answer.value.version > expected + 1
                completed(isDoubtful ? .failed : .outdated)
            case .failure(let error):
                guard attempt < Self.attemptsMax, !error.isFinal else { return completed(.failed) }
                environment.after(Self.retryAfter) { [self] in
                    swap(new, expected: expected, attempt: attempt + 1, completed: completed)
                }
            }
        }
    }

    /// What was there when it was asked is older than what was seen before.
    private func complainOfPast(_ found: UInt64) {
        guard !hasComplained else { return }
        hasComplained = true
        environment.log(
            .error,
            "iscsi: the metadata server has version \(found) of the value '\(name)' of volume "
                + "\(volume.number), and this gateway saw version \(version): its database was put back "
                + "from an older copy; stop all gateways of the target, then start them again")
    }

    /// Hears of every change from now on, or of the last of several.
    func watch() {
        guard !isWatching else { return }
        isWatching = true
        watches += 1
        watchOn(watches)
    }
    /// Asks for news no more.
    func endWatch() { isWatching = false }

    private func watchOn(_ watch: Int) {
        guard isWatching, watch == watches else { return }
        volume.value(name, after: version, wait: Self.watchTime) { [weak self] result in
            guard let self, isWatching, watch == watches else { return }
            switch result {
            case .success(let value):
                note(value)
                watchOn(watch)
            case .failure:
                environment.after(Self.retryAfter) { [weak self] in self?.watchOn(watch) }
            }
        }
    }
    private func note(_ value: VolumeValue) {
        guard value.version > version else { return }
        (version, bytes) = (value.version, value.bytes)
        changed?()
    }
}

extension AttachError {
    /// Asking again cannot help.
    var isFinal: Bool {
        switch self {
        case .control(.refused(let failure)): failure.code == .fenced || failure.code == .badRequest
        case .control(.closed), .lost, .metadataServers: true
        default: false
        }
    }
}
