"""Blacks out areas of images (PS3.15 E.3.1, Clean Pixel Data Option).

Native pixels are changed in place, and all others stay. Compressed pixels are decoded, blacked out in all frames, and
compressed without loss as RLE. This runs in a separate process, because decoders are native code that may crash on a
damaged image.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import resource
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_color_lut, compress, get_decoder
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, RLELossless, SecondaryCaptureImageStorage

from pacsifier_ops.base.errors import Unfit
from pacsifier_ops.base.start import decoding
from pacsifier_ops.deid import lettering
from pacsifier_ops.deid.devices import KEEP, OVERLAY_BITS, QUARANTINE, WRITING, Area, Blackout

#: Code of the method for an image that an entry of the catalogue cleaned (PS3.16 CID 7050).
CLEAN_PIXEL_DATA = ("113101", "DCM", "Clean Pixel Data Option")

#: Reason for the refusal of an image that may contain writing, and advice.
_MAY_BE = "what the device catalogue leaves of the image may hold writing"
_LOOK = "look at it; if it may go out, add an entry for its device, or correct the one that it has"
#: Maximum fraction of the remaining area that writing may take. Above it, the hits are probably something else.
_MOST_WRITTEN = 0.15

#: Limits for decoding one object: seconds, and bytes of memory.
_SECONDS, _MEMORY = 600.0, 8 * 2**30
#: Numbers of bits per value that RLE supports (PS3.5 8.2.2); other images are left uncompressed.
_RLE_BITS = (8, 16)
#: Transfer syntaxes that are always lossy, and the name of the method (PS3.3 C.7.6.1.1.5.1).
_LOSSY = {
    "1.2.840.10008.1.2.4.50": "ISO_10918_1",
    "1.2.840.10008.1.2.4.51": "ISO_10918_1",
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
}
#: Attributes that describe the pixels before the blackout.
_STALE = (
    "SmallestImagePixelValue",
    "LargestImagePixelValue",
    "SmallestPixelValueInSeries",
    "LargestPixelValueInSeries",
    "IconImageSequence",
)


def blackout(ds: Dataset, plan: Blackout) -> list[str]:
    """Black out areas of an image in place, in all frames, and update its attributes.

    Call it after the engine, which writes the attributes that this extends. Make the plan before the engine, from the
    source.

    Args:
        ds: the de-identified object.
        plan: result of `Catalogue.blackout` for the source.

    Returns:
        Ids of the catalogue entries that were applied; `overlay-bits` stands for overlays in unused bits, and `writing`
            for writing that was found.

    Raises:
        Unfit: the pixels cannot be interpreted. The object must then not be released.
    """
    syntax = UID(ds.file_meta.get("TransferSyntaxUID", ""))
    if not syntax.is_transfer_syntax:
        raise Unfit("the pixels cannot be blacked out: the transfer syntax is none that is known")
    if syntax.is_encapsulated:
        written = _black_out_compressed(ds, plan)
    else:
        written = _black_out(ds, plan, big_endian=syntax == ExplicitVRBigEndian)
    for keyword in _STALE:
        if keyword in ds:
            del ds[keyword]
    if plan.entries:
        ds.BurnedInAnnotation = "NO"
        _add_method_code(ds)
    return [*plan.entries, *([OVERLAY_BITS] if plan.overlay_bits else []), *([WRITING] if written else [])]


def _add_method_code(ds: Dataset) -> None:
    """Add the code of the blackout to the de-identification method codes."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = CLEAN_PIXEL_DATA
    methods = list(ds.get("DeidentificationMethodCodeSequence") or ())
    if all(code.get("CodeValue") != item.CodeValue for code in methods):
        ds.DeidentificationMethodCodeSequence = Sequence([*methods, item])


