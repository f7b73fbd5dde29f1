import Environment

/// What processes of a world lock: outlives them all.
public final class SimLockFile {
    private let world: SimWorld
    private var holder: SimHost?
    private var note = ""
    /// When the kernel of a dead holder's machine lets the lock go.
    private var end: Duration?

    /// A file that nobody has locked.
    public init(_ world: SimWorld) { self.world = world }

    /// The living process that holds it.
    public var livingHolder: SimHost? { holder?.isAlive == true ? holder : nil }

    fileprivate func take(_ host: SimHost, _ note: String) -> String? {
        guard holder !== host else { return nil }
        if let holder {
            guard !holder.isAlive else { return self.note }
            // The sockets and locks of a killed process outlive it by some milliseconds.
            let end =
                end ?? world.trueNow + .nanoseconds(world.nanoseconds(upTo: Self.lingerMax.wholeNanoseconds))
            self.end = end
            guard world.trueNow >= end else { return self.note }
        }
        (holder, self.note, end) = (host, note, nil)
        world.note { "\(host): holds the lock" }
        return nil
    }
    fileprivate func release(_ host: SimHost) { if holder === host { (holder, end) = (nil, nil) } }
    private static let lingerMax = Duration.milliseconds(50)
}

/// The lock as one process sees it. A paused process holds on to it, a dead one loses it.
public final class SimLock: ExclusiveLock {
    private let file: SimLockFile
    private let host: SimHost
    /// The lock of `host` on `file`.
    public init(_ file: SimLockFile, _ host: SimHost) { (self.file, self.host) = (file, host) }
    /// See ``ExclusiveLock``.
    public func take(note: String) throws(LockError) -> String? {
        guard host.isAlive else { throw LockError("the process is dead") }
        return file.take(host, note)
    }
    /// See ``ExclusiveLock``.
    public func release() { file.release(host) }
}
