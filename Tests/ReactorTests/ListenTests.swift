import BlockTypes
import Environment
import Glibc
import Testing

@testable import Reactor

@Suite("Listening and connecting") struct ListenTests {
    @Test("a port that is taken is refused by name; once its owner closed it, it is free at once")
    func addressInUse() throws {
        try onLoop { reactor in
            let first = try reactor.listen(on: anyPort) { _ in }
            #expect(throws: NetworkError.addressInUse(first.address)) {
                _ = try reactor.listen(on: first.address) { _ in }
            }
            first.close()
            first.close()
            let second = try reactor.listen(on: first.address) { _ in reactor.stop() }
            #expect(second.address == first.address)
            reactor.dial(second.address) { _ in }
        }
    }

    @Test("an address that is not this machine's is refused in words")
    func foreignAddress() throws {
        try onLoop { reactor in
            let elsewhere = SocketAddress.tcp(host: "203.0.113.5", port: 7000)
            let error = #expect(throws: NetworkError.self) { _ = try reactor.listen(on: elsewhere) { _ in } }
            #expect(error.map { "\($0)" }?.contains("no interface of this machine") == true)
            reactor.stop()
        }
    }

    @Test("a socket that this process was started with is listened on; one that does not listen is refused")
    func inherited() throws {
        try withFolder { folder in
            let path = "\(folder)/s"
            let name = try #require(SocketName(unixPath: path))
            let socket = newStreamSocket(AF_UNIX)
            #expect(name.withSockaddr { bind(socket, $0, $1) } == 0)
            let address = SocketAddress.inherited(descriptor: socket)
            try onLoop { reactor in
                #expect(throws: NetworkError.self) { _ = try reactor.listen(on: address) { _ in } }
                #expect(throws: NetworkError.self) {
                    _ = try reactor.listen(on: .inherited(descriptor: 9999)) { _ in }
                }
                #expect(throws: NetworkError.self) { _ = try reactor.adoptConnection(descriptor: socket) }
                // As some service managers leave it.
                #expect(Glibc.listen(socket, 1) == 0 && fcntl(socket, F_SETFL, O_NONBLOCK) == 0)
                let listener = try reactor.listen(on: address) { link in
                    #expect(link.peer.hasPrefix("unix:(fd:\(socket)) from process \(getpid())"))
                    #expect(link.peerHost == link.peer)
                    reactor.stop()
                }
                #expect(listener.address == address)
                reactor.dial(.unix(path: path)) { _ in }
            }
            #expect(FileIdentity(path: path) != nil, "the file is its maker's")
        }
    }
    /// One end of a pair as a connection, with a handler that ends the loop; the other end is the test's.
    private func withAdopted(
        _ body: (any Connection, Recorder, Int32) throws -> Void, afterwards: (Int32) -> Void = { _ in }
    ) throws {
        var ends: [Int32] = [-1, -1]
        #expect(socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &ends) == 0)
        defer { close(ends[1]) }
        try onLoop { reactor in
            let handler = Recorder()
            handler.closed = { _ in reactor.stop() }
            try body(try reactor.adoptConnection(descriptor: ends[0]), handler, ends[1])
        }
        afterwards(ends[1])
    }
    @Test("a connected socket that this process was started with becomes a connection")
    func adopted() throws {
        try withAdopted { link, handler, there in
            link.handler = handler
            link.send([.bytes([1, 2, 3])])
            shutdown(there, Int32(SHUT_WR))
        } afterwards: { there in
            var bytes = [UInt8](repeating: 0, count: 8)
            #expect(read(there, &bytes, 8) == 3 && bytes.prefix(3) == [1, 2, 3])
        }
    }
    @Test("a peer that closed both directions is known to have left, before what it sent is read")
    func left() throws {
        try withAdopted { link, handler, there in
            #expect(write(there, [1, 2, 3], 3) == 3 && !link.hasPeerLeft)
            shutdown(there, Int32(SHUT_WR))
            #expect(!link.hasPeerLeft, "it may still wait for answers")
            shutdown(there, Int32(SHUT_RDWR))
            #expect(link.hasPeerLeft && handler.bytes.isEmpty)
            link.handler = handler
        }
    }
    @Test("vsock is listened on where the machine has it, and refused in words where not")
    func vsock() throws {
        try onLoop { reactor in
            do {
                let listener = try reactor.listen(on: .vsock(cid: nil, port: .max)) { _ in }
                guard case .vsock(nil, let port) = listener.address else {
                    Issue.record("\(listener.address)")
                    return reactor.stop()
                }
                #expect(port != .max)
                listener.close()
            } catch NetworkError.system(let address?, _, let call) {
                #expect(address == .vsock(cid: nil, port: .max) && call == "socket")
            }
            reactor.stop()
        }
    }

    @Test("a Unix socket whose server is gone is taken over; a live one and a plain file are not")
    func staleSocket() throws {
        try withFolder { folder in
            let address = SocketAddress.unix(path: "\(folder)/s")
            let name = try #require(SocketName(unixPath: "\(folder)/s"))
            let dead = newStreamSocket(AF_UNIX)
            #expect(name.withSockaddr { bind(dead, $0, $1) } == 0)
            #expect(Glibc.listen(dead, 1) == 0)
            try onLoop { reactor in
                reactor.logLevel = .error
                #expect(throws: NetworkError.addressInUse(address)) {
                    _ = try reactor.listen(on: address) { _ in }
                }
                close(dead)
                let listener = try reactor.listen(on: address) { _ in reactor.stop() }
                let file = SocketAddress.unix(path: "\(folder)/file")
                close(open("\(folder)/file", O_CREAT | O_RDWR, 0o600))
                #expect(throws: NetworkError.addressInUse(file)) {
                    _ = try reactor.listen(on: file) { _ in }
                }
                reactor.dial(listener.address) { _ in }
            }
            #expect(FileIdentity(path: "\(folder)/s") == nil, "removed at the end")
            #expect(FileIdentity(path: "\(folder)/file") != nil, "never removed")
        }
    }

    @Test("closing a Unix listener leaves a successor's socket alone")
    func successorsSocket() throws {
        try withFolder { folder in
            try onLoop { reactor in
                let path = "\(folder)/s"
                let first = try reactor.listen(on: .unix(path: path)) { _ in }
                unlink(path)
                let second = try reactor.listen(on: .unix(path: path)) { _ in reactor.stop() }
                first.close()
                reactor.dial(second.address) { _ in }
            }
        }
    }

    @Test("nobody there: refused, over TCP and Unix")
    func refused() throws {
        try withFolder { folder in
            try onLoop { reactor in
                let gone = try reactor.listen(on: anyPort) { _ in }
                gone.close()
                let unix = SocketAddress.unix(path: "\(folder)/nobody")
                var isInsideConnect = true
                reactor.connect(to: gone.address, timeout: .seconds(5)) { result in
                    #expect(!isInsideConnect)
                    #expect(throws: NetworkError.refused(gone.address)) { _ = try result.get() }
                    reactor.connect(to: unix, timeout: .seconds(5)) { result in
                        #expect(throws: NetworkError.refused(unix)) { _ = try result.get() }
                        reactor.stop()
                    }
                }
                isInsideConnect = false
            }
        }
    }

    @Test("a connect without an answer ends at its timeout, once")
    func timeout() throws {
        try onLoop { reactor in
            // A listener with a full backlog does not answer.
            let name = try #require(NameLookup.numeric(host: "127.0.0.1", port: 0)?.first)
            let full = newStreamSocket(AF_INET)
            #expect(name.withSockaddr { bind(full, $0, $1) } == 0 && Glibc.listen(full, 0) == 0)
            let port = try #require(SocketName(of: full, peer: false)?.hostAndPort?.port)
            let address = SocketAddress.tcp(host: "127.0.0.1", port: port)
            let occupants = try (0..<1).map { _ in try BlockingPeer(address, leaked: true) }
            var outcomes: [NetworkError] = []
            for _ in 0..<3 {
                reactor.connect(to: address, timeout: .milliseconds(50)) { result in
                    if case .failure(let error) = result { outcomes.append(error) }
                }
            }
            reactor.after(.milliseconds(300)) {
                #expect(!outcomes.isEmpty && outcomes.allSatisfy { $0 == .timedOut(address) })
                _ = occupants
                close(full)
                reactor.stop()
            }
        }
    }

    @Test("a name that nobody knows fails by name, and the loop does not wait for it")
    func unknownName() throws {
        try onLoop { reactor in
            let address = SocketAddress.tcp(host: "no-such-host.invalid", port: 1)
            reactor.connect(to: address, timeout: .seconds(20)) { result in
                guard case .failure(let error) = result else {
                    Issue.record("connected to nobody")
                    return reactor.stop()
                }
                #expect("\(error)".contains("no-such-host.invalid"))
                reactor.stop()
            }
        }
    }

    @Test("beyond the bound of open connections the next one waits until one closes")
    func acceptBound() throws {
        var limits = ReactorLimits()
        limits.acceptedConnectionsMax = 2
        try onLoop(limits: limits) { reactor in
            var accepted: [any Connection] = []
            let listener = try reactor.listen(on: anyPort) { connection in
                accepted.append(connection)
                connection.handler = Recorder()
                if accepted.count == 3 { reactor.stop() }
            }
            for _ in 0..<3 { reactor.dial(listener.address) { $0.handler = Recorder() } }
            reactor.after(.milliseconds(50)) {
                #expect(accepted.count == 2)
                accepted[0].close()
            }
        }
    }

    @Test("no descriptors left: one line in the log, a rest, then it goes on")
    func outOfDescriptors() throws {
        try onLoop { reactor in
            var lines: [String] = []
            reactor.logLevel = .warning
            reactor.logSink = { lines.append($0) }
            var shortages = 3
            reactor.faults = CallFaults { call in
                guard call == .accept, shortages > 0 else { return nil }
                shortages -= 1
                return .fail(EMFILE)
            }
            let listener = try reactor.listen(on: anyPort) { _ in
                #expect(shortages == 0)
                #expect(lines.count == 1)
                reactor.stop()
            }
            reactor.dial(listener.address) { _ in }
        }
    }

    @Test(
        "each call of listening and connecting may fail; the error names the call",
        arguments: [
            SystemCall.socket, .bind, .listen,
        ])
    func failingCalls(call: SystemCall) throws {
        try onLoop { reactor in
            reactor.faults = CallFaults { $0 == call ? .fail(EMFILE) : nil }
            #expect(throws: NetworkError.system(anyPort, errno: EMFILE, call: "\(call)")) {
                _ = try reactor.listen(on: anyPort) { _ in }
            }
            reactor.faults = CallFaults { [.socket, .connect].contains($0) ? .fail(EMFILE) : nil }
            let address = SocketAddress.tcp(host: "127.0.0.1", port: 1)
            reactor.connect(to: address, timeout: .seconds(1)) { result in
                #expect(throws: NetworkError.system(address, errno: EMFILE, call: "socket")) {
                    _ = try result.get()
                }
                reactor.stop()
            }
        }
    }

    @Test("a Unix path that is too long is refused")
    func longPath() throws {
        try onLoop { reactor in
            let address = SocketAddress.unix(path: "/tmp/" + String(repeating: "x", count: 120))
            #expect(throws: NetworkError.system(address, errno: ENAMETOOLONG, call: "bind")) {
                _ = try reactor.listen(on: address) { _ in }
            }
            reactor.connect(to: address, timeout: .seconds(1)) { result in
                #expect(throws: NetworkError.system(address, errno: ENAMETOOLONG, call: "connect")) {
                    _ = try result.get()
                }
                reactor.stop()
            }
        }
    }

    @Test("a thousand idle connections hold little memory, and each still works")
    func idleConnections() throws {
        try onLoop { reactor in
            let count = 1000
            var accepted: [any Connection] = []
            var dialled: [any Connection] = []
            var received = 0
            let before = residentBytes()
            let handler = Recorder()
            handler.received = { _ in
                received += 1
                if received == count { reactor.stop() }
            }
            func allConnected() {
                guard accepted.count == count, dialled.count == count else { return }
                let perConnection = (residentBytes() - before) / (2 * count)
                #expect(perConnection < 16 << 10, "\(perConnection) bytes for each end")
                for connection in dialled { connection.send([.bytes([1])]) }
            }
            let listener = try reactor.listen(on: anyPort) { connection in
                accepted.append(connection)
                connection.handler = handler
                allConnected()
            }
            for _ in 0..<count {
                reactor.dial(listener.address) { connection in
                    dialled.append(connection)
                    connection.handler = Recorder()
                    allConnected()
                }
            }
        }
    }
}

private func residentBytes() -> Int {
    let words = readSmallFile("/proc/self/statm")?.split(separator: " ") ?? []
    return words.count > 1 ? (Int(words[1]) ?? 0) * 4096 : 0
}
