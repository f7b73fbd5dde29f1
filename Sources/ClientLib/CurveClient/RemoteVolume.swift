import BlockTypes
import ControlMessages
import CurveWire
import Environment
import FramedLink
import VolumeCore

/// A volume of the cluster, attached: the shell around ``VolumeCore``.
///
/// Loop-confined. The metadata server is needed to attach, detach and resize; while it is away I/O goes on,
/// and the lease is renewed when it is back. Only a newer attachment ends this one.
public final class RemoteVolume: BlockVolume {
    /// Current size.
    public var size: ByteCount { core.size }
    /// True when writes are refused.
    public let isReadOnly: Bool
    /// Called after the size has changed.
    public var resized: ((ByteCount) -> Void)?
    /// See ``BlockVolume``.
    public var compareUnitBytes: Int { attachment.stripes.stripeUnitBytes }
    /// See ``StripeMap/atomicBytes``.
    public var atomicBytes: Int { attachment.stripes.atomicBytes }
    /// Called with each renewal of the lease that says how full the fullest store of the volume's pool is, in
    /// percent.
    public var poolUsed: ((_ percent: Int) -> Void)?
    /// Called once when the attachment is over for good; ``lossReason`` says why. Every request has failed.
    public var lost: (() -> Void)?
    /// Called when ``canAccept`` has become true again.
    public var drained: (() -> Void)?
    /// Why the attachment is over, if it is.
    public private(set) var lossReason: VolumeError?
    /// The volume's path when it was attached.
    public let path: String
    /// The attachment's number.
    public var epoch: Epoch { attachment.epoch }
    /// The volume's number in its cluster: what it stays when it gets another path.
    public var number: VolumeID { attachment.volume }
    /// The cluster; `nil` when its metadata server did not say.
    public private(set) var cluster: UniqueID?

    /// Detaching waits this long for requests under way; then they fail with ``VolumeError/shuttingDown``.
    public static let detachPatience = Duration.seconds(10)
    /// A call to the metadata server is given up after this long.
    static let callTimeout = Duration.seconds(10)
    /// Saying good-bye may take this long; a lease that nobody gave back runs out by itself.
    public static let goodbyePatience = Duration.seconds(2)
    /// Renewals beside the regular ones, for news of addresses, are this far apart at least.
    static let renewalGapMin = Duration.milliseconds(500)
    /// A request that waits longer than this on servers is worth a line in the log.
    static let noteworthyWait = Duration.seconds(3)

    let environment: any Environment
    let channel: ControlChannel
    let links: ChunkserverLinks
    let attachment: Attachment
    var core: VolumeCore
    private var effects: [VolumeCore.Effect] = []
    private var isPerforming = false
    private var isSubmitting = false
    var completions: [((VolumeResult) -> Void)?] = []
    private var freeTokens: [Int] = []
    /// Answers found while a frontend was calling; they leave from the loop.
    private var deferred: [(token: Int, VolumeResult)] = []
    private var wasFull = false
    private var attached: ((Result<RemoteVolume, AttachError>) -> Void)?
    /// Nobody else holds the volume while it attaches or detaches: a timer does, which is the loop's and goes
    /// with it.
    private var keeper: TimerID?
    var renewalTimer: TimerID?
    var isRenewing = false
    var lastRenewal: Duration
    /// The last change of which the metadata server was told that nothing is left behind the volume's end.
    var settledChange: UInt32 = 0
    var renewalFailure: (since: Duration, why: String)?
    /// The highest revision of the cluster's metadata that was heard of: said with each renewal, so that a
    /// metadata server whose database went back learns of it.
    var metadataRevision: UInt64 = 0
    var loggedWait: VolumeCore.Blockage?
    var detached: [() -> Void] = []
    private var isDetaching = false
    private var isDetached = false
    /// Who waits for every copyset to know a generation of the group.
    var removalWaiters: [(epoch: Epoch, completed: (Result<Void, AttachError>) -> Void)] = []
    var sizeWaiters: [(target: ByteCount, completed: (Result<Void, AttachError>) -> Void)] = []

