import BlockTypes
import CLinux
import Environment
import Glibc

/// A TCP or Unix stream socket on the loop.
///
/// Its life: open -> ending (a reason is known; queued bytes may still leave) -> closed (the owner was told)
/// -> draining (only after ``close()``: what the peer still sends is thrown away, so that the peer gets our
/// last bytes instead of a reset) -> gone. Or: open -> releasing (queued bytes leave, the receive in flight
/// ends) -> gone, and the socket is in a ``ReleasedSocket``.
@safe final class SocketConnection: RingTarget, MovableConnection {
    // SAFETY: `window` is the handler's memory. The contract keeps it valid until `connectionReceived`,
    // `connectionClosed` or the end of a release, and none comes while a receive into it is in flight.
    /// Until it is gone, the loop has it in a table.
    let reactor: Reactor
    private let batches: SendBatchPool
    let peer: String
    let descriptor: Int32
    private let isLocal: Bool
    private let isAccepted: Bool
    private var slot = 0

    private enum Life { case open, releasing, ending, draining, gone }
    private var life = Life.open
    private var reason: NetworkError?
    private var released: (((any MovedConnection)?) -> Void)?
    private var lingerTimer: TimerID?
    private var awaitsAttention = false

    private var isReceiving = false
    private var isPaused = false
    private var hasMoreToReceive = true
    private var window: UnsafeMutableRawBufferPointer?
    private var isReceivingIntoWindow = false
    /// The receive in flight goes on after each arrival.
    private(set) var isStreaming = false
    private var isEndingStream = false
    /// Small arrivals one after the other.
    private var smallArrivals = 0
    /// Data that arrived while receiving was paused or ended by a release: at most what staging holds.
    private var kept: [UInt8] = []
    /// Bytes in `window` that arrived while receiving was paused.
    private var keptInWindow = 0

    private var sendQueue = Fifo<SendPiece>()
    /// What is being sent; while nothing is, what will be sent first.
    private var batch: SendBatch?
    private var isSending = false
    /// What is being sent was left to a ``Kind/quickSend``, of which nothing has been heard.
    private var isSendingQuickly = false
    private var mayFlush = true
    private var wasAboveSoftMax = false
    private(set) var queuedSendBytes = 0

    /// Below this a window saves nothing: the bytes arrive in staging together with what follows them.
    private static let windowBytesMin = 8 << 10
    /// A receive into a window asks for no more than this, so that others get their turn.
    private static let receiveBytesMax = 1 << 20
    /// After so many small arrivals a receive that goes on is worth its end.
    private static let smallArrivalsMin = 16
    /// Fuller buffers are mostly parts of something larger, which would take many of them at once.
    private static let smallArrivalBytesMax = StagingBuffers.bufferBytes / 4 * 3
    /// What a socket mostly has room for. More is held until the kernel says that it is done with it.
    private static let quickSendBytesMax = 160 << 10

    private enum Kind {
        static let receive: UInt8 = 1
        static let send: UInt8 = 2
        static let stream: UInt8 = 3
        /// Of everything at once or else of as much as fits; then ``send`` does the rest.
        static let quickSend = Ring.silentBit | send
    }

    var handler: (any ConnectionHandler)? {
        didSet { if handler != nil { wantAttention() } }
    }

    /// Takes over a connected socket.
    /// - Parameter unread: what had arrived already; it comes first.
    init(_ reactor: Reactor, descriptor: Int32, peer: String, isAccepted: Bool, unread: [UInt8] = []) {
        (self.reactor, batches, self.descriptor) = (reactor, reactor.batches, descriptor)
        isLocal = SocketName.isLocal(descriptor)
        (self.peer, self.isAccepted, kept) = (peer, isAccepted, unread)
        super.init()
        slot = reactor.connections.insert(self)
        if isAccepted { reactor.acceptedCount += 1 }
    }

    // MARK: What the owner asks

    var hasPeerLeft: Bool {
        guard isLocal, life != .gone else { return false }  // The number may be another file's by now.
        var asked = pollfd(fd: descriptor, events: 0, revents: 0)
        return unsafe poll(&asked, 1, 0) == 1 && asked.revents & Int16(POLLHUP) != 0
    }

