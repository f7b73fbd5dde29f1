import BlockTypes
import CurveClient
import Environment
import Foundation
import NBDServer
import Reactor
import ToolSupport

/// One volume, attached and served until it is stopped or the volume is lost. Loop-confined.
final class Gateway {
    private let reactor: Reactor
    private let addresses: [SocketAddress]
    private let server: NBDServer
    private(set) var volume: RemoteVolume?
    private var ended: ((ToolError?) -> Void)?
    private var failure: ToolError?
    private(set) var isStopping = false
    var exportName = ""
    var isReadOnly = false
    var printsStats = false
    /// Tells that the addresses are served.
    var announce: ([SocketAddress]) -> Void = announceReady
    /// Done before the server stops; calls back when it is done.
    var stopsFirst: ((@escaping () -> Void) -> Void)?
    /// The volume has another size.
    var resized: ((ByteCount) -> Void)?
    /// Answers with errors when the volume was taken over, instead of ending: a kernel device would wait.
    var servesAfterLoss = false

    init(reactor: Reactor, listen: [SocketAddress]) {
        (self.reactor, addresses) = (reactor, listen)
        server = NBDServer(environment: reactor)
    }

    /// Attaches the volume and serves it.
    /// - Parameter ended: called once when the volume has been given back, with the reason unless ``stop()``
    ///   was; never from inside this call.
    func start(_ options: AttachOptions, ended: @escaping (ToolError?) -> Void) {
        self.ended = ended
        if options.takeOver {
            do { try checkAddresses() } catch {
                failure = error
                reactor.after(.zero) { [self] in end() }
                return
            }
        }
        RemoteVolume.attach(environment: reactor, options: options) { [self] result in
            switch result {
            case .failure(let error):
                failure = error.isNotFound ? .notFound("\(error)") : .failed("\(error)")
                end()
            case .success(let volume): attached(volume)
            }
        }
    }

    /// Nobody is to lose a volume to a gateway that then cannot serve it.
    private func checkAddresses() throws(ToolError) {
        for address in addresses {
            do { try reactor.listen(on: address) { $0.close() }.close() } catch {
                throw ToolError.failed("cannot serve: \(words(for: error))")
            }
        }
    }

    private func attached(_ volume: RemoteVolume) {
        self.volume = volume
        guard !isStopping else { return stopServing() }
        volume.lost = { [self] in
            if servesAfterLoss {
                return reactor.log(.error, "another client took the volume over; requests fail from now on")
            }
            reactor.log(.error, "another client took the volume over; this gateway ends")
            failure = .failed(
                "another client took the volume over; nothing that it did not answer was written")
            stop()
        }
        do {
            try server.add(
                NBDExport(
                    name: exportName, volume: volume, isReadOnly: isReadOnly,
                    answersWhenFenced: servesAfterLoss))
            server.exportResized = { [self] _, size in resized?(size) }
            announce(try addresses.map { try server.listen(on: $0) })
        } catch {
            failure = .failed("cannot serve: \(words(for: error))")
            return stop()
        }
        if printsStats { printStats() }
    }

    private func printStats() {
        guard let counters = volume?.counters else { return }
        let line =
            "stats reads=\(counters.reads) writes=\(counters.writes) read_bytes=\(counters.readBytes) "
            + "written_bytes=\(counters.writtenBytes)\n"
        FileHandle.standardOutput.write(Data(line.utf8))
        reactor.after(.seconds(1)) { [self] in printStats() }
    }

    /// Lets requests under way finish and gives the volume back.
    func stop() {
        guard !isStopping else { return }
        isStopping = true
        // What is still attaching is given back once it is there.
        guard volume != nil else { return end() }
        guard let stopsFirst else { return stopServing() }
        stopsFirst { [self] in stopServing() }
    }

    /// What made this gateway useful is gone, for a reason or because it was asked to go.
    func finish(_ failure: ToolError?) {
        if let failure { self.failure = failure }
        guard !isStopping else { return }
        isStopping = true
        if volume == nil { end() } else { stopServing() }
    }

    private func stopServing() {
        server.stop { [self] in
            guard let volume else { return end() }
            volume.detach { [self] in end() }
        }
    }

    private func end() {
        guard let ended else { return }
        self.ended = nil
        ended(failure)
    }
}
