# Writes one version of a file after another through a memory mapping, from the front to the back.
import mmap
import sys
import time

path, images, length, pause = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
with open(path, "r+b") as file, open(images, "rb") as versions:
    mapped = mmap.mmap(file.fileno(), length)
    source = mmap.mmap(versions.fileno(), 0, access=mmap.ACCESS_READ)
at = 0
while True:
    time.sleep(pause)
    at = (at + length) % len(source)
    for page in range(0, length, 4096):
        mapped[page : page + 4096] = source[at + page : at + page + 4096]
