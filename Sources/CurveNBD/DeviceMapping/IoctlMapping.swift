import Glibc

/// Makes a device by ioctl, or takes it over from a daemon that died: its holder must have lived on.
enum IoctlMapping {
    private static let (appearTries, appearPauseMicroseconds) = (200, UInt32(10_000))

    static func make(
        _ options: MapOptions, _ setup: DeviceSetup, _ sockets: [ServerSocket], _ table: BlockDeviceTable
    ) throws(DeviceError) -> (index: UInt32, mark: DaemonMark, line: HolderLine?) {
        guard options.isHeld else {
            throw .daemon("this kernel's NBD driver has no netlink, which --direct needs", status: 2)
        }
        let patience = setup.deadConnectionTimeoutSeconds
        if let index = options.index, table.isConnected(index) {
            let mark = try DaemonMark(index: index, folder: options.markFolder)
            let line = try HolderLine.open(index, options.identifier)
            guard line.tell(.serve, patience, sockets.map(\.descriptor)) ?? 0 > 0 else {
                throw .daemon(
                    "/dev/nbd\(index) was made without netlink, and its holder is gone: it cannot be attached "
                        + "again; unmap it by --force, then map the volume", status: 2)
            }
            return (index, mark, line)
        }
        guard !options.mustExist else {
            throw .notConnected(options.index.map { "/dev/nbd\($0)" } ?? options.identifier)
        }
        let index = try IoctlDevice.free(options.index, table)
        let mark = try DaemonMark(index: index, folder: options.markFolder)
        let device = try IoctlDevice.open(index)
        defer { close(device) }
        let pairs = try KernelPairs(sockets.count)
        let line = try HolderLine.open(index, options.identifier)
        let joined = zip(pairs.holderEnds, sockets).flatMap { [$0, $1.descriptor] }
        let held = line.tell(
            .keep, patience, [device] + pairs.kernelEnds + joined, shape: IoctlDevice.Shape(setup))
        extendLifetime(pairs)
        guard let held, held > 0 else {
            let why = Int32(clamping: -(held ?? -Int(EIO)))
            throw why == EBUSY
                ? .busy("/dev/nbd\(index)") : .system(call: "make /dev/nbd\(index) by ioctl", errno: why)
        }
        for _ in 0..<appearTries where !table.isConnected(index) { usleep(appearPauseMicroseconds) }
        return (index, mark, line)
    }
}
