"""Says which needles (hexadecimal, one a line, on standard input) are in which of the files given.

Prints `FILE NUMBER COUNT` for each needle that is there, its number counted from 0.
"""

import mmap
import sys

needles = [bytes.fromhex(line) for line in sys.stdin.read().split()]
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        if file.seek(0, 2) == 0:
            continue
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    for number, needle in enumerate(needles):
        count, at = 0, content.find(needle)
        while at >= 0:
            count, at = count + 1, content.find(needle, at + 1)
        if count:
            print(path, number, count)
