import BlockTypes
import DeviceMapping
import Foundation
import Reactor
import Synchronization
import ToolSupport

/// Makes the kernel device and keeps it connected, on a thread of its own: the loop that answers the device's
/// requests must never wait for the kernel.
final class DeviceKeeper: @unchecked Sendable {
    // SAFETY: `wishes` has its own lock; `ended` and `afterwards` are touched only on the loop.
    private struct Wishes {
        var size: ByteCount?
        var mustEnd = false
    }
    private let socket: String
    private let options: MapOptions
    private let loop: ReactorHandle
    private let wishes = Mutex(Wishes())
    /// Called on the loop when the device is gone, or with the reason why there is none.
    var ended: ((ToolError?) -> Void)?
    private var afterwards: (() -> Void)?
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
    func resize(to size: ByteCount) { wishes.withLock { $0.size = size } }

    /// Unmaps the device unless it is in use, then calls `afterwards` on the loop.
    func stop(_ afterwards: @escaping () -> Void) {
        self.afterwards = afterwards
        wishes.withLock { $0.mustEnd = true }
    }
    private func run() {
        let device: MappedDevice
        do {
            device = try MappedDevice(socketPath: socket, exportName: "", options: options)
        } catch {
            return finish(DeviceName.toolError(error))
        }
        if Background.isDaemon { Background.ready(device.path) } else { print(device.path) }
        while true {
            do {
                guard try device.keepAlive(forMilliseconds: Self.lookEveryMilliseconds) else { break }
                if let size = wishes.withLock({ $0.size.take() }) { try device.resize(to: size) }
            } catch {
                ToolExit.say("\(device.path): \(error)")
                Thread.sleep(forTimeInterval: 0.1)
            }
            if wishes.withLock({ $0.mustEnd }) {
                letGo(device)
                break
            }
        }
        finish(nil)
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
            if let afterwards { afterwards() } else { ended?(failure) }
        }
    }
}
