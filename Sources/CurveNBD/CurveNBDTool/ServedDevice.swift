import BlockTypes
import CurveClient
import DeviceMapping
import Environment
import Foundation
import NBDServer
import Reactor
import ToolSupport

/// One mapped volume: attached, served on a socket of its own, kept connected to the kernel. Loop-confined.
final class ServedDevice {
    private(set) var record: MappingRecord
    /// N of /dev/nbdN once it is usable.
    private(set) var device: UInt32?
    /// Called once when the device is usable, with the record as it is to be kept.
    var usable: ((MappingRecord, UInt32) -> Void)?
    /// It was taken up by the daemon itself.
    let isResumed: Bool
    /// It is on its way out: what wants the same volume comes after it.
    private(set) var isEnding = false
    /// It is, or the kernel has let the device go, which is noticed in a moment.
    var isLeaving: Bool {
        isEnding || device.map { !BlockDeviceTable().isConnected($0, as: record.identifier) } ?? false
    }
    /// Who wants to hear of the device.
    var whenUsable: [(DaemonSocket.Answer) -> Void] = []
    /// What waits for its end.
    var afterwards: [() -> Void] = []

    private let reactor: Reactor
    private let socket: String
    private let server: NBDServer
    private var volume: RemoteVolume?
    private var keeper: DeviceKeeper?
    private var failure: ToolError?
    private var ended: ((ToolError?) -> Void)?

    init(_ record: MappingRecord, _ reactor: Reactor, socket: String, isResumed: Bool) {
        (self.record, self.reactor, self.socket, self.isResumed) = (record, reactor, socket, isResumed)
        server = NBDServer(environment: reactor)
    }

    /// - Parameter ended: called once when nothing of the device is left in this process, with the reason
    ///   unless it was told to end; never from inside this call.
    func start(ended: @escaping (ToolError?) -> Void) {
        self.ended = ended
        let here = ProcessInfo.processInfo
        let options = AttachOptions(
            path: record.path, metadataServers: record.metadataServers.compactMap { SocketAddress($0) },
            holder: "curve-nbd map on \(here.hostName) pid \(here.processIdentifier)",
            holderKey: record.holderKey, takeOver: record.takesOver, isReadOnly: record.isReadOnly,
            policy: record.errorAfterSeconds == 0
                ? .queue : .errorAfter(.seconds(Int64(record.errorAfterSeconds))))
        RemoteVolume.attach(environment: reactor, options: options) { [self] result in
            switch result {
            case .failure(let error):
                failure = error.isNotFound ? .notFound("\(error)") : .failed("\(error)")
                end()
            case .success(let volume): attached(volume)
            }
        }
    }

    /// Lets requests under way finish and gives the volume back; the device goes too unless it is in use.
    /// - Parameter leavesDevice: leaves it to the next daemon in any case.
    func stop(leavesDevice: Bool) {
        guard !isEnding else { return }
        isEnding = true
        // What is still being attached is given back once it is there.
        guard volume != nil else { return end() }
        guard let keeper else { return stopServing() }
        let then = { [self] in stopServing() }
        if leavesDevice { keeper.leave(then) } else { keeper.stop(then) }
    }
    /// The device is gone, for a reason or because it was unmapped.
    private func finish(_ failure: ToolError?) {
        if let failure { self.failure = failure }
        guard !isEnding else { return }
        isEnding = true
        stopServing()
    }
    private func stopServing() {
        server.stop { [self] in
            guard let volume else { return end() }
            volume.detach { [self] in end() }
        }
    }
    private func end() {
        (keeper, server.exportResized, server.emptied) = (nil, nil, nil)
        volume?.lost = nil
        guard let ended else { return }
        self.ended = nil
        isEnding = true
        ended(failure)
    }

    private func attached(_ volume: RemoteVolume) {
        self.volume = volume
        guard !isEnding else { return stopServing() }
        let path = record.path
        volume.lost = { [reactor] in
            reactor.log(.error, "\(path): another client took the volume over; requests fail from now on")
        }
        let cluster = volume.cluster?.description ?? ""
        if record.volume != 0, (record.cluster, record.volume) != (cluster, volume.number.rawValue) {
            return finish(
                .notFound(
                    "\(path) is another volume than the one that was mapped; unmap the old device, then map the volume"
                ))
        }
        (record.cluster, record.volume) = (cluster, volume.number.rawValue)
        do {
            // A kernel device cannot connect to another gateway: it gets errors where others would wait.
            try server.add(
                NBDExport(name: "", volume: volume, isReadOnly: record.isReadOnly, answersWhenFenced: true))
            server.exportResized = { [self] _, size in keeper?.resize(to: size) }
            try server.listen(on: .unix(path: socket))
        } catch {
            return finish(.failed("cannot serve \(path): \(words(for: error))"))
        }
        connect()
    }
    private func connect() {
        var options = MapOptions(identifier: record.identifier)
        (options.index, options.connections, options.mustExist) = (
            record.index, record.connections, isResumed
        )
        (options.blockBytes, options.refusesTrim) = (record.blockBytes, record.refusesTrim)
        (options.isHeld, options.usesIoctl) = (!record.isDirect, record.usesIoctl)
        options.requestTimeoutSeconds = record.requestTimeoutSeconds
        options.deadConnectionTimeoutSeconds = record.deadConnectionTimeoutSeconds
        let keeper = DeviceKeeper(socket: socket, options: options, loop: reactor.handle)
        self.keeper = keeper
        keeper.ready = { [self] index in
            device = index
            usable?(record, index)
            usable = nil
        }
        server.emptied = { keeper.look() }
        keeper.ended = { [self] failure in finish(failure) }
        keeper.start()
    }
}
