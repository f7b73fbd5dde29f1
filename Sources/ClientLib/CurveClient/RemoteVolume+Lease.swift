import BlockTypes
import ControlMessages
import Environment
import VolumeCore

// The lease brings news: a new size, new addresses, or that somebody else holds the volume.
extension RemoteVolume {
    func startRenewing() { scheduleRenewal(after: attachment.lease / 3) }

    func stopRenewing() {
        if let renewalTimer { environment.cancel(renewalTimer) }
        renewalTimer = nil
    }

    private func scheduleRenewal(after delay: Duration) {
        stopRenewing()
        renewalTimer = environment.after(delay) { [weak self] in
            self?.renewalTimer = nil
            self?.renew()
        }
    }

    /// Renews before its time, because the addresses known do not lead to a server.
    func renewSoon() {
        guard renewalTimer != nil, !isRenewing else { return }
        let gap = environment.now - lastRenewal
        if gap >= Self.renewalGapMin { scheduleRenewal(after: .zero) }
    }

    /// Tells the metadata server at once when a shrink is complete: until it knows, the volume cannot grow.
    func noteSettlement() {
        let settled = core.settledChange
        guard settled > settledChange, renewalTimer != nil, !isRenewing else { return }
        settledChange = settled
        scheduleRenewal(after: .zero)
    }

    func renew() {
        guard lossReason == nil, !isRenewing else { return }
        (isRenewing, lastRenewal) = (true, environment.now)
        logWait()
        var request = ControlRenewLeaseRequest()
        (request.volume, request.epoch) = (attachment.volume.rawValue, attachment.epoch.rawValue)
        (request.addressBookVersion, request.revision) = (links.bookVersion, metadataRevision)
        request.settledChange = core.settledChange
        if let cluster { request.clusterID = cluster.controlBytes }
        let timeout = max(attachment.lease / 3, .seconds(1))
        channel.call(ControlRequest(.renewLease(request)), timeout: timeout, isIdempotent: true) {
            [weak self] result in
            self?.renewed(result)
        }
    }

    private func renewed(_ result: Result<ControlResponse, ControlError>) {
        isRenewing = false
        switch result {
        case .success(let response):
            guard case .renewLease(let answer) = response.body else { break }
            if renewalFailure != nil { environment.log(.notice, "\(path): the lease is renewed again") }
            renewalFailure = nil
            metadataRevision = max(metadataRevision, answer.revision)
            if answer.hasAddressBook { learn(answer.addressBook) }
            learn(
                size: answer.sizeBytes, change: answer.change, generation: answer.epoch, group: answer.group)
            serveSizeWaiters()
            if answer.poolUsedPercent > 0 { poolUsed?(Int(min(100, answer.poolUsedPercent))) }
        case .failure(.refused(let failure)) where failure.code == .fenced: return feed(.fenced)
        case .failure(let error):
            if renewalFailure == nil {
                environment.log(.warning, "\(path): the lease is not renewed, I/O goes on: \(error)")
            }
            renewalFailure = (renewalFailure?.since ?? environment.now, "\(error)")
            if case .refused = error { askForAddresses() }
        }
        scheduleRenewal(after: attachment.lease / 3)
        noteSettlement()
    }
    /// What a group holds has its size by the generation of the membership, so that copysets, which hear of
    /// it from every member, go by the newest.
    private func learn(size: UInt64, change: UInt32, generation: UInt32, group: [UInt32]) {
        let size = ByteCount(bytes: size)
        if attachment.group.isEmpty {
            feed(.resize(size, change: change))
        } else if size > self.size {
            feed(.regroup(Epoch(generation), change: change, group: group.map { Epoch($0) }, size: size))
        }
    }
    /// A metadata server whose database went back may not know this attachment, but it knows where the
    /// chunkservers are.
    private func askForAddresses() {
        var request = ControlGetAddressBookRequest()
        request.version = links.bookVersion
        channel.call(
            ControlRequest(.getAddressBook(request)), timeout: Self.callTimeout, isIdempotent: true
        ) { [weak self] result in
            guard case .success(let response) = result, case .getAddressBook(let answer) = response.body
            else { return }
            self?.learn(answer.addressBook)
        }
    }

    func learn(_ book: ControlAddressBook) {
        let servers = book.servers.map { server in
            (ServerID(server.server), server.addresses.compactMap { SocketAddress($0) })
        }
        links.learn(version: book.version, servers)
    }
}

// Changing the size.
extension RemoteVolume {
    /// Grows or shrinks the volume; `completed` runs once, when the new size is in force at every copyset.
    /// - Parameter allowShrink: consent to the loss of what lies past the new end.
    public func resize(
        to size: ByteCount, allowShrink: Bool = false,
        completed: @escaping (Result<Void, AttachError>) -> Void
    ) {
        var request = ControlResizeVolumeRequest()
        (request.path, request.sizeBytes, request.allowShrink) = (path, size.bytes, allowShrink)
        ask(request, until: environment.now + Self.callTimeout, completed)
    }
    /// Asks again while copysets are still freeing what an earlier shrink cut off.
    private func ask(
        _ request: ControlResizeVolumeRequest, until deadline: Duration,
        _ completed: @escaping (Result<Void, AttachError>) -> Void
    ) {
        channel.call(
            ControlRequest(.resizeVolume(request)), timeout: Self.callTimeout, isIdempotent: true
        ) { [weak self] result in
            guard let self, self.lossReason == nil else { return completed(.failure(.lost(.fenced))) }
            switch result {
            case .failure(.refused(let failure))
            where failure.code == .notReady && self.environment.now + Self.resizeRetryAfter < deadline:
                _ = self.environment.after(Self.resizeRetryAfter) { [weak self] in
                    guard let self, self.lossReason == nil else {
                        return completed(.failure(.lost(.fenced)))
                    }
                    self.ask(request, until: deadline, completed)
                }
            case .failure(let error): completed(.failure(.control(error)))
            case .success(let response):
                guard case .volume(let answer) = response.body else {
                    return completed(.failure(.badAnswer("no volume after its resize")))
                }
                self.sizeWaiters.append((ByteCount(bytes: request.sizeBytes), completed))
                self.learn(
                    size: answer.volume.sizeBytes, change: answer.volume.change,
                    generation: answer.volume.epoch, group: answer.volume.members.map(\.epoch))
                self.serveSizeWaiters()
            }
        }
    }
    /// Copysets hear of a shrink with a heartbeat, and say so with the next.
    private static let resizeRetryAfter = Duration.milliseconds(500)

    func serveSizeWaiters() {
        guard !core.isResizing, !sizeWaiters.isEmpty else { return }
        let waiting = sizeWaiters
        sizeWaiters = []
        for waiter in waiting {
            waiter.completed(waiter.target == size ? .success(()) : .failure(.superseded(size)))
        }
    }

    func failSizeWaiters(_ error: AttachError) {
        let waiting = sizeWaiters
        sizeWaiters = []
        for waiter in waiting { waiter.completed(.failure(error)) }
    }

    /// Resizes a volume that nobody holds: attaches it, resizes it, detaches it.
    public static func resize(
        environment: any Environment, options: AttachOptions, to size: ByteCount, allowShrink: Bool,
        completed: @escaping (Result<Void, AttachError>) -> Void
    ) {
        attach(environment: environment, options: options) { result in
            switch result {
            case .failure(let error): completed(.failure(error))
            case .success(let volume):
                volume.resize(to: size, allowShrink: allowShrink) { result in
                    volume.detach { completed(result) }
                }
            }
        }
    }
}