    func send(_ pieces: [SendPiece]) {
        guard life == .open || (life == .ending && mayFlush && reason != .closedHere) else { return }
        // In their places: nothing is copied of what they refer to.
        let pieces = pieces.span
        for index in pieces.indices { queue(pieces[index]) }
        if queuedSendBytes > sendQueueBytesSoftMax { wasAboveSoftMax = true }
        if queuedSendBytes > reactor.limits.sendQueueBytesMax {
            reactor.log(.error, "\(peer): gave up with \(queuedSendBytes) bytes queued that it does not take")
            return abort(.system(nil, errno: ENOBUFS, call: "send"))
        }
        if !isSending { wantAttention() }
    }
    private func queue(_ piece: SendPiece) {
        let byteCount = piece.byteCount
        guard byteCount > 0 else { return }
        queuedSendBytes += byteCount
        switch piece {
        case .bytes(let bytes) where byteCount > SendBatch.packedBytesMax:
            append(.payload(Self.payload(copying: bytes)))
        default: append(piece)
        }
    }
    /// Most of what is sent goes into its batch at once.
    private func append(_ piece: SendPiece) {
        if isSending || !sendQueue.isEmpty || !pack(piece) { sendQueue.append(piece) }
    }
    /// - Returns: false when the batch is full.
    private func pack(_ piece: SendPiece) -> Bool {
        if batch == nil { batch = batches.take() }
        return batch?.add(piece) ?? false
    }
    /// Of what may still leave.
    private var hasUnsent: Bool { queuedSendBytes > 0 }

    func pauseReceiving() { isPaused = true }
    func resumeReceiving() {
        guard isPaused else { return }
        isPaused = false
        wantAttention()
    }
    func close() { end(.closedHere, flushing: true) }

    /// The loop ends: what its owner has closed already may still leave, the rest ends now.
    func stop() { if life != .ending || !mayFlush { abort(.closedHere) } }
    /// Ends without sending what is queued.
    func abort(_ why: NetworkError) {
        end(why, flushing: false)
        if life == .draining { finishDraining() }
    }

    // MARK: The turn's end

    private func wantAttention() {
        guard !awaitsAttention, life != .gone || handler != nil || released != nil else { return }
        awaitsAttention = true
        reactor.attend(self)
    }
    /// Called by the loop only, so handlers may be called from here.
    func attend() {
        awaitsAttention = false
        if life == .open { deliverKept() }
        if !isSending, hasUnsent, life != .ending || mayFlush { startSend() }
        switch life {
        case .open: if !isReceiving, !isPaused, handler != nil { startReceive() }
        case .releasing: handOutIfDone()
        case .ending: finishIfDone()
        case .draining: if !isReceiving { startDiscarding() }
        case .gone: break
        }
        if life == .draining || life == .gone { tellTheEnd() }
    }
    /// A handler that is set only after the end hears of it too.
    private func tellTheEnd() {
        if let told = handler, let reason {
            handler = nil
            told.connectionClosed(reason)
        }
        if let completed = released {
            released = nil
            completed(nil)
        }
    }

    override func completed(_ kind: UInt8, result: Int32, flags: UInt32) {
        switch kind {
        case Kind.receive, Kind.stream: received(result, flags)
        default:
            isSendingQuickly = false
            sent(result)
            wantAttention()
        }
    }
    override func settled() {
        guard isSendingQuickly else { return }
        isSendingQuickly = false
        sent(Int32(batch?.preparedBytes ?? 0))
        if !sendQueue.isEmpty || isSending || life != .open { wantAttention() }
    }

    // MARK: Receiving

