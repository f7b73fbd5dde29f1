import ArgumentParser
import BlockTypes
import CurveClient
import DeviceMapping
import Environment
import Foundation
import Reactor
import ToolSupport

/// The process that serves this machine's mapped devices. Loop-confined.
///
/// It answers the questions of ``DaemonSocket``, keeps the state files, and takes up at its start what waits
/// for a daemon.
final class DeviceDaemon {
    private enum End { case none, stop, replace }
    private let reactor: Reactor
    private let stays: Bool
    private let folder = MappingFolder.standard
    private var devices: [String: ServedDevice] = [:]
    private var listener: (any Listener)?
    private var end = End.none
    private var socketNumber = 0

    /// Devices of one machine: what its kernel gives to one driver at most.
    private static let devicesMax = 4096
    /// A device whose cluster is out of reach is tried again so often.
    private static let againAfter = Duration.seconds(1)
    /// Questions under way; `map` asks one, scripts a few.
    private static let questionsMax = 64
    private var questions = 0

    init(_ reactor: Reactor, stays: Bool) { (self.reactor, self.stays) = (reactor, stays) }

    /// Serves until there is nothing to serve, or until a signal comes.
    func run() throws {
        try makeFolder(DaemonMark.defaultFolder, for: "the daemons of mapped devices")
        try onTermination(of: reactor) { [self] in stop(.stop) }
        do {
            listener = try reactor.listen(on: .unix(path: DaemonSocket.path)) { [self] in accepted($0) }
        } catch { throw ToolError.failed("cannot listen on \(DaemonSocket.path): \(words(for: error))") }
        resume()
        Background.ready("")
        reactor.run()
        if end == .replace { throw ExitCode(Watcher.againStatus) }
    }

    /// Serves one mapping in this process until it is unmapped or a signal comes.
    func runForeground(_ record: MappingRecord) throws {
        try onTermination(of: reactor) { [self] in stop(.stop) }
        var failure: ToolError?
        map(record) { answer in
            switch answer {
            case .done(let device): FileHandle.standardOutput.write(Data("\(device)\n".utf8))
            case .failed(let text, let status): failure = ToolError(status: status, description: text)
            }
        }
        reactor.run()
        if let failure { throw failure }
    }

    // MARK: Questions

    private func accepted(_ connection: any Connection) {
        // Whoever asks an ending daemon starts the next one.
        guard end == .none, questions < Self.questionsMax else { return connection.close() }
        questions += 1
        connection.handler = QuestionReader(connection, reactor) { [self] question, reply in
            answer(question, reply)
        } closed: { [self] in
            questions -= 1
        }
    }
    private func answer(_ question: DaemonSocket.Question, _ reply: @escaping (DaemonSocket.Answer) -> Void) {
        guard end == .none else { return reply(.failed("the daemon is ending; try again", status: 2)) }
        switch (question.verb, question.record) {
        case ("map", let record?): map(record, reply)
        case ("adopt", let record?): adopt(record, reply)
        case ("status", nil):
            let serving = devices.values.count { $0.device != nil }
            reply(.done("\(Version.text) \(getpid()) \(serving) \(devices.count)"))
        case ("upgrade", nil):
            reply(.done("\(getpid())"))
            stop(.replace)
        default: reply(.failed("'\(question.verb)' is not a question that this version answers", status: 2))
        }
    }

    // MARK: Devices

    private func map(_ record: MappingRecord, _ reply: @escaping (DaemonSocket.Answer) -> Void) {
        if let other = devices[record.path] {
            if other.isLeaving { return other.afterwards.append { [self] in map(record, reply) } }
            let where_ = other.device.map { "as /dev/nbd\($0)" } ?? "or is about to be"
            return reply(
                .failed("\(record.path) is mapped already, \(where_), by process \(getpid())", status: 2))
        }
        guard devices.count < Self.devicesMax else {
            return reply(.failed("\(Self.devicesMax) devices are mapped; unmap one", status: 2))
        }
        serve(record, isResumed: false, reply)
    }