    init(
        environment: any Environment, channel: ControlChannel, links: ChunkserverLinks, pool: BufferPool,
        attachment: Attachment, options: AttachOptions
    ) throws(AttachError) {
        do throws(VolumeConfigurationError) {
            core = try VolumeCore(
                VolumeCore.Configuration(
                    volume: attachment.volume, size: attachment.size, stripes: attachment.stripes,
                    copysets: attachment.copysets, epoch: attachment.epoch, change: attachment.change,
                    group: attachment.group, trimsTail: attachment.trimsTail, isReadOnly: options.isReadOnly,
                    policy: options.policy,
                    seed: environment.random()),
                pool: pool)
        } catch {
            switch error {
            case .size: throw .badAnswer("a size of \(attachment.size) with \(attachment.stripes)")
            case .placement: throw .badAnswer("\(attachment.copysets.count) copysets that cannot be a table")
            }
        }
        (self.environment, self.channel, self.links) = (environment, channel, links)
        (self.attachment, path, isReadOnly) = (attachment, options.path, options.isReadOnly)
        lastRenewal = environment.now
        settledChange = attachment.trimsTail ? 0 : attachment.change
        learn(attachment.addressBook)
        links.answered = { [weak self] id, reply in
            self?.feed(.answered(AttemptID(rawValue: id), reply.verifiedAnswer))
        }
        links.lost = { [weak self] server in
            self?.feed(.serverLost(server))
            self?.renewSoon()
        }
    }

    deinit {
        links.close()
        channel.close()
    }

    /// What was done since the attachment.
    public var counters: VolumeCore.Counters { core.counters }
    /// Requests accepted and not answered.
    public var queuedRequests: Int { core.queuedRequests }
    /// False while so many requests wait that frontends should stop reading from their clients; ``drained``
    /// says when it is over.
    public var canAccept: Bool { core.canAccept }

    /// See ``BlockVolume``.
    public func submit(_ request: VolumeRequest, completed: @escaping (VolumeResult) -> Void) {
        let token: Int
        if let free = freeTokens.popLast() {
            token = free
            completions[token] = completed
        } else {
            token = completions.count
            completions.append(completed)
        }
        isSubmitting = true
        feed(.submit(token: token, request))
        isSubmitting = false
        if !core.canAccept { wasFull = true }
    }

    func feed(_ event: VolumeCore.Event) {
        core.step(event, now: environment.now, effects: &effects)
        // A callback that submits comes here while effects are being performed: its own follow in their turn.
        guard !isPerforming else { return }
        isPerforming = true
        var batch: [VolumeCore.Effect] = []
        while !effects.isEmpty {
            swap(&batch, &effects)
            for effect in batch { perform(effect) }
            batch.removeAll(keepingCapacity: true)
        }
        isPerforming = false
        noteSettlement()
        if wasFull, core.canAccept {
            wasFull = false
            drained?()
        }
    }

    private func perform(_ effect: VolumeCore.Effect) {
        switch effect {
        case .send(let id, let server, let copyset, let command):
            let request = BlockRequest(copyset: copyset, epoch: attachment.epoch, kind: .init(command))
            if !links.send(.request(id: id.rawValue, request), to: server) {
                environment.after(.zero) { [weak self] in self?.feed(.answered(id, .unreachable)) }
                renewSoon()
            }
        case .complete(let token, let result):
            guard isSubmitting else { return complete(token, result) }
            if deferred.isEmpty { environment.after(.zero) { self.completeDeferred() } }
            deferred.append((token, result))
        case .wakeAfter(let delay): after(delay) { $0.feed(.timerFired) }
        case .attached: finishAttaching(.success(self))
        case .resized(let size): hasResized(size)
        case .regrouped: serveRemovals()
        case .lost(let error): hasLost(error)
        case .closed: hasClosed()
        }
    }

    private func completeDeferred() {
        let batch = deferred
        deferred = []
        for (token, result) in batch { complete(token, result) }
    }
    private func complete(_ token: Int, _ result: VolumeResult) {
        guard let completed = completions[token] else { return }
        completions[token] = nil
        freeTokens.append(token)
        completed(result)
    }

    /// A timer that does nothing once the volume is gone.
    func after(_ delay: Duration, _ action: @escaping (RemoteVolume) -> Void) {
        environment.after(delay) { [weak self] in
            guard let self else { return }
            action(self)
        }
    }
}

