import BlockTypes
import Testing

@testable import VolumeCore

@Suite struct StripeMapTests {}