    /// Maps, or waits for what this daemon has taken up by itself: asked of one that was just started.
    private func adopt(_ record: MappingRecord, _ reply: @escaping (DaemonSocket.Answer) -> Void) {
        guard let other = devices[record.path], other.isResumed, !other.isLeaving else {
            return map(record, reply)
        }
        if let index = other.device { return reply(.done("/dev/nbd\(index)")) }
        other.whenUsable.append(reply)
        other.afterwards.append { [self, unowned other] in
            if other.device == nil { map(record, reply) }
        }
    }

    /// Takes up what the kernel still has, and what a daemon served before.
    private func resume() {
        let connected = BlockDeviceTable().devices().filter(\.isConnected)
        for record in folder.records() {
            let device = connected.first { $0.index == record.index }
            guard let device, device.identifier == nil || device.identifier == record.identifier,
                DaemonMark.pid(of: device.index) == nil
            else { continue }
            reactor.log(.notice, "\(device.path) waits for a daemon: \(record.path) is attached to it")
            resume(record)
        }
        endIfIdle()
    }
    private func resume(_ record: MappingRecord) {
        serve(record, isResumed: true) { [self] answer in
            guard case .failed(let text, let status) = answer, end == .none else { return }
            let name = record.index.map { "/dev/nbd\($0)" } ?? record.path
            // What does not exist any more does not come back; the rest is a matter of patience.
            if status == 1 { return reactor.log(.error, "\(name) is left alone: \(text)") }
            if waiting[record.path] != text { reactor.log(.warning, "\(name) goes on waiting: \(text)") }
            waiting[record.path] = text
            reactor.after(Self.againAfter) { [self] in
                guard end == .none, devices[record.path] == nil, waiting[record.path] != nil else { return }
                if BlockDeviceTable().isConnected(record.index ?? 0) { return resume(record) }
                waiting[record.path] = nil
                endIfIdle()
            }
        }
    }
    /// Paths of devices that wait for their cluster, with the reason.
    private var waiting: [String: String] = [:]

    private func serve(
        _ record: MappingRecord, isResumed: Bool, _ reply: @escaping (DaemonSocket.Answer) -> Void
    ) {
        socketNumber += 1
        let socket = "\(DaemonMark.defaultFolder)/\(getpid())-\(socketNumber).sock"
        let device = ServedDevice(record, reactor, socket: socket, isResumed: isResumed)
        devices[record.path] = device
        device.usable = { [self, unowned device] record, index in
            (waiting[record.path], hasServed) = (nil, true)
            do { try folder.save(record, of: index) } catch {
                reactor.log(.error, "/dev/nbd\(index) will not be known after a crash: \(error)")
            }
            for reply in [reply] + device.whenUsable { reply(.done("/dev/nbd\(index)")) }
            device.whenUsable = []
        }
        device.start { [self, unowned device] failure in
            devices[record.path] = nil
            if let index = device.device {
                if !BlockDeviceTable().isConnected(index) { folder.remove(index) }
            } else {
                let failure = failure ?? .failed("the daemon was told to end")
                reply(.failed(failure.description, status: failure.status))
            }
            for next in device.afterwards { next() }
            endIfIdle()
        }
    }

    // MARK: The end

    private func stop(_ end: End) {
        guard self.end == .none else { return }
        self.end = end
        listener?.close()
        for path in devices.keys.sorted() { devices[path]?.stop(leavesDevice: end == .replace) }
        endIfIdle()
    }
    private func endIfIdle() {
        guard devices.isEmpty, end != .none || !stays && waiting.isEmpty else { return }
        guard end != .none || listener == nil || hasServed else { return linger() }
        listener?.close()
        reactor.stop()
    }
    private var hasServed = false
    /// A daemon that was just started for a `map` waits this long for the question.
    private static let lingerTime = Duration.seconds(3)
    private var lingers = false
    private func linger() {
        guard !lingers else { return }
        lingers = true
        reactor.after(Self.lingerTime) { [self] in
            lingers = false
            guard questions == 0 else { return endIfIdle() }
            hasServed = true
            endIfIdle()
        }
    }
}
