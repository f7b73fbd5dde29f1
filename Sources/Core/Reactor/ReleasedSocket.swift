import BlockTypes
import Environment
import Glibc

/// A connected socket between two loops. Closed when nobody takes it.
final class ReleasedSocket: MovedConnection, @unchecked Sendable {
    // SAFETY: `contents` is touched only under `lock`; `peer` never changes.
    let peer: String
    private let lock = Lock()
    private var contents: Contents?

    struct Contents {
        let descriptor: Int32
        let isAccepted: Bool
        let unread: [UInt8]
    }

    init(descriptor: Int32, peer: String, isAccepted: Bool, unread: [UInt8]) {
        self.peer = peer
        contents = Contents(descriptor: descriptor, isAccepted: isAccepted, unread: unread)
    }
    deinit { if let contents { close(contents.descriptor) } }

    /// - Returns: `nil` when somebody has taken it before.
    func take() -> Contents? {
        lock.with {
            defer { contents = nil }
            return contents
        }
    }
}

extension Reactor: AdoptingEnvironment {
    /// Goes on with a connection of another loop. One that was accepted there counts as accepted here.
    public func adopt(_ moved: any MovedConnection) -> (any Connection)? {
        guard let socket = moved as? ReleasedSocket, let contents = socket.take() else { return nil }
        guard !isStopping, !contents.isAccepted || acceptedCount < limits.acceptedConnectionsMax else {
            close(contents.descriptor)
            return nil
        }
        return SocketConnection(
            self, descriptor: contents.descriptor, peer: socket.peer, isAccepted: contents.isAccepted,
            unread: contents.unread)
    }
}
