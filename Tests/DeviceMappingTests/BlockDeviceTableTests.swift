import BlockTypes
import Foundation
import Testing

@testable import DeviceMapping

/// A copy of the parts of /sys and /proc that matter, in a temporary folder.
final class FakeKernel {
    let root = FileManager.default.temporaryDirectory.appendingPathComponent("curve-\(UUID().uuidString)")
    var table: BlockDeviceTable { BlockDeviceTable(sys: path("sys"), proc: path("proc")) }

    func path(_ name: String) -> String { root.appendingPathComponent(name).path }
    func put(_ name: String, _ text: String) throws {
        let file = root.appendingPathComponent(name)
        try FileManager.default.createDirectory(
            at: file.deletingLastPathComponent(), withIntermediateDirectories: true)
        try text.write(to: file, atomically: true, encoding: .utf8)
    }
    deinit { try? FileManager.default.removeItem(at: root) }
}

@Suite struct BlockDeviceTableTests {
    @Test("a machine without the module has no devices and says so")
    func noModule() throws {
        let kernel = FakeKernel()
        try kernel.put("sys/block/sda/size", "100\n")
        #expect(!kernel.table.hasModule && kernel.table.devices().isEmpty && kernel.table.device(0) == nil)
    }
    @Test("devices are listed by number with size, identifier, process and whether writes are refused")
    func list() throws {
        let kernel = FakeKernel()
        for (index, size) in [(0, 2048), (2, 0), (10, 8)] {
            try kernel.put("sys/block/nbd\(index)/size", "\(size)\n")
        }
        try kernel.put("sys/block/nbd0/pid", "77\n")
        try kernel.put("sys/block/nbd0/backend", "curve:vol one\n")
        try kernel.put("sys/block/nbd0/inflight", "       3       12\n")
        try kernel.put("sys/block/nbd10/ro", "1\n")
        let devices = kernel.table.devices()
        #expect(devices.map(\.index) == [0, 2, 10] && devices.map(\.isConnected) == [true, false, false])
        #expect(
            devices[0].size.bytes == 1 << 20 && devices[0].identifier == "curve:vol one"
                && devices[0].pid == 77)
        #expect(devices[0].inFlight == NBDDevice.InFlight(reads: 3, writes: 12))
        #expect(
            devices[2].isReadOnly && devices[2].inFlight == NBDDevice.InFlight()
                && devices[2].path == "/dev/nbd10")
        #expect(kernel.table.isConnected(0) && !kernel.table.isConnected(2) && !kernel.table.isConnected(9))
        // The number may be the next device's.
        #expect(kernel.table.isConnected(0, as: "curve:vol one") && kernel.table.isConnected(0, as: nil))
        #expect(!kernel.table.isConnected(0, as: "curve:vol two") && !kernel.table.isConnected(2, as: nil))
    }
    @Test("mounts, swap and stacked devices count as use, on the disk and on its partitions")
    func users() throws {
        let kernel = FakeKernel()
        try kernel.put("sys/block/nbd0/size", "8\n")
        try kernel.put("sys/block/nbd0/dev", "43:0\n")
        try kernel.put("sys/block/nbd0/nbd0p1/dev", "259:3\n")
        try kernel.put("sys/block/nbd0/nbd0p1/holders/dm-0/size", "8\n")
        try kernel.put("sys/block/nbd1/dev", "43:32\n")
        try kernel.put(
            "proc/self/mountinfo",
            """
            22 1 43:0 / /mnt/with\\040blank rw,relatime shared:1 - ext4 /dev/nbd0 rw
            23 1 259:3 / /srv\\134x rw - xfs /dev/nbd0p1 rw
            24 1 8:1 / / rw - ext4 /dev/sda1 rw
            short line
            """)
        try kernel.put("proc/swaps", "Filename Type Size Used Priority\n/dev/nbd1 partition 1 0 -2\n")
        let devices = kernel.table.devices()
        #expect(devices[0].users == ["mounted on /mnt/with blank", "mounted on /srv\\x", "below dm-0"])
        #expect(devices[1].users == ["swap"])
    }
    @Test(
        "a device is named by its path, its name or its number, and by nothing else",
        arguments: [
            ("/dev/nbd3", 3), ("nbd12", 12), ("0", 0), ("/dev/nbd", nil), ("", nil), ("/dev/sda", nil),
            ("nbd-1", nil), ("nbd3p1", nil), ("nbd99999999999", nil), ("nbd٣", nil),
        ] as [(String, UInt32?)])
    func names(name: String, index: UInt32?) { #expect(BlockDeviceTable.index(of: name) == index) }

    @Test("attributes are read in order, and reading stops at one that is cut short")
    func attributes() {
        let bytes: [UInt8] = [8, 0, 1, 0, 7, 0, 0, 0, 5, 0, 2, 0x80, 1, 0, 0, 0, 99, 0, 3, 0, 1]
        let attributes = NetlinkAttribute.all(in: bytes[...])
        #expect(attributes.map(\.type) == [1, 2] && attributes[0].u32 == 7 && attributes[1].u8 == 1)
        #expect(attributes[1].u32 == nil && NetlinkAttribute.all(in: [3, 0, 1, 0]).isEmpty)
        #expect(NetlinkAttribute.all(in: [0, 0, 0, 0, 1]).isEmpty)
    }
}

@Suite struct DaemonMarkTests {
    @Test("a mark names its process while it is held, and a second daemon is refused")
    func marks() throws {
        let kernel = FakeKernel()
        try kernel.put("x", "")
        let folder = kernel.path("run")
        #expect(DaemonMark.pid(of: 4, folder: folder) == nil)
        var mark: DaemonMark? = try DaemonMark(index: 4, folder: folder)
        #expect(DaemonMark.pid(of: 4, folder: folder) == Int(getpid()))
        #expect(throws: DeviceError.busy("/dev/nbd4")) { try DaemonMark(index: 4, folder: folder) }
        withExtendedLifetime(mark) {}
        mark = nil
        #expect(DaemonMark.pid(of: 4, folder: folder) == nil)
        _ = try DaemonMark(index: 4, folder: folder)
    }
    @Test("a mark in a folder that cannot be made says which")
    func badFolder() {
        #expect(throws: DeviceError.system(call: "create /proc/nope", errno: ENOENT)) {
            try DaemonMark(index: 0, folder: "/proc/nope")
        }
    }
}
