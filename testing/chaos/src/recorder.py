"""An nbdkit plugin: a disk in a file, and a log of all writes and flushes."""

import os
import struct

import nbdkit

API_VERSION = 2
WRITE, FLUSH = 1, 2
paths = {}


def config(key, value):
    paths[key] = value


def thread_model():
    return nbdkit.THREAD_MODEL_SERIALIZE_ALL_REQUESTS


def open(readonly):
    log = os.open(paths["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    return os.open(paths["image"], os.O_RDWR), log


def get_size(disk):
    return os.fstat(disk[0]).st_size


def can_trim(disk):
    return False


def can_zero(disk):
    return False


def can_fua(disk):
    return nbdkit.FUA_EMULATE


def pread(disk, buffer, offset, flags):
    buffer[:] = os.pread(disk[0], len(buffer), offset)


def pwrite(disk, buffer, offset, flags):
    os.pwrite(disk[0], buffer, offset)
    os.write(disk[1], struct.pack("<BQI", WRITE, offset, len(buffer)) + bytes(buffer))


def flush(disk, flags):
    os.write(disk[1], struct.pack("<BQI", FLUSH, 0, 0))
