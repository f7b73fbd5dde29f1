/// The bounds of a logical unit. The Block Limits page (VPD B0h) tells the same numbers.
public struct SCSILimits: Hashable, Sendable {
    /// Longest transfer of one command.
    public var transferBytesMax = 32 << 20
    /// Transfers of this length go best.
    public var transferBytesBest = 1 << 20
    /// Blocks that COMPARE AND WRITE compares: its CDB has one byte for them.
    public var compareBlocksMax = 255
    /// Bytes that one WRITE SAME changes.
    public var sameBytesMax = 128 << 20
    /// Blocks that one descriptor of UNMAP gives up, and all of a command together.
    public var unmapBlocksMax = 1 << 20
    /// Descriptors of one UNMAP.
    public var unmapDescriptorsMax = 256
    /// Commands of all nexuses under way or waiting in one logical unit; the next is told TASK SET FULL, or
    /// BUSY where its nexus has none.
    public var tasksMax = 4096
    /// Tenths of a second after which a command that found no room may be sent again: it takes some answers,
    /// and these come in milliseconds.
    public var retryTenths: UInt16 = 1
    /// Unit attentions kept for one nexus; when there are more, the oldest that is no reset goes.
    public var attentionsMax = 16
    /// Nexuses of one target.
    public var nexusesMax = 2048
    /// Registrations of persistent reservations in one logical unit.
    public var registrationsMax = ReservationTable.registrationsMax
    /// How often a change of reservations is tried anew because another gateway was faster.
    public var reservationAttemptsMax = 16
    /// Bytes that one step of a long command (WRITE SAME, SANITIZE, EXTENDED COPY) moves.
    public var stepBytesMax = 1 << 20
    /// Bytes that one step of a discard gives up.
    public var discardStepBytesMax = 256 << 20
    /// Questions of one GET LBA STATUS to the volume's map.
    public var statusStepsMax = 64
    /// Descriptors in the answer of GET LBA STATUS.
    public var statusDescriptorsMax = 4096
    /// Target descriptors of one EXTENDED COPY.
    public var copyTargetsMax = 16
    /// Segment descriptors of one EXTENDED COPY.
    public var copySegmentsMax = 64
    /// Both lists of one EXTENDED COPY together.
    public var copyListBytesMax = 4096
    /// Longest segment of an EXTENDED COPY.
    public var copySegmentBytesMax = 256 << 20
    /// EXTENDED COPY commands of one target at a time.
    public var copiesMax = 16
    /// Ended copies whose status is kept for RECEIVE COPY RESULTS.
    public var copyResultsMax = 64
    /// Longest parameter list that is looked at.
    public var parameterBytesMax = 64 << 10

    /// The usual bounds.
    public init() {}
}