    private func startReceive() {
        unsafe window = handler?.connectionReceiveWindow()
        guard life == .open, !isPaused else { return }  // The handler may have changed its mind.
        if let window = unsafe window, window.count >= Self.windowBytesMin {
            isReceivingIntoWindow = true
            smallArrivals = 0
            let bytesMax = min(window.count, Self.receiveBytesMax)
            unsafe submitReceive { entry, limit in
                unsafe io_uring_prep_recv(entry, descriptor, window.baseAddress, min(bytesMax, limit), 0)
            }
        } else {
            receiveIntoStaging(streaming: smallArrivals >= Self.smallArrivalsMin)
        }
    }
    private func startDiscarding() { receiveIntoStaging(streaming: false) }
    private func receiveIntoStaging(streaming: Bool) {
        isReceivingIntoWindow = false
        unsafe submitReceive(streaming: streaming) { entry, limit in
            if streaming, limit >= StagingBuffers.bufferBytes {
                unsafe io_uring_prep_recv_multishot(entry, descriptor, nil, 0, 0)
            } else {
                unsafe io_uring_prep_recv(entry, descriptor, nil, min(StagingBuffers.bufferBytes, limit), 0)
            }
            unsafe curve_sqe_select_buffer(entry, StagingBuffers.group)
        }
    }
    private func submitReceive(
        streaming: Bool = false, _ fill: (UnsafeMutablePointer<io_uring_sqe>, Int) -> Void
    ) {
        (isReceiving, isStreaming) = (true, streaming)
        unsafe reactor.submit(.receive, self, receiveKind) { entry, limit in
            unsafe fill(entry, limit)
            // An empty socket is not asked in vain: the kernel waits for data first.
            if !hasMoreToReceive { unsafe curve_sqe_poll_first(entry) }
        }
    }

    private var receiveKind: UInt8 { isStreaming ? Kind.stream : Kind.receive }

    private func received(_ result: Int32, _ flags: UInt32) {
        let wasEnded = isEndingStream && result == -ECANCELED
        if flags & UInt32(IORING_CQE_F_MORE) == 0 { (isReceiving, isEndingStream) = (false, false) }
        hasMoreToReceive = flags & UInt32(IORING_CQE_F_SOCK_NONEMPTY) != 0
        let buffer = flags & UInt32(IORING_CQE_F_BUFFER) != 0 ? Int(flags >> 16) : nil
        defer {
            if let buffer { reactor.staging.giveBack(buffer) }
            if !isReceiving || life != .open { wantAttention() }
        }
        guard life == .open else {
            if life == .releasing { return keep(result, buffer) }
            if life == .draining, !mayFlush || (result <= 0 && !Self.isPassing(-result)) { finishDraining() }
            return
        }
        guard result > 0 else { return wasEnded ? () : receiveFailed(-result) }
        let count = Int(result)
        if isReceivingIntoWindow {
            keptInWindow = count
            if !isPaused { deliverKept() }
        } else if let buffer {
            let bytes = unsafe reactor.staging.bytes(buffer)
            smallArrivals = count <= Self.smallArrivalBytesMax ? smallArrivals + 1 : 0
            unsafe deliver(UnsafeRawBufferPointer(rebasing: bytes[..<count]))
            if isReceiving, life == .open { goOnStreaming() }
        }
    }
    /// Ends the receive that goes on when what comes next should go elsewhere, or nowhere.
    private func goOnStreaming() {
        if !isPaused { unsafe window = handler?.connectionReceiveWindow() }
        let wantsWindow = (unsafe window?.count ?? 0) >= Self.windowBytesMin
        guard isPaused || wantsWindow || smallArrivals == 0, !isEndingStream, life == .open else { return }
        isEndingStream = true
        reactor.ring.cancel(self, Kind.stream)
    }
    /// True for outcomes after which the same receive is simply started again. -ENOBUFS: all staging
    /// buffers were filled in this turn.
    private static func isPassing(_ errno: Int32) -> Bool {
        errno == EINTR || errno == EAGAIN || errno == ENOBUFS
    }
    private func receiveFailed(_ errno: Int32) {
        if errno == 0 { return end(.closedByPeer, flushing: true) }
        if errno == ENOBUFS { reactor.staging.offerMore() }
        if !Self.isPassing(errno) { fail(errno, call: "recv") }
    }

