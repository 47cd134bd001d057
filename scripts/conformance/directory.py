"""Checks of one directory with many names: directory.py DIR COUNT create|list|change|places|empty."""

import ctypes
import os
import sys
import threading

path, count, what = sys.argv[1], int(sys.argv[2]), sys.argv[3]
stable = [f"stays-{n:06}" for n in range(count)]

libc = ctypes.CDLL(None, use_errno=True)


class Dirent(ctypes.Structure):
    _fields_ = [("ino", ctypes.c_uint64), ("off", ctypes.c_int64), ("reclen", ctypes.c_uint16), ("type", ctypes.c_uint8),
                ("name", ctypes.c_char * 256)]


libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
libc.telldir.restype = ctypes.c_long
for name in ("readdir", "telldir", "rewinddir", "closedir"):
    getattr(libc, name).argtypes = [ctypes.c_void_p]
libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]


def once(names):
    """Every name that stayed, and no name twice."""
    seen = set(names)
    assert len(seen) == len(names), f"{len(names) - len(seen)} names twice"
    missing = [name for name in stable if name not in seen]
    assert not missing, f"{len(missing)} names missing, the first {missing[0]}"
    return seen


def create():
    os.mkdir(path)
    for name in stable:
        os.close(os.open(f"{path}/{name}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))


def listed():
    assert once(os.listdir(path)) == set(stable)
    entries = list(os.scandir(path))
    assert len(entries) == count and all(entry.is_file(follow_symlinks=False) for entry in entries)
    sample = entries[:: max(1, count // 1000)]
    assert all(entry.inode() == entry.stat().st_ino for entry in sample)


def change():
    """Names come, go and are renamed while the directory is listed again and again."""
    over, failure, done = threading.Event(), [], 0

    def disturb():
        nonlocal done
        try:
            while not over.is_set():
                n = done
                names = [f"{path}/{word}-{n % 500}" for word in ("comes", "moved")]
                os.close(os.open(names[0], os.O_CREAT | os.O_WRONLY, 0o644))
                os.rename(*names)
                if n % 3:
                    os.unlink(names[1])
                done += 1
        except Exception as error:
            failure.append(error)

    other = threading.Thread(target=disturb)
    other.start()
    try:
        rounds = 0
        while rounds < 4 or (done < 100 and not failure):
            once([entry.name for entry in os.scandir(path)])
            rounds += 1
    finally:
        over.set()
        other.join()
    assert not failure, failure
    for name in os.listdir(path):
        if not name.startswith("stays-"):
            os.unlink(f"{path}/{name}")


def places():
    """seekdir(3) to what telldir(3) said shows the name that came next; rewinddir(3) begins anew."""
    at = libc.opendir(os.fsencode(path))
    assert at

    def following():
        found = libc.readdir(at)
        return None if not found else ctypes.cast(found, ctypes.POINTER(Dirent)).contents.name

    said = {}
    for n in range(count):
        place = libc.telldir(at)
        name = following()
        # (The first place is where rewinddir(3) goes: from there on the stream is another one.)
        if n % max(1, count // 50) == 1:
            said[place] = name
    for place, name in reversed(said.items()):
        libc.seekdir(at, place)
        assert following() == name, (place, name)
    # After names before and behind it went, a place shows the same name or, if that went, a later one.
    gone = [name for name in stable if int(name[-6:]) % 10 == 3]
    for name in gone:
        os.unlink(f"{path}/{name}")
    left = set(stable) - set(gone)
    for place, name in said.items():
        libc.seekdir(at, place)
        now = following()
        assert now == name or os.fsdecode(name) not in left, (name, now)
    libc.rewinddir(at)
    names = []
    while (name := following()) is not None:
        names.append(os.fsdecode(name))
    assert sorted(names) == sorted([".", "..", *left]), f"{len(names)} names, not {len(left) + 2}"
    libc.closedir(at)


def empty():
    """As rm -r does it: each name is removed when it is read, and nothing is left."""
    with os.scandir(path) as entries:
        for entry in entries:
            os.unlink(entry.path)
    left = os.listdir(path)
    assert not left, f"{len(left)} names left, the first {left[0]}"
    os.rmdir(path)


{"create": create, "list": listed, "change": change, "places": places, "empty": empty}[what]()
