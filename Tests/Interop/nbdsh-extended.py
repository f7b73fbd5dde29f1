# Runs inside nbdsh of libnbd 1.18 or later, connected as `h` with both contexts: what 64-bit headers are for.
import errno

GIB = 1 << 30
size = h.get_size()
assert size == 8 * GIB and h.get_extended_headers_negotiated() and h.can_block_status_payload()

# Lengths that 32 bits do not hold.
h.pwrite(b"a" * 4096, 5 * GIB)
h.zero(6 * GIB, GIB // 2)
assert h.pread(4096, 5 * GIB) == bytes(4096)
h.trim(size, 0)
h.cache(size, 0)


def extents(ask, *arguments):
    """By context, what one command tells: lists of (length, flags)."""
    told = {}

    def note(context, offset, entries, error):
        assert context not in told and error.value == 0
        told[context] = [tuple(entry) for entry in entries]

    ask(*arguments, note)
    return told


# One command may ask about all; what is told begins at the place and has no empty extent.
for place in (0, 4096, 5 * GIB, size - 512):
    told = extents(h.block_status_64, size - place, place)
    assert sorted(told) == ["base:allocation", "curve:allocation-depth"], told
    for entries in told.values():
        assert entries and all(length > 0 for length, _ in entries) and sum(e[0] for e in entries) <= size - place
    assert told["base:allocation"][0][1] == 3 and told["curve:allocation-depth"][0][1] == 0, told
h.pwrite(b"b" * 8192, 4096)
told = extents(h.block_status_64, 1 << 20, 0)
assert told["base:allocation"][:3] == [(4096, 3), (8192, 0), ((1 << 20) - 12288, 3)], told
assert told["curve:allocation-depth"][:3] == [(4096, 0), (8192, 1), ((1 << 20) - 12288, 0)], told

# A filter names the contexts that are wanted.
def filtered(count, offset, names):
    return extents(lambda note: h.block_status_filter(count, offset, names, note))


assert sorted(filtered(65536, 0, ["base:allocation"])) == ["base:allocation"]
assert sorted(filtered(65536, 0, ["curve:allocation-depth"])) == ["curve:allocation-depth"]
assert len(filtered(65536, 0, ["curve:allocation-depth", "base:allocation"])) == 2

# What is wrong gets its error, and the connection goes on.
h.set_strict_mode(nbd.STRICT_AUTO_FLAG)


def fails(number, what, *arguments):
    try:
        what(*arguments)
    except nbd.Error as error:
        assert error.errnum == number, error
        return
    raise AssertionError(f"{arguments} succeeded")


fails(errno.EINVAL, h.block_status_filter, 65536, 0, [], lambda *told: 0)
fails(errno.EINVAL, h.block_status_filter, 65536, 0, ["base:allocation", "base:allocation"], lambda *told: 0)
fails(errno.EINVAL, h.block_status_64, size, 4096, lambda *told: 0)
fails(errno.EINVAL, h.trim, size, 4096)
fails(errno.ENOSPC, h.zero, size, 4096)
assert h.pread(8192, 4096) == b"b" * 8192
h.trim(size, 0)
h.shutdown()