    /// Hands over what arrived in a window, then what was kept during a pause.
    private func deliverKept() {
        if !isPaused, keptInWindow > 0, let window = unsafe window {
            let count = keptInWindow
            keptInWindow = 0
            unsafe self.window = nil
            unsafe handler?.connectionReceived(UnsafeRawBufferPointer(rebasing: window[..<count]))
        }
        guard !isPaused, life == .open, !kept.isEmpty, handler != nil else { return }
        let bytes = kept  // Whatever of it remains is kept anew.
        kept = []
        unsafe window = handler?.connectionReceiveWindow()
        unsafe bytes.withUnsafeBytes { unsafe deliver($0) }
    }
    /// Hands staged bytes to the handler, through its window when it has one. What remains when the handler
    /// pauses is kept.
    private func deliver(_ bytes: UnsafeRawBufferPointer) {
        var done = 0
        // What was kept comes first.
        if !kept.isEmpty {
            unsafe kept.append(contentsOf: bytes)
            return wantAttention()
        }
        while done < bytes.count, life == .open {
            guard !isPaused, let handler else {
                return kept = unsafe Array(UnsafeRawBufferPointer(rebasing: bytes[done...]))
            }
            var piece = unsafe UnsafeRawBufferPointer(rebasing: bytes[done...])
            if let window = unsafe window, window.count > 0 {
                let count = min(window.count, piece.count)
                unsafe window.copyMemory(from: UnsafeRawBufferPointer(rebasing: piece[..<count]))
                unsafe piece = UnsafeRawBufferPointer(rebasing: window[..<count])
            }
            done += piece.count
            unsafe window = nil
            unsafe handler.connectionReceived(piece)
            if done < bytes.count, life == .open, !isPaused {
                unsafe window = handler.connectionReceiveWindow()
            }
        }
        if done < bytes.count, life == .releasing {
            kept = unsafe Array(UnsafeRawBufferPointer(rebasing: bytes[done...]))
        }
    }

    // MARK: Sending

    private func startSend() {
        while let piece = sendQueue.first, pack(piece) { sendQueue.popFirst() }
        guard let batch else { return }
        let isLast = sendQueue.isEmpty && !wasAboveSoftMax && life == .open
        submitSend(batch, quickly: isLast && batch.byteCount <= Self.quickSendBytesMax)
    }
    /// A quick send mostly takes everything at once, and the loop sleeps until there is news instead of
    /// waking up to hear of the success. It hears of that only then, so nobody may wait for it.
    private func submitSend(_ batch: SendBatch, quickly: Bool = false) {
        isSending = true
        isSendingQuickly = quickly
        unsafe reactor.submit(.send, self, quickly ? Kind.quickSend : Kind.send) { entry, limit in
            let flags = MSG_NOSIGNAL | MSG_WAITALL | (quickly ? MSG_DONTWAIT : 0)
            let message = unsafe batch.prepare(bytesMax: limit)
            if unsafe message.pointee.msg_iovlen == 1, let only = unsafe message.pointee.msg_iov {
                // Spares the kernel the copies of message and vector.
                unsafe io_uring_prep_send(
                    entry, descriptor, only.pointee.iov_base, only.pointee.iov_len, Int32(flags))
            } else {
                unsafe io_uring_prep_sendmsg(entry, descriptor, message, UInt32(flags))
            }
        }
    }
    private func sent(_ result: Int32) {
        isSending = false
        guard result > 0 else {
            switch -result {
            case 0: fail(EPIPE, call: "send")
            case EINTR, EAGAIN: sendRest()
            case let errno: fail(errno, call: "send")
            }
            return
        }
        guard let sent = batch.take() else { return }
        sent.advance(Int(result))
        queuedSendBytes -= Int(result)
        if sent.byteCount > 0 {
            batch = consume sent
            sendRest()
        } else {
            batches.giveBack(consume sent)
        }
        if wasAboveSoftMax, queuedSendBytes < sendQueueBytesSoftMax / 2 {
            wasAboveSoftMax = false
            if life == .open { handler?.connectionDrained() }
        }
    }
    private func sendRest() {
        if let batch, life == .open || mayFlush { submitSend(batch) }
    }
    private static func payload(copying bytes: [UInt8]) -> Payload {
        let buffer = BlockBuffer(byteCount: bytes.count)
        unsafe bytes.withUnsafeBytes { unsafe buffer.bytes.copyMemory(from: $0) }
        return Payload(buffer, byteCount: bytes.count)
    }

    // MARK: Ending

