import BlockTypes
import ISCSIInitiator
import Testing

@testable import ISCSIProtocol

/// Task attributes (SAM-5, section 8.6).
@Suite struct OrderTests {
    static let wire = Wire()

    @Test("nothing passes an ordered command; the head of the queue passes what waits")
    func ordering() {
        let harness = FlowTests.ready(["InitialR2T=Yes"])
        harness.say(Self.wire.command(tag: 1, cdb: write10(0, 1), length: 512, cmdSN: 100, write: true))
        harness.say(
            Self.wire.command(tag: 2, cdb: read10(0, 1), length: 512, cmdSN: 101, read: true, attribute: 2))
        harness.say(Self.wire.command(tag: 3, cdb: read10(0, 1), length: 512, cmdSN: 102, read: true))
        #expect(harness.executed.isEmpty)
        harness.say(
            Self.wire.command(tag: 4, cdb: read10(1, 1), length: 512, cmdSN: 103, read: true, attribute: 3))
        #expect(harness.executed.map { $0.command.cdb[5] } == [1])
        let asked = harness.heard()
        harness.say(
            Self.wire.dataOut(
                tag: 1, transfer: asked[0].transfer, number: 0, offset: 0, final: true,
                data: FlowTests.pattern(512)))
        // Given out is not done: each waits for the end of the one before it.
        #expect(harness.executed.map { $0.command.attribute } == [.headOfQueue, .simple])
        harness.answer(harness.executed[1].id)
        #expect(harness.executed.count == 2)
        harness.answer(harness.executed[0].id)
        #expect(harness.executed.map { $0.command.attribute } == [.headOfQueue, .simple, .ordered])
        // What is for another unit is not concerned, nor is the head of the queue.
        for (tag, attribute, lun): (UInt32, UInt8, UInt64) in [(5, 1, 1 << 48), (6, 2, 1 << 48), (7, 3, 0)] {
            harness.say(
                Self.wire.command(
                    tag: tag, cdb: read10(tag, 1), lun: lun, length: 512, cmdSN: 99 + tag, read: true,
                    attribute: attribute))
        }
        #expect(harness.executed.dropFirst(3).map { $0.command.cdb[5] } == [5, 7])
        harness.answer(harness.executed[2].id)
        #expect(harness.executed.dropFirst(5).map { $0.command.cdb[5] } == [0])
        harness.answer(harness.executed[3].id)
        #expect(harness.executed.dropFirst(6).map { $0.command.cdb[5] } == [6])
    }
    @Test("who waits for an ordered command goes on when it is aborted, waiting or given out")
    func orderedAborted() {
        for isWaiting in [false, true] {
            let harness = FlowTests.ready()
            if isWaiting { harness.say(Self.wire.command(tag: 1, cdb: [0, 1], cmdSN: 100)) }
            let first: UInt32 = isWaiting ? 101 : 100
            harness.say(Self.wire.command(tag: 2, cdb: [0, 2], cmdSN: first, attribute: 2))
            harness.say(Self.wire.command(tag: 3, cdb: [0, 3], cmdSN: first + 1))
            harness.say(
                Self.wire.management(1, tag: 9, referenced: 2, cmdSN: first + 2, refCmdSN: first))
            if !isWaiting {
                #expect(harness.executed.count == 1)
                harness.abort(harness.executed[0].id)
            }
            #expect(harness.executed.last?.command.cdb[1] == 3 && harness.executed.count == 2)
        }
    }
}
