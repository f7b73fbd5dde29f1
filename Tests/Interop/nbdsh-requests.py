# Runs inside nbdsh, connected as `h`: what a legal client may do, and what an illegal one gets.
import errno

def fails(number, what, *arguments, **named):
    try:
        what(*arguments, **named)
    except nbd.Error as error:
        assert error.errnum == number, f"{what.__name__}{arguments}: {error}"
        return
    raise AssertionError(f"{what.__name__}{arguments} succeeded")

size = h.get_size()
block = bytes(range(256)) * 16
h.pwrite(block, 8192)
assert h.pread(4096, 8192) == block
h.pwrite(block, 16384, nbd.CMD_FLAG_FUA)
h.zero(4096, 16384, nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_NO_HOLE)
assert h.pread(4096, 16384) == bytes(4096)
h.zero(4096, 8192, nbd.CMD_FLAG_FAST_ZERO)
assert h.pread(4096, 8192) == bytes(4096)
h.trim(65536, 0, nbd.CMD_FLAG_FUA)
h.flush()
h.pwrite(block, size - 4096)
assert h.pread(4096, size - 4096) == block

# Single bytes, across the edge of a block.
h.pwrite(b"abc", 8191)
assert h.pread(5, 8190) == b"\0abc\0"
h.zero(1, 8192)
assert h.pread(5, 8190) == b"\0a\0c\0"
h.trim(2, 8191)

# Structured reads: data where something was written, a hole elsewhere, one chunk with DF.
h.trim(1 << 20, 0)
h.pwrite(bytes([1]) * 65536, 65536)
chunks = []
h.pread_structured(196608, 0, lambda data, offset, status, error: chunks.append((offset, len(data), status)))
assert [chunk[0] for chunk in chunks] == sorted(chunk[0] for chunk in chunks)
assert (65536, 65536, nbd.READ_DATA) in chunks and any(status == nbd.READ_HOLE for _, _, status in chunks), chunks
chunks.clear()
h.pread_structured(196608, 0, lambda data, offset, status, error: chunks.append(status), nbd.CMD_FLAG_DF)
assert chunks == [nbd.READ_DATA], chunks

# Illegal requests get their error, and the connection goes on.
h.set_strict_mode(0)
fails(errno.EINVAL, h.pread, 4096, size)
fails(errno.EINVAL, h.pread, 4096, size - 512)
fails(errno.ENOSPC, h.pwrite, block, size)
fails(errno.EINVAL, h.trim, 4096, size)
fails(errno.ENOSPC, h.zero, 4096, size)
h.cache(4096, 0)
fails(errno.EINVAL, h.cache, 4096, size)
fails(errno.ENOTSUP, h.zero, 4096, 0, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE)
fails(errno.EINVAL, h.pread, 4096, 0, 1 << 9)
h.pread(4096, 0, nbd.CMD_FLAG_FUA)
h.trim(4096, 0)
assert h.pread(4096, size - 4096) == block
h.shutdown()
