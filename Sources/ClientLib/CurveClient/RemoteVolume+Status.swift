import BlockTypes
import Environment
import VolumeCore

/// What a person wants to know of an attached volume.
public struct VolumeStatus: Sendable {
    /// The volume's path when it was attached.
    public var path: String
    /// Its size.
    public var size: ByteCount
    /// The attachment's number.
    public var epoch: Epoch
    /// What was done since the attachment.
    public var counters: VolumeCore.Counters
    /// Requests accepted and not answered.
    public var queuedRequests: Int
    /// Their shares that are on the way.
    public var subRequestsInFlight: Int
    /// Chunkservers with a connection.
    public var connectedServers: Int
    /// What requests wait for and since when, if servers hold them up.
    public var waiting: String?
    /// Why and since when the lease is not renewed; I/O goes on all the same.
    public var leaseTrouble: String?
}

extension RemoteVolume {
    /// A snapshot of how the volume is doing.
    public var status: VolumeStatus {
        VolumeStatus(
            path: path, size: size, epoch: epoch, counters: core.counters,
            queuedRequests: core.queuedRequests, subRequestsInFlight: core.subRequestsInFlight,
            connectedServers: links.connectedCount, waiting: core.blockage.map { describe($0) },
            leaseTrouble: renewalFailure.map { "\($0.why), since \(seconds(since: $0.since))" })
    }

    /// Forgets whoever waits for an answer. For processes of a simulated world that are gone: who asked holds
    /// what is asked, and the other way round.
    package func abandon() {
        channel.abandon()
        for token in completions.indices { completions[token] = nil }
        (removalWaiters, sizeWaiters, detached) = ([], [], [])
    }
    /// What waits here and in the rooms below.
    package func readGauges(_ read: GaugeReader) {
        core.readGauges(read)
        links.readGauges(read)
        channel.readGauges(read)
    }

    func describe(_ blockage: VolumeCore.Blockage) -> String {
        let what =
            switch blockage.reason {
            case .noLeader: "no leader for copyset \(blockage.copyset)"
            case .unreachable, .silent, .notReady, .overloaded, .needsFence, .damaged, .refused:
                "copyset \(blockage.copyset): \(blockage.reason)"
            }
        return "\(what) since \(seconds(since: blockage.since)), chunkserver \(blockage.server) asked last"
    }
    private func seconds(since start: Duration) -> String {
        "\((environment.now - start).components.seconds) s"
    }

    /// Says in the log what holds requests up, once for each time, and when it is over.
    func logWait() {
        let blockage = core.blockage
        if let blockage, environment.now - blockage.since >= Self.noteworthyWait {
            if loggedWait?.copyset != blockage.copyset || loggedWait?.since != blockage.since {
                environment.log(.warning, "\(path): requests wait: \(describe(blockage))")
            }
            loggedWait = blockage
        } else if blockage == nil, loggedWait != nil {
            environment.log(.notice, "\(path): requests go on")
            loggedWait = nil
        }
    }
}
