import BlockTypes
import DeviceMapping
import Foundation
import Reactor
import Synchronization
import ToolSupport

/// Makes the kernel device and keeps it connected, on a thread of its own: the loop that answers the device's
/// requests must never wait for the kernel.
final class DeviceKeeper: @unchecked Sendable {
    // SAFETY: `wishes` has its own lock; `ready`, `ended`, `afterwards` and `isOver` are touched only on the
    // loop.
    private struct Wishes {
        var size: ByteCount?
        var end = End.none
        /// Nobody is connected to the server: the device may be going.
        var mayGo = false
    }
    private enum End { case none, unmap, leave }
    private let socket: String
    private let options: MapOptions
    private let loop: ReactorHandle
    private let wishes = Mutex(Wishes())
    /// Called on the loop with the device's number once it is usable.
    var ready: ((UInt32) -> Void)?
    /// Called on the loop when the device is gone, or with the reason why there is none.
    var ended: ((ToolError?) -> Void)?
    private var afterwards: (() -> Void)?
    private var isOver = false
    /// Rung when there is a wish.
    private let bell = Bell()
    /// A device that goes says nothing; it is looked at so often while it may.
    private static let lookEveryMilliseconds: Int32 = 100

    init(socket: String, options: MapOptions, loop: ReactorHandle) {
        (self.socket, self.options, self.loop) = (socket, options, loop)
    }
    func start() {
        let thread = Thread { [self] in run() }
        thread.name = "device"
        thread.start()
    }
    /// The volume has another size.
    func resize(to size: ByteCount) { wish { $0.size = size } }
    /// The last connection to the server has gone.
    func look() { wish { $0.mayGo = true } }
    private func wish(_ change: (inout Wishes) -> Void) {
        wishes.withLock { change(&$0) }
        bell?.ring()
    }

    /// Unmaps the device unless it is in use, then calls `afterwards` on the loop.
    func stop(_ afterwards: @escaping () -> Void) { end(.unmap, afterwards) }
    /// Leaves the device to the next daemon, then calls `afterwards` on the loop.
    func leave(_ afterwards: @escaping () -> Void) { end(.leave, afterwards) }

    private func end(_ end: End, _ afterwards: @escaping () -> Void) {
        guard !isOver else { return afterwards() }
        self.afterwards = afterwards
        wish { $0.end = end }
    }
    private func run() {
        let device: MappedDevice
        do {
            device = try MappedDevice(socketPath: socket, exportName: "", options: options)
        } catch {
            return finish(DeviceName.toolError(error))
        }
        let index = device.index
        _ = loop.post { [self] _ in ready?(index) }
        var (end, mustLook, isHeld) = (End.none, bell == nil, options.isHeld)
        while end == .none {
            if isHeld, !device.isHeld {
                isHeld = false
                ToolExit.say("\(device.path): no process could be started to hold it; it is served directly")
            }
            do {
                let timeout = mustLook ? Self.lookEveryMilliseconds : -1
                let reconnections = device.reconnections
                guard try device.keepAlive(forMilliseconds: timeout, bell: bell) else { break }
                if let size = wishes.withLock({ $0.size }) {
                    try device.resize(to: size)
                    wishes.withLock { if $0.size == size { $0.size = nil } }
                }
                mustLook = wishes.withLock { wishes in
                    if device.reconnections != reconnections { wishes.mayGo = false }
                    return wishes.mayGo || bell == nil
                }
            } catch {
                ToolExit.say("\(device.path): \(error)")
                Thread.sleep(forTimeInterval: 0.1)
                mustLook = true
            }
            end = wishes.withLock { $0.end }
        }
        if end == .unmap { letGo(device) }
        // The mark goes after the word: who sees it gone finds a daemon that knows.
        withExtendedLifetime(device) { finish(nil) }
    }
    /// A device in use is left to the next daemon: its users wait instead of failing.
    private func letGo(_ device: MappedDevice) {
        do {
            try DeviceRemoval.unmap(device.index, force: false, waitsForDaemon: false)
        } catch DeviceError.inUse(_, let users) {
            ToolExit.say(
                "\(device.path) stays, \(users.joined(separator: ", ")); map the volume again to serve it"
            )
        } catch {
            ToolExit.say("\(device.path): \(error)")
        }
    }
    private func finish(_ failure: ToolError?) {
        _ = loop.post { [self] _ in
            isOver = true
            if let afterwards { afterwards() } else { ended?(failure) }
        }
    }
}