    private func fail(_ errno: Int32, call: String) {
        switch errno {
        case ECONNRESET, EPIPE: end(.reset, flushing: false)
        case ECANCELED: end(.closedHere, flushing: false)
        default: end(.system(nil, errno: errno, call: call), flushing: false)
        }
    }
    private func end(_ why: NetworkError, flushing: Bool) {
        switch life {
        case .open, .releasing:
            life = .ending
            reason = why
            mayFlush = flushing
            if flushing { startLinger() }
        case .ending:
            if !flushing { mayFlush = false }
            // A reset hits send and receive at once; the one that comes second sees a mere end of stream.
            if why == .reset, reason == .closedByPeer { reason = .reset }
        case .draining, .gone: return
        }
        if isReceiving { reactor.ring.cancel(self, receiveKind) }
        if mayFlush { hurryQuickSend() } else { dropSends() }
        wantAttention()
    }
    private func startLinger() {
        lingerTimer = reactor.after(reactor.limits.lingerMax) { [unowned self] in
            lingerTimer = nil
            if life == .draining { finishDraining() } else { end(.closedHere, flushing: false) }
        }
    }
    private func dropSends() {
        sendQueue.removeAll()
        if isSending { reactor.ring.cancel(self, Kind.send) }
    }
    /// Tells the owner once nothing is in flight that uses its memory.
    private func finishIfDone() {
        guard !isReceiving, !isSending, !hasUnsent || !mayFlush else { return }
        if let batch = batch.take() { batches.giveBack(batch) }
        (queuedSendBytes, kept, keptInWindow) = (0, [], 0)
        unsafe window = nil
        if reason == .closedHere, mayFlush, lingerTimer != nil, !reactor.isStopping {
            life = .draining
            shutdown(descriptor, Int32(SHUT_WR))
            hasMoreToReceive = true
            wantAttention()
        } else {
            leave()
        }
    }
    private func finishDraining() {
        mayFlush = false  // Also ends it when data wins the race against the cancellation.
        guard !isReceiving else { return reactor.ring.cancel(self, receiveKind) }
        leave()
    }
    private func leave() {
        invariant(!isReceiving && !isSending, "\(peer) still has operations in flight")
        if let lingerTimer { reactor.cancel(lingerTimer) }
        _ = Glibc.close(descriptor)
        leaveTables()
    }
    private func leaveTables() {
        life = .gone
        reactor.connections.remove(slot)
        if isAccepted {
            reactor.acceptedCount -= 1
            for listener in reactor.listeners.elements { listener.acceptAgain() }
        }
    }

    // MARK: Moving to another loop

    func release(completed: @escaping ((any MovedConnection)?) -> Void) {
        invariant(released == nil, "\(peer) is being released already")
        released = completed
        if life == .open {
            life = .releasing
            if isReceiving { reactor.ring.cancel(self, receiveKind) }
            hurryQuickSend()
        }
        wantAttention()
    }
    /// What came before the receive could be ended goes along; so does the end of a stream, which the next
    /// loop reads again.
    private func keep(_ result: Int32, _ buffer: Int?) {
        guard result > 0 else {
            // An error is told by the socket only once.
            if result < 0, result != -ECANCELED { receiveFailed(-result) }
            return
        }
        if isReceivingIntoWindow {
            keptInWindow = Int(result)
        } else if let buffer {
            let bytes = unsafe reactor.staging.bytes(buffer)
            unsafe kept.append(contentsOf: UnsafeRawBufferPointer(rebasing: bytes[..<Int(result)]))
        }
    }
    /// Gives the socket away once nothing is in flight, which is when everything queued has left.
    private func handOutIfDone() {
        guard !isReceiving, !isSending, let completed = released else { return }
        var unread: [UInt8] = []
        if let window = unsafe window {
            unsafe unread.append(contentsOf: UnsafeRawBufferPointer(rebasing: window[..<keptInWindow]))
        }
        unread += kept
        if let batch = batch.take() { batches.giveBack(batch) }
        (kept, keptInWindow, released, handler) = ([], 0, nil, nil)
        unsafe window = nil
        leaveTables()
        completed(
            ReleasedSocket(descriptor: descriptor, peer: peer, isAccepted: isAccepted, unread: unread))
    }
    /// A loop that has nothing else to do sleeps over a quick send that went well. This wakes it: the kernel
    /// answers a cancellation of what is over.
    private func hurryQuickSend() {
        if isSendingQuickly { reactor.ring.cancel(self, Kind.quickSend) }
    }
}
