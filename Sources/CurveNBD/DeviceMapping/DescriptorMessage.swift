import BlockTypes
import Glibc

/// A line of text and open files, from one process to another over a Unix socket.
enum DescriptorMessage {
    /// Longest line; an identifier is the longest part.
    private static let textBytesMax = 8 << 10
    /// A device, and three for each of its connections.
    static let descriptorsMax = 1 + 3 * MappingRecord.connectionsMax
    /// The head of a control message: length, level, type (unix(7), cmsg(3)), on machines of 64 bits.
    private static let headBytes = 16

    /// Sends both in one call. The receiver gets descriptors of its own.
    static func send(_ text: String, _ descriptors: [Int32], on socket: Int32) throws(DeviceError) {
        invariant(descriptors.count <= descriptorsMax, "too many descriptors for one message")
        var bytes = Array(text.utf8)
        var control = [UInt64](repeating: 0, count: 2 + (descriptors.count + 1) / 2)
        let controlBytes = headBytes + 4 * descriptors.count
        control[0] = UInt64(controlBytes)
        control[1] = UInt64(UInt32(bitPattern: SOL_SOCKET)) | UInt64(SCM_RIGHTS) << 32
        for (place, descriptor) in descriptors.enumerated() {
            control[2 + place / 2] |= UInt64(UInt32(bitPattern: descriptor)) << (place % 2 == 0 ? 0 : 32)
        }
        let length = bytes.count
        let sent = unsafe bytes.withUnsafeMutableBytes { text in
            unsafe control.withUnsafeMutableBytes { control in
                var piece = unsafe iovec(iov_base: text.baseAddress, iov_len: length)
                return unsafe withUnsafeMutablePointer(to: &piece) { piece in
                    var message = unsafe msghdr()
                    unsafe (message.msg_iov, message.msg_iovlen) = (piece, 1)
                    if !descriptors.isEmpty {
                        unsafe (message.msg_control, message.msg_controllen) = (
                            control.baseAddress, (controlBytes + 7) & ~7
                        )
                    }
                    return unsafe sendmsg(socket, &message, Int32(MSG_NOSIGNAL))
                }
            }
        }
        guard sent == length else { throw .system(call: "send descriptors", errno: sent < 0 ? errno : EIO) }
    }

    /// Waits for a message.
    /// - Returns: `nil` when the other side closed.
    static func receive(on socket: Int32) throws(DeviceError) -> (text: String, descriptors: [Int32])? {
        var bytes = [UInt8](repeating: 0, count: textBytesMax)
        var control = [UInt64](repeating: 0, count: 2 + (descriptorsMax + 1) / 2)
        var hasControl = false
        let count = unsafe bytes.withUnsafeMutableBytes { text in
            unsafe control.withUnsafeMutableBytes { control in
                var piece = unsafe iovec(iov_base: text.baseAddress, iov_len: text.count)
                return unsafe withUnsafeMutablePointer(to: &piece) { piece in
                    var message = unsafe msghdr()
                    unsafe (message.msg_iov, message.msg_iovlen) = (piece, 1)
                    unsafe (message.msg_control, message.msg_controllen) = (
                        control.baseAddress, control.count
                    )
                    var count: Int
                    repeat {
                        count = unsafe recvmsg(socket, &message, Int32(MSG_CMSG_CLOEXEC))
                    } while count < 0 && errno == EINTR
                    unsafe hasControl = message.msg_controllen >= headBytes
                    return count
                }
            }
        }
        var descriptors: [Int32] = []
        if hasControl, control[1] >> 32 == UInt64(SCM_RIGHTS) {
            for place in 0..<((Int(control[0]) - headBytes) / 4) {
                let word = control[2 + place / 2]
                descriptors.append(Int32(truncatingIfNeeded: place % 2 == 0 ? word : word >> 32))
            }
        }
        guard count >= 0 else { throw .system(call: "receive descriptors", errno: errno) }
        if count == 0 { return nil }
        return (String(decoding: bytes[..<count], as: UTF8.self), descriptors)
    }
}
