"""Fields of a text, given by where they begin and end, read all at once by array operations.

Each function takes the bytes of the text, padded with ``LONGEST + 8`` zeros, and the bounds of n fields. It returns
None for fields that it cannot certainly read as they are meant: those have to be read one by one.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sairlib.data.columns import Coded, Moments, Numbers
from sairlib.data.ids import Ints
from sairlib.data.times import DATE, zone_minutes

LONGEST = 128
"""Of a field, in bytes."""
_MASKS = np.frombuffer(b"".join(b"\xff" * n + bytes(8 - n) for n in range(9)), np.uint64)
"""Of a word of 8 bytes, the first n."""
Bytes = NDArray[np.uint8]


def coded(content: Bytes, starts: Ints, ends: Ints) -> Coded | None:
    """The texts; None if one of them is long or not UTF-8.

    Texts become words, padded with zeros, which no text has; a mix of these finds equal texts.
    """
    lengths = ends - starts
    n_words = -(-max(int(lengths.max()), 1) // 8)
    if n_words * 8 > LONGEST:
        return None
    words = _words(content, starts, n_words)
    for word in range(n_words):
        words[:, word] &= _MASKS[np.clip(lengths - 8 * word, 0, 8)]
    mixed = words[:, 0].copy()
    for word in range(1, n_words):
        mixed ^= mixed >> np.uint64(29)
        mixed *= np.uint64(0x9E3779B97F4A7C15)
        mixed += words[:, word]
    codes, _ = pd.factorize(mixed)
    first = np.empty(int(codes.max()) + 1, np.int64)
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)
    if n_words > 1 and bool((words != words[first[codes]]).any()):  # two texts of the same mix
        return None
    try:
        texts = [text.decode() for text in words[first].view(f"S{8 * n_words}").ravel().tolist()]
    except UnicodeDecodeError:
        return None
    return Coded(codes.astype(np.int32), texts)


def integers(content: Bytes, starts: Ints, ends: Ints) -> Numbers | None:
    """Integers of 18 digits at most; None if one is written otherwise, as with a sign."""
    lengths = ends - starts
    longest = int(lengths.max())
    if int(lengths.min()) < 1 or longest > 18:
        return None
    values = np.zeros(len(starts), np.int64)
    for place in range(longest):
        at = ends - 1 - place
        digit = np.where(at >= starts, content[at] - np.uint8(48), 0)  # at may wrap round, before the first field
        if bool((digit > 9).any()):
            return None
        values += digit.astype(np.int64) * 10**place
    return Numbers(values)


def moments(content: Bytes, starts: Ints, ends: Ints) -> Moments | None:
    """ISO dates that are all written as the first one is; None if one is not, or does not exist."""
    width = int(ends[0] - starts[0])
    first = DATE.fullmatch(content[starts[0] : ends[0]].tobytes().decode("latin-1"))
    if first is None or bool((ends - starts != width).any()):
        return None
    spans = [first.span(group) for group in range(1, 9)]
    offset = zone_minutes(first[8])
    n_digits = spans[6][1] - spans[6][0]  # of the fraction of a second
    if n_digits > 6 or offset is None:
        return None
    letters = np.ascontiguousarray(_words(content, starts, -(-width // 8)).view(np.uint8).T)
    in_digits = {at for begin, end in spans[:7] for at in range(begin, end)}
    for at in range(width):  # every byte that is no digit is the same in all rows
        letters[at] -= np.uint8(48) if at in in_digits else letters[at, 0]
        if bool((letters[at] > (9 if at in in_digits else 0)).any()):  # what is below wraps round
            return None
    numbers = []
    for begin, end in spans[:7]:
        value = np.zeros(len(starts), np.int32)
        for at in range(begin, end):
            value = value * np.int32(10) + letters[at]
        numbers.append(value)
    limits = ((1, 9999), (1, 12), (1, 31), (0, 23), (0, 59), (0, 59))
    if not all(low <= value.min() and value.max() <= high for value, (low, high) in zip(numbers, limits, strict=False)):
        return None
    year, month, day, hour, minute, second, fraction = numbers
    months = (year - 1970) * 12 + month - 1
    earliest = int(months.min())
    table = np.arange(earliest, int(months.max()) + 2).astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
    days = table[months - earliest] + day - 1
    if bool((days >= table[months - earliest + 1]).any()):
        return None
    seconds = days * 86_400 + (hour * 3600 + minute * 60 + second - offset * 60)
    return Moments(seconds * 10**6 + fraction * 10 ** (6 - n_digits), naive=first[8] is None)


def _words(content: Bytes, starts: Ints, n_words: int) -> NDArray[np.uint64]:
    """The 8 * n_words bytes from each place on, as words (n, n_words)."""
    at_every_byte = np.ndarray((len(content) - 7,), np.uint64, content.data, strides=(1,))
    words = np.empty((len(starts), n_words), np.uint64)
    for word in range(n_words):
        words[:, word] = at_every_byte[starts + 8 * word]
    return words