// Attaching and letting go.
extension RemoteVolume {
    /// Attaches a volume; `completed` runs once, never from inside this call. What fails leaves nothing
    /// behind.
    public static func attach(
        environment: any Environment, options: AttachOptions,
        completed: @escaping (Result<RemoteVolume, AttachError>) -> Void
    ) {
        do throws(MetadataServerListError) {
            _ = try MetadataServerList(options.metadataServers)
        } catch {
            environment.after(.zero) { completed(.failure(.metadataServers(error))) }
            return
        }
        var options = options
        if options.holderKey.isEmpty {
            options.holderKey = UniqueID(high: environment.random(), low: environment.random()).description
        }
        Attaching(environment, options, completed).start()
    }

    /// Begins the life of what the metadata server has granted.
    static func begin(
        _ answer: ControlAttachVolumeResponse, _ environment: any Environment, _ channel: ControlChannel,
        _ pool: BufferPool, _ options: AttachOptions,
        completed: @escaping (Result<RemoteVolume, AttachError>) -> Void
    ) throws(AttachError) {
        var cluster: UniqueID?
        if case .connected(_, let hello) = channel.state { cluster = hello.cluster }
        let links = ChunkserverLinks(
            environment: environment, pool: pool, hello: Hello(role: .client, cluster: cluster))
        let volume = try RemoteVolume(
            environment: environment, channel: channel, links: links, pool: pool,
            attachment: try Attachment(answer), options: options)
        (volume.cluster, volume.metadataRevision) = (cluster, answer.revision)
        volume.attached = completed
        volume.keep(for: options.timeout) { $0.attachTimedOut() }
        volume.startRenewing()
        volume.feed(.start)
    }

    private func attachTimedOut() {
        guard attached != nil else { return }
        let why = core.blockage.map { describe($0) } ?? "no answer"
        finishAttaching(.failure(.timedOut(why)))
        detach {}
    }

    private func finishAttaching(_ result: Result<RemoteVolume, AttachError>) {
        guard let completed = attached else { return }
        attached = nil
        letGo()
        completed(result)
    }

    private func keep(for time: Duration, then action: @escaping (RemoteVolume) -> Void) {
        letGo()
        keeper = environment.after(time) {
            self.keeper = nil
            action(self)
        }
    }
    private func letGo() {
        if let keeper { environment.cancel(keeper) }
        keeper = nil
    }

    private func hasLost(_ error: VolumeError) {
        guard error != .shuttingDown else { return }
        lossReason = error
        environment.log(.error, "\(path): \(AttachError.lost(error)); attachment \(epoch) is over")
        stopRenewing()
        failSizeWaiters(.lost(error))
        failRemovals(.lost(error))
        finishAttaching(.failure(.lost(error)))
        lost?()
        lost = nil
    }

    private func hasResized(_ size: ByteCount) {
        environment.log(.notice, "\(path) has \(size) now")
        resized?(size)
        serveSizeWaiters()
    }

    /// Finishes the requests under way, gives the volume back and closes the connections. Requests that come
    /// later fail with ``VolumeError/shuttingDown``. `completed` runs once, never from inside this call.
    public func detach(completed: @escaping () -> Void) {
        guard !isDetached else {
            environment.after(.zero, completed)
            return
        }
        detached.append(completed)
        guard !isDetaching else { return }
        isDetaching = true
        stopRenewing()
        keep(for: Self.detachPatience) { $0.feed(.abandon) }
        environment.after(.zero) { self.feed(.close) }
    }

    private func hasClosed() {
        links.close()
        failSizeWaiters(.lost(lossReason ?? .shuttingDown))
        failRemovals(.lost(lossReason ?? .shuttingDown))
        guard lossReason == nil else {
            environment.after(.zero) { self.finishDetaching() }
            return
        }
        var request = ControlDetachVolumeRequest()
        (request.volume, request.epoch) = (attachment.volume.rawValue, attachment.epoch.rawValue)
        keep(for: Self.goodbyePatience * 2) { $0.finishDetaching() }
        channel.call(
            ControlRequest(.detachVolume(request)), timeout: Self.goodbyePatience, isIdempotent: true,
            endsWhenRefused: true
        ) { [weak self] result in
            guard let self else { return }
            if case .failure(let error) = result {
                environment.log(
                    .warning,
                    "\(path): the metadata server was not told of the detachment, the lease runs out by "
                        + "itself: \(error)")
            }
            finishDetaching()
        }
    }

    private func finishDetaching() {
        guard !isDetached else { return }
        isDetached = true
        channel.close()
        let waiting = detached
        detached = []
        letGo()
        for completed in waiting { completed() }
    }
}
