import BlockTypes

extension VolumeCore {
    /// What is under way or waits, against ``VolumeLimits``.
    package func readGauges(_ read: GaugeReader) {
        read("requests of a volume", queuedRequests, limits.requestsMax)
        read("sub-requests", subRequestsInFlight, limits.subRequestsMax + limits.fencesMax)
        read("bytes of sub-requests", activeBytes, limits.activeBytesMax)
        read("tags without an outcome", Int(tags.next - tags.oldest), Int(RequestTag.windowRequests))
    }
}
