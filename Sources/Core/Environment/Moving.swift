/// A connection between two loops: nobody reads it, and what had arrived comes with it. Whoever drops it
/// without giving it to an environment closes the connection.
public protocol MovedConnection: AnyObject, Sendable {
    /// Who is at the other end, for the log.
    var peer: String { get }
}

/// A connection that can go on in another environment of the same process.
public protocol MovableConnection: Connection {
    /// Gives the connection up: takes nothing more to send, sends what is queued, reads nothing more, then
    /// hands it out with what had arrived and the handler has not been given. The handler hears nothing
    /// more; its receive window stays valid until `completed`. Called once; from inside `connectionReceived`
    /// the bytes of that call count as given.
    ///
    /// A peer that takes nothing holds this up for as long as it holds up a send; `close` ends the wait.
    /// - Parameter completed: runs once, never from inside this call; `nil`: the connection broke, or was
    ///   closed, before it could be given up, and the handler has heard of that.
    func release(completed: @escaping ((any MovedConnection)?) -> Void)
}

/// An environment that can go on with what another one has released.
public protocol AdoptingEnvironment: Environment {
    /// Goes on with a connection, which is not paused. The bytes that came with it reach its handler first.
    /// - Returns: `nil` when it was adopted already (then its adopter keeps it) or is of another kind of
    ///   environment (whoever drops it closes it), and when this environment is stopping or has as many
    ///   connections as it may have (then it is closed).
    func adopt(_ moved: any MovedConnection) -> (any Connection)?
}
