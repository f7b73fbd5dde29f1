import BlockTypes
import Environment
import Glibc
import Testing

@testable import Reactor

@Suite("Sockets") struct SocketTests {
    @Test(
        "what is sent comes back, over TCP v4, v6 and Unix",
        arguments: ["127.0.0.1", "::1", "unix", "localhost"])
    func echo(host: String) throws {
        try withFolder { folder in
            try onLoop { reactor in
                let wanted: SocketAddress =
                    host == "unix" ? .unix(path: "\(folder)/echo") : .tcp(host: host, port: 0)
                let listener = try reactor.listen(on: wanted) { $0.handler = EchoHandler($0) }
                reactor.dial(listener.address) { connection in
                    let handler = Recorder()
                    handler.received = { new in
                        handler.bytes.append(contentsOf: new)
                        if handler.bytes.count == 11 { connection.close() }
                    }
                    handler.closed = { _ in reactor.stop() }
                    connection.handler = handler
                    connection.send([
                        .bytes(Array("hello ".utf8)), .payload(Payload(copying: Array("world".utf8))),
                    ])
                    reactor.after(.seconds(50)) { _ = handler }
                    #expect(handler.bytes.isEmpty, "nothing happens inside send")
                    handler.drained = nil
                    handler.closed = { reason in
                        #expect(handler.bytes == Array("hello world".utf8))
                        #expect(reason == .closedHere)
                        reactor.stop()
                    }
                }
            }
        }
    }
}