@dataclass(frozen=True, slots=True)
class _Layout:
    """Layout of the pixels of an image (PS3.3 C.7.6.3).

    Attributes:
        halved: two pixels share their chrominance, as Y Y Cb Cr (4:2:2).
    """

    frames: int
    rows: int
    columns: int
    samples: int
    planar: bool
    halved: bool
    bits: int
    stored: int
    high_bit: int
    signed: bool

    @classmethod
    def of(cls, ds: Dataset) -> _Layout:
        """Read the layout that an image declares.

        Raises:
            Unfit: it is contradictory, or not supported.
        """
        try:
            samples, bits = int(ds.SamplesPerPixel), int(ds.BitsAllocated)
            made = cls(
                frames=int(ds.get("NumberOfFrames") or 1),
                rows=int(ds.Rows),
                columns=int(ds.Columns),
                samples=samples,
                planar=samples > 1 and int(ds.PlanarConfiguration) == 1,
                halved=ds.PhotometricInterpretation in ("YBR_FULL_422", "YBR_PARTIAL_422"),
                bits=bits,
                stored=int(ds.BitsStored),
                high_bit=int(ds.HighBit),
                signed=int(ds.PixelRepresentation) == 1,
            )
        except (AttributeError, TypeError, ValueError):
            raise Unfit("the pixels cannot be blacked out: their description is incomplete") from None
        sizes = made.frames > 0 and made.rows > 0 and made.columns > 0 and samples in (1, 3)
        if not sizes or bits not in (8, 16, 32, 64) or not 0 < made.stored <= made.high_bit + 1 <= bits:
            raise Unfit("the pixels cannot be blacked out: their layout is none that is known")
        if made.halved and (samples != 3 or bits != 8 or made.columns % 2):
            raise Unfit("the pixels cannot be blacked out: their chrominance is laid out in an unknown way")
        return made

    @property
    def values(self) -> int:
        """Number of values in all frames."""
        return self.frames * self.rows * self.columns * (2 if self.halved else self.samples)

    def view(self, flat: np.ndarray) -> np.ndarray:
        """Return an array of frames, rows, columns and samples; for 4:2:2, of pairs of columns with Y, Y, Cb and Cr."""
        if self.halved:
            return flat.reshape(self.frames, self.rows, self.columns // 2, 4)
        if self.planar:
            return np.moveaxis(flat.reshape(self.frames, self.samples, self.rows, self.columns), 1, -1)
        return flat.reshape(self.frames, self.rows, self.columns, self.samples)

    def mask(self, plan: Blackout) -> np.ndarray:
        """Return a boolean plane (rows, columns; for 4:2:2 pairs of columns) of the pixels to black out."""
        mask = np.full((self.rows, self.columns), bool(plan.keep))
        for areas, value in ((plan.keep, False), (plan.black, True)):
            for area in areas:
                mask[_slices(area)] = value
        return mask[:, 0::2] | mask[:, 1::2] if self.halved else mask


def _slices(area: Area) -> tuple[slice, slice]:
    left, top, width, height = area
    return slice(top, top + height), slice(left, left + width)


def _black_out(ds: Dataset, plan: Blackout, big_endian: bool = False) -> bool:
    """Black out native pixels in place. Return whether writing was found."""
    layout = _Layout.of(ds)
    element = ds["PixelData"]
    data = bytearray(element.value or b"")
    length = layout.values * layout.bits // 8
    if len(data) not in (length, length + length % 2):
        raise Unfit("the pixels cannot be blacked out: there are more or fewer than declared")
    swapped = big_endian and layout.bits == 8 and element.VR == "OW"  # bytes are swapped within words (PS3.5 A.3)
    if swapped:
        data = _swap(data)
    order = ">" if big_endian else "<"
    flat = np.frombuffer(data, f"{order}u{layout.bits // 8}", layout.values)
    if plan.overlay_bits:
        _clear_unused_bits(flat, layout)
    pixels, mask, black = layout.view(flat), layout.mask(plan), _black(ds, layout)
    pixels[:, mask] = black
    found = False
    if plan.writing != KEEP:
        written = _written(ds, layout, pixels, ~mask, plan.writing)
        pixels[:, written] = black
        found = bool(written.any())
    element.value = bytes(_swap(data) if swapped else data)
    return found


def _written(ds: Dataset, layout: _Layout, pixels: np.ndarray, left: np.ndarray, treatment: str) -> np.ndarray:
    """Return a boolean plane (rows, columns; for 4:2:2 pairs of columns) of writing in the remaining area of any frame.

    Args:
        ds: the object.
        layout: its layout.
        pixels: array of `_Layout.view`.
        left: boolean plane of the remaining area.
        treatment: `QUARANTINE` or `BLACK`.

    Raises:
        Unfit: there is writing, or there may be, that must not be blacked out; the text gives the place.
    """
    written = np.zeros_like(left)
    rows, columns = np.flatnonzero(left.any(axis=1)), np.flatnonzero(left.any(axis=0))
    if not len(rows):
        return written
    top, first = int(rows[0]), int(columns[0])
    box, wide = (slice(top, rows[-1] + 1), slice(first, columns[-1] + 1)), 2 if layout.halved else 1
    palette = _palette_shown(ds, layout) if ds.PhotometricInterpretation == "PALETTE COLOR" else np.zeros(0)
    for number, frame in enumerate(pixels, 1):
        found = lettering.writing(_shown(ds, layout, frame[box], palette))
        doubt = found.doubt
        if treatment == QUARANTINE and found.where.any():
            y, x = np.argwhere(found.where)[0]
            doubt = int(x), int(y)
        if doubt is not None:
            raise Unfit(
                f"{_MAY_BE} at column {first * wide + doubt[0]}, row {top + doubt[1]} of frame {number}; {_LOOK}"
            )
        written[box] |= found.where[:, 0::2] | found.where[:, 1::2] if layout.halved else found.where
    if (written & left).sum() > _MOST_WRITTEN * left.sum():
        raise Unfit(f"{_MAY_BE} in many places; {_LOOK}")
    return written


def _shown(ds: Dataset, layout: _Layout, frame: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Return a frame as bytes of grey levels or of red, green and blue, scaled to the full range.

    Args:
        ds: the object.
        layout: its layout.
        frame: the stored values.
        palette: red, green and blue by value, where the image has a palette.
    """
    if layout.halved:
        frame = np.stack(
            [frame[..., :2].reshape(len(frame), -1), frame[..., 2].repeat(2, 1), frame[..., 3].repeat(2, 1)], -1
        )
    photometric = str(ds.PhotometricInterpretation)
    if photometric == "PALETTE COLOR":
        return palette[frame[..., 0] & (len(palette) - 1)]
    if layout.signed:
        frame = frame.view(f"i{frame.dtype.itemsize}")
    values: np.ndarray = frame.astype(np.int64 if layout.bits > 16 else np.int32)
    if photometric.startswith("YBR"):
        luminance, blue, red = values[..., 0], values[..., 1] - 128, values[..., 2] - 128
        values = np.stack(
            [luminance + (359 * red >> 8), luminance - (88 * blue + 183 * red >> 8), luminance + (454 * blue >> 8)], -1
        )
        return values.clip(0, 255).astype(np.uint8)
    low, high = int(values.min()), int(values.max())
    if (low, high) != (0, 255):
        values = (values - low) * 255 // max(1, high - low)
    shown = values.astype(np.uint8)
    return shown[..., 0] if layout.samples == 1 else shown


def _swap(data: bytearray) -> bytearray:
    """Swap bytes pairwise; an odd last byte gets a zero as partner."""
    return bytearray(np.frombuffer(data + bytes(len(data) % 2), "u2").byteswap().tobytes())


def _clear_unused_bits(flat: np.ndarray, layout: _Layout) -> None:
    """Clear all bits outside the image. Bits above a signed value become copies of its sign."""
    lowest = layout.high_bit + 1 - layout.stored
    flat &= flat.dtype.type(((1 << layout.stored) - 1) << lowest)
    if layout.signed:
        above = ((1 << layout.bits) - 1) ^ ((1 << (layout.high_bit + 1)) - 1)
        flat[flat & flat.dtype.type(1 << layout.high_bit) != 0] |= flat.dtype.type(above)


def _black(ds: Dataset, layout: _Layout) -> np.ndarray:
    """Return the stored value of black for each sample (PS3.3 C.7.6.3.1.2).

    Raises:
        Unfit: the photometric interpretation has no known black.
    """
    highest, middle = (1 << layout.stored) - 1, 1 << (layout.stored - 1)
    match str(ds.PhotometricInterpretation), layout.samples:
        case "MONOCHROME2", 1:
            black = [-middle if layout.signed else 0]
        case "MONOCHROME1", 1:
            black = [middle - 1 if layout.signed else highest]
        case "PALETTE COLOR", 1:
            black = [_darkest(ds, layout)]
        case "RGB", 3:
            black = [0, 0, 0]
        case "YBR_FULL", 3:
            black = [0, middle, middle]
        case "YBR_FULL_422", 3:
            black = [0, 0, middle, middle]
        case "YBR_PARTIAL_422", 3:
            black = [16, 16, middle, middle]
        case _:
            raise Unfit("the pixels cannot be blacked out: their photometric interpretation is not known")
    shift, cell = layout.high_bit + 1 - layout.stored, (1 << layout.bits) - 1
    return np.array([(value << shift) & cell for value in black], f"u{layout.bits // 8}")


def _darkest(ds: Dataset, layout: _Layout) -> int:
    """Return the value with the darkest colour of the palette."""
    return int(_palette(ds, layout).astype(np.int64).sum(axis=-1).argmin())


def _palette(ds: Dataset, layout: _Layout) -> np.ndarray:
    """Return red, green and blue of each value of the palette.

    Raises:
        Unfit: the palette cannot be read.
    """
    if layout.bits > 16 or layout.signed:
        raise Unfit("the pixels cannot be blacked out: their palette is laid out in an unknown way")
    try:
        return np.asarray(apply_color_lut(np.arange(1 << layout.stored, dtype=f"u{layout.bits // 8}"), ds))
    except Exception:  # pydicom raises many types of exception on a damaged palette
        raise Unfit("the pixels cannot be blacked out: their palette cannot be read") from None


def _palette_shown(ds: Dataset, layout: _Layout) -> np.ndarray:
    """Return the palette as bytes. Of 16-bit entries, take the byte with the larger range: some use only one."""
    colours = _palette(ds, layout)
    if colours.dtype.itemsize == 1:
        return colours
    return max((colours >> 8).astype(np.uint8), (colours & 255).astype(np.uint8), key=lambda part: int(np.ptp(part)))


def _black_out_compressed(ds: Dataset, plan: Blackout) -> bool:
    """Black out compressed pixels: a separate process decodes, blacks out and compresses them.

    Returns:
        Whether writing was found.
    """
    request = io.BytesIO()
    request.write(json.dumps(dataclasses.asdict(plan)).encode() + b"\n")
    try:
        _pixels_of(ds).save_as(request, enforce_file_format=True)
    except Exception:  # pydicom raises many types of exception here
        raise Unfit("the pixels cannot be blacked out: they are not encoded as declared") from None
    try:
        process = subprocess.run(
            decoding("pacsifier_ops.deid.pixels"),
            input=request.getvalue(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise Unfit("the pixels cannot be blacked out: decoding them took too long") from None
    if process.returncode or not process.stdout:
        raise Unfit("the pixels cannot be blacked out: they cannot be decoded")
    head, _, recoded = process.stdout.partition(b"\n")
    answer = json.loads(head)
    if answer["unfit"]:
        raise Unfit(answer["unfit"])
    after = dcmread(io.BytesIO(recoded))
    _keep_lossy_history(ds, after)
    del ds[0x7FE00000:0x7FE10000]
    for element in after:
        if element.tag.group in (0x0028, 0x7FE0):
            ds[element.tag] = element
    ds.file_meta.TransferSyntaxUID = after.file_meta.TransferSyntaxUID
    return bool(answer["written"])


def _pixels_of(ds: Dataset) -> Dataset:
    """Return an object with the pixels and their description alone."""
    alone = Dataset()
    for group in (0x0028, 0x7FE0):
        alone.update(ds.group_dataset(group))
    alone.SOPClassUID, alone.SOPInstanceUID = SecondaryCaptureImageStorage, "2.25.1"
    alone.file_meta = FileMetaDataset()
    alone.file_meta.TransferSyntaxUID = ds.file_meta.TransferSyntaxUID
    return alone


def _keep_lossy_history(ds: Dataset, after: Dataset) -> None:
    """Record lossy compression in attributes: the new transfer syntax no longer shows it (PS3.3 C.7.6.1.1.5)."""
    method = _LOSSY.get(ds.file_meta.TransferSyntaxUID)
    if not method:
        return
    layout = _Layout.of(after)
    after.LossyImageCompression = "01"
    after.setdefault("LossyImageCompressionMethod", method)
    ratio = layout.values * layout.bits / 8 / len(ds.PixelData)
    after.setdefault("LossyImageCompressionRatio", f"{ratio:.4g}")


def _recode(ds: Dataset, plan: Blackout) -> bool:
    """Decode, black out and compress without loss. This runs in a separate process, which any error may end."""
    decoder = get_decoder(ds.file_meta.TransferSyntaxUID)
    frames, found = decoder.as_array(ds, raw=True, allow_excess_frames=False)
    ds.PhotometricInterpretation = str(found["photometric_interpretation"]).replace("_422", "")
    ds.BitsAllocated = 8 * frames.dtype.itemsize
    if ds.SamplesPerPixel > 1:
        ds.PlanarConfiguration = 0
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    pixels = frames.tobytes()
    ds.PixelData = pixels + bytes(len(pixels) % 2)
    ds["PixelData"].VR = "OB" if ds.BitsAllocated == 8 else "OW"
    ds["PixelData"].is_undefined_length = False
    for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        if keyword in ds:
            del ds[keyword]
    written = _black_out(ds, plan)
    if ds.BitsAllocated in _RLE_BITS:
        odd = ds.Rows * ds.Columns * ds.SamplesPerPixel * frames.itemsize % 2
        plugin = "pydicom" if odd else "gdcm"  # GDCM is fast, but fails on frames of odd length
        compress(ds, RLELossless, encoding_plugin=plugin, generate_instance_uid=False)
        if ds.PhotometricInterpretation == "YBR_FULL":
            ds.PlanarConfiguration = 1  # the layout of RLE, and the only one allowed for ultrasound (PS3.3 C.8.5.6.1)
    return written


def main(request: BinaryIO, response: BinaryIO) -> None:
    """Read a plan, one line of JSON, and an object. Write the result, one line of JSON, and the object blacked out."""
    with suppress(ValueError, OSError):  # not all systems allow it
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    plan = Blackout(**json.loads(request.readline()))
    ds = dcmread(io.BytesIO(request.read()))
    answer, recoded = {"unfit": "", "written": False}, io.BytesIO()
    try:
        answer["written"] = _recode(ds, plan)
        ds.save_as(recoded, enforce_file_format=True)
    except Unfit as unfit:
        answer["unfit"] = unfit.reason
    response.write(json.dumps(answer).encode() + b"\n" + recoded.getvalue())


if __name__ == "__main__":
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # decoders may print; that must not mix with the answer
    written = io.BytesIO()
    main(sys.stdin.buffer, written)
    answer.write(written.getvalue())
    answer.close()
