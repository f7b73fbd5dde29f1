import Environment
import ISCSIProtocol

/// Connections that come by this server's portals to targets that other loops of the process serve.
///
/// One loop has the portals: a connection's first request says whose it is, and then it moves. Everything of
/// a target happens on one loop, so no command crosses from one to another.
extension ISCSIServer {
    /// Targets that other loops serve, as initiators see them: discovery names them, logins move there.
    public var targetsElsewhere: [TargetDescription] {
        get { group.configuration.targetsElsewhere }
        set { group.configuration.targetsElsewhere = newValue }
    }
    /// Where other gateways offer a target, `address:port,tag` each.
    public func setOtherAddresses(_ addresses: [String], of target: String) {
        group.configuration.otherAddresses[target] = addresses.isEmpty ? nil : addresses
    }
    /// Goes on with a connection that the server with the portals gave up.
    public func serve(_ connection: any Connection, movedWith login: MovingLogin, portal: Int?) {
        accept(connection, by: portal, movedWith: login)
    }

    func move(_ link: ServerLink) {
        let isMoving = link.release { [own] connection in
            guard let server = own.target, let login = server.group.moved(link.id) else { return }
            server.moved?(connection, login, link.portal)
        }
        if !isMoving {
            environment.log(.error, "iscsi: \(link.peer): this connection cannot move to its target's loop")
            abandon(link)
        }
    }
}
