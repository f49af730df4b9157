"""TIFFs as scanners and slide programs write them, and Pillow does not."""

import struct

import numpy as np


def tiff(*pictures, tile=0, planar=False, purposes=()):
    """Pages of uint8 or uint16 (H, W[, C]), of which the fourth channel is alpha, not compressed.
    tile: pixels of a side, else in one strip. planar: a plane for each colour. purposes: tag 254 of
    the pages, 1 is a smaller copy."""
    data, link = bytearray(b"II*\0" + bytes(4)), 4
    for i, picture in enumerate(map(np.atleast_3d, pictures)):
        height, width, channels = picture.shape
        planes = np.moveaxis(picture, 2, 0)[..., None] if planar else [picture]
        sides = (tile, tile) if tile else (height, width)
        blocks = []
        for plane in planes:
            padded = np.pad(plane, ((0, -height % sides[0]), (0, -width % sides[1]), (0, 0)))
            for y in range(0, height, sides[0]):
                for x in range(0, width, sides[1]):
                    blocks.append(padded[y : y + sides[0], x : x + sides[1]].tobytes())
        starts = (len(data) + np.cumsum([0, *map(len, blocks[:-1])])).tolist()
        data += b"".join(blocks)
        where, sizes = (324, 325) if tile else (273, 279)
        tags = {256: [width], 257: [height], 258: [8 * picture.itemsize] * channels, 259: [1],
                262: [2 if channels > 2 else 1], 277: [channels], 278: [height],
                284: [1 + planar], where: starts, sizes: list(map(len, blocks))}  # fmt: skip
        tags |= {254: [purposes[i]]} if purposes else {}
        tags |= {338: [2] * (channels - 3)} if channels > 3 else {}
        tags |= {322: [tile], 323: [tile]} if tile else {}
        entries = b""
        for tag, numbers in sorted(tags.items()):
            packed = struct.pack(f"<{len(numbers)}I", *numbers)
            if len(numbers) > 1:
                packed, start = struct.pack("<I", len(data)), packed
                data += start
            entries += struct.pack("<HHI", tag, 4, len(numbers)) + packed
        data[link : link + 4] = struct.pack("<I", len(data))
        data += struct.pack("<H", len(tags)) + entries + bytes(4)
        link = len(data) - 4
    return bytes(data)
