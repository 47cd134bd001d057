"""What programs expect of a filesystem and only a kernel can show: `python3 system_calls.py DIR [CHECK…]`.

Each check works in a directory of its own, which is the current one. Those that take other users are skipped unless root
runs this. Prints the name of each check; ends with the traceback of the first that fails.
"""

import ctypes
import errno
import fcntl
import mmap
import multiprocessing
import os
import resource
import shutil
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
import traceback

REALTIME_COARSE = 5
libc = ctypes.CDLL(None, use_errno=True)
checks = []


def check(function):
    checks.append(function)
    return function


class NeedsRoot(Exception):
    pass


def fails(code, function, *args, **kwargs):
    """The call ends with that error."""
    try:
        function(*args, **kwargs)
    except OSError as error:
        assert error.errno == code, f"{errno.errorcode[error.errno]}, not {errno.errorcode[code]}"
    else:
        raise AssertionError(f"no {errno.errorcode[code]}")


def write(path, content=b""):
    with open(path, "wb") as file:
        file.write(content)


def read(path):
    with open(path, "rb") as file:
        return file.read()


def create(path, mode=0o644):
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, mode))


def bits(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


def tick():
    """Waits until a change has a later time than the one before."""
    coarse = time.clock_gettime_ns(REALTIME_COARSE)
    while time.clock_gettime_ns(REALTIME_COARSE) == coarse:
        pass


def in_child(function):
    """Runs it in a process of its own, which must succeed."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            function()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0, "in the child"


def as_user(user, function, groups=()):
    """Runs it as a user whose group has the same number."""
    if os.geteuid() != 0:
        raise NeedsRoot

    def change():
        os.setgroups(list(groups))
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        function()

    in_child(change)


@check
def a_thousand_descriptors_of_one_file():
    write("f", b"x" * 1000)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    opened = [os.open("f", os.O_RDWR) for _ in range(min(1000, min(4096, hard) - 50))]
    for index, fd in enumerate(opened):
        os.pwrite(fd, bytes([index % 251]), index)
    expected = bytes(index % 251 for index in range(len(opened)))
    for fd in opened:
        assert os.pread(fd, len(opened), 0) == expected
        os.close(fd)
    assert read("f")[: len(opened)] == expected
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@check
def two_processes_append_and_lose_nothing():
    def append(who):
        fd = os.open("log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        for index in range(1500):
            os.write(fd, b"%s%06d\n" % (who, index))
        os.close(fd)

    writers = [multiprocessing.Process(target=append, args=(who,)) for who in (b"a", b"b")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    lines = read("log").splitlines()
    assert len(lines) == 3000, len(lines)
    for who in (b"a", b"b"):
        assert [line for line in lines if line[:1] == who] == [b"%s%06d" % (who, index) for index in range(1500)]


@check
def a_mapping_is_shared_and_kept():
    write("m")
    os.truncate("m", 1 << 20)
    fd = os.open("m", os.O_RDWR)
    mapped = mmap.mmap(fd, 1 << 20)
    mapped[5:10] = b"hello"

    def other():
        theirs = os.open("m", os.O_RDWR)
        other_map = mmap.mmap(theirs, 1 << 20)
        assert other_map[5:10] == b"hello"
        other_map[70000:70005] = b"world"
        other_map.close()

    in_child(other)
    assert mapped[70000:70005] == b"world" and os.pread(fd, 5, 70000) == b"world"
    os.pwrite(fd, b"written", 200000)
    assert mapped[200000:200007] == b"written"
    before = os.fstat(fd)
    tick()
    mapped[900000:900001] = b"!"
    mapped.flush()
    after = os.fstat(fd)
    assert after.st_mtime_ns > before.st_mtime_ns and after.st_ctime_ns > before.st_ctime_ns
    os.close(fd)
    mapped[1 << 19 : (1 << 19) + 5] = b"later"
    mapped.close()
    content = read("m")
    for offset, expected in ((900000, b"!"), (5, b"hello"), (70000, b"world"), (200000, b"written"), (1 << 19, b"later")):
        assert content[offset : offset + len(expected)] == expected, offset
    # Of a file without a name.
    fd = os.open("gone", os.O_RDWR | os.O_CREAT, 0o600)
    os.write(fd, b"c" * 8192)
    mapped = mmap.mmap(fd, 8192)
    os.unlink("gone")
    mapped[0:1] = b"z"
    assert mapped[0:2] == b"zc" and os.pread(fd, 2, 0) == b"zc"
    mapped.close()
    os.close(fd)


@check
def a_directory_is_emptied_while_it_is_listed():
    os.mkdir("d")
    for index in range(1200):
        create(f"d/{index}")
    seen = []
    with os.scandir("d") as entries:
        for entry in entries:
            seen.append(entry.name)
            os.unlink(f"d/{entry.name}")
    assert len(seen) == len(set(seen)) == 1200, (len(seen), len(set(seen)))
    os.rmdir("d")


@check
def a_directory_grows_and_is_renamed_while_it_is_listed():
    os.mkdir("d")
    for index in range(700):
        create(f"d/{index}")
    seen = []
    with os.scandir("d") as entries:
        for entry in entries:
            seen.append(entry.name)
            if len(seen) <= 900:
                create(f"d/new{len(seen)}")
    assert len(seen) == len(set(seen)) and {str(index) for index in range(700)} <= set(seen)
    with os.scandir("d") as entries:
        for entry in entries:
            if entry.name.isdigit():
                os.rename(f"d/{entry.name}", f"d/r{entry.name}")
    assert sum(name.startswith("r") for name in os.listdir("d")) == 700


@check
def directory_streams_seek_and_rewind():
    os.mkdir("d")
    for index in range(500):
        create(f"d/{index:03}")
    libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
    libc.telldir.restype = ctypes.c_long
    for name in ("readdir", "rewinddir", "closedir", "telldir"):
        getattr(libc, name).argtypes = [ctypes.c_void_p]
    libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
    stream = libc.opendir(b"d")

    def following():
        entry = libc.readdir(stream)
        name_at = 19  # of struct dirent
        return ctypes.string_at(entry + name_at) if entry else None

    places, names = [], []
    while True:
        places.append(libc.telldir(stream))
        name = following()
        if name is None:
            break
        names.append(name)
    assert len(names) == 502
    # The first place is that of rewinddir, after which the others stand for nothing (POSIX, seekdir).
    for index in (501, 1, 2, 3, 100, 250, 499):
        libc.seekdir(stream, places[index])
        assert following() == names[index], index
    create("d/added")
    os.unlink("d/000")
    libc.rewinddir(stream)
    again = list(iter(following, None))
    assert b"added" in again and b"000" not in again and len(again) == 502
    libc.closedir(stream)


@check
def names_of_any_bytes():
    names = [bytes([byte]) for byte in range(1, 256) if byte not in b"/."]
    names += [b"\xff" * 255, b"...", "\uf780".encode(), "\uf7ff".encode(), "e\u0301".encode(), "\u00e9".encode()]
    names += [bytes([a, b]) for a in (0xC3, 0x80, 0xFF, 0x41, 0xEF, 0xF0) for b in range(0x80, 0xC0, 13)]
    for name in names:
        write(name, name)
    assert sorted(os.listdir(b".")) == sorted(set(names))
    for name in names:
        assert read(name) == name
        os.rename(name, name[:200] + b"~R")
        os.unlink(name[:200] + b"~R")
    assert os.listdir(b".") == []


@check
def find_du_and_df_are_believable():
    write("f", b"x" * 100_000)
    found = subprocess.check_output(["find", ".", "-inum", str(os.stat("f").st_ino)])
    assert found.strip() == b"./f", found
    used = int(subprocess.check_output(["du", "-k", "f"]).split()[0])
    assert 97 <= used <= 104, used
    figures = os.statvfs(".")
    assert 0 < figures.f_bavail <= figures.f_blocks and 0 < figures.f_ffree <= figures.f_files
    assert figures.f_namemax == 255 and figures.f_bsize == 4096
    subprocess.check_output(["df", "."])


@check
def utimensat_omits_and_takes_now():
    now, omit = (1 << 30) - 1, (1 << 30) - 2
    seconds = 10**9

    def set_times(path, atime, mtime, flags=0):
        if libc.utimensat(-100, path.encode(), struct.pack("qqqq", *atime, *mtime), flags):
            raise OSError(ctypes.get_errno(), "utimensat")

    def times(path):
        info = os.lstat(path)
        return info.st_atime_ns, info.st_mtime_ns

    write("f")
    for second in (-(2**33), -(2**31) - 1, -1, 0, 2**31, 2**32 + 5, 2**34 - 1):
        set_times("f", (second, 123456789), (second, 987654321))
        assert times("f") == (second * seconds + 123456789, second * seconds + 987654321), second
    set_times("f", (7, 8), (5, 6))
    set_times("f", (0, omit), (9, 1))
    assert times("f") == (7 * seconds + 8, 9 * seconds + 1)
    set_times("f", (3, 4), (0, omit))
    assert times("f") == (3 * seconds + 4, 9 * seconds + 1)
    before = os.stat("f").st_ctime_ns
    tick()
    set_times("f", (0, omit), (0, omit))
    assert os.stat("f").st_ctime_ns == before
    set_times("f", (0, now), (0, omit))
    assert abs(times("f")[0] - time.time_ns()) < 5 * seconds and times("f")[1] == 9 * seconds + 1
    assert os.stat("f").st_ctime_ns > before
    os.symlink("f", "l")
    set_times("l", (9, 9), (9, 9), 0x100)  # AT_SYMLINK_NOFOLLOW
    assert times("l") == (9 * seconds + 9,) * 2 and times("f")[1] == 9 * seconds + 1
    os.mkdir("d")
    os.mkfifo("p")
    for path in ("d", "p"):
        set_times(path, (-5, 1), (-6, 2))
        assert times(path) == (-5 * seconds + 1, -6 * seconds + 2), path


@check
def times_follow_the_rules():
    def changes(path, function, mtime, ctime):
        before = os.lstat(path)
        tick()
        function()
        after = os.lstat(path)
        assert (after.st_mtime_ns > before.st_mtime_ns) == mtime, "mtime"
        assert (after.st_ctime_ns > before.st_ctime_ns) == ctime, "ctime"

    def open_close(flags):
        os.close(os.open("f", flags))

    write("f", b"x")
    changes("f", lambda: os.chmod("f", 0o600), False, True)
    changes("f", lambda: os.chown("f", os.geteuid(), os.getegid()), False, True)
    changes("f", lambda: os.setxattr("f", "user.a", b"1"), False, True)
    changes("f", lambda: read("f"), False, False)
    changes("f", lambda: open_close(os.O_WRONLY | os.O_APPEND), False, False)
    changes("f", lambda: write("f", b"y"), True, True)
    changes("f", lambda: os.truncate("f", 1), True, True)
    for _ in range(2):
        changes("f", lambda: open_close(os.O_WRONLY | os.O_TRUNC), True, True)
    fd = os.open("f", os.O_RDWR)
    changes("f", lambda: os.pwrite(fd, b"", 5), False, False)
    os.close(fd)
    os.mkdir("d")
    changes("d", lambda: write("d/a"), True, True)
    changes("d", lambda: write("d/a", b"more"), False, False)
    changes("d", lambda: os.rename("d/a", "d/b"), True, True)
    changes("d", lambda: os.rename("d/b", "c"), True, True)
    changes("d", lambda: os.rename("c", "d/c"), True, True)
    changes("d", lambda: os.unlink("d/c"), True, True)
    changes("d", lambda: os.mkdir("d/s"), True, True)
    changes("d", lambda: os.chmod("d", 0o700), False, True)
    changes("d", lambda: fails(errno.EEXIST, os.mkdir, "d/s"), False, False)
    changes("d", lambda: fails(errno.ENOENT, os.rmdir, "d/none"), False, False)
    changes("d", lambda: os.rename("d/s", "d/s"), False, False)
    changes(".", lambda: os.rename("d", "e"), True, True)
    for path, to in (("f", "g"), ("e", "h")):
        before = os.lstat(path)
        tick()
        os.rename(path, to)
        after = os.lstat(to)
        assert after.st_ctime_ns > before.st_ctime_ns and after.st_mtime_ns == before.st_mtime_ns, to
    with open("g") as file:
        before = os.fstat(file.fileno())
        tick()
        os.unlink("g")
        after = os.fstat(file.fileno())
        assert after.st_ctime_ns > before.st_ctime_ns and after.st_nlink == 0


@check
def sticky_directories():
    os.mkdir("d")
    os.chmod("d", 0o1777)

    def theirs():
        create("d/a")
        os.mkdir("d/dir")

    def mine():
        fails(errno.EPERM, os.unlink, "d/a")
        fails(errno.EPERM, os.rmdir, "d/dir")
        fails(errno.EPERM, os.rename, "d/a", "d/b")
        create("d/mine")
        fails(errno.EPERM, os.rename, "d/mine", "d/a")
        os.unlink("d/mine")

    as_user(1001, theirs)
    as_user(1002, mine)
    as_user(1001, lambda: (os.unlink("d/a"), os.rmdir("d/dir")))


@check
def directories_hand_their_group_down():
    os.mkdir("d")
    if os.geteuid() != 0:
        raise NeedsRoot
    os.chown("d", 0, 5555)
    os.chmod("d", 0o2777)

    def make():
        os.umask(0)
        create("d/f")
        os.mkdir("d/sub")
        os.mkfifo("d/p")
        os.symlink("x", "d/l")
        # Who is not in the group gets no file that runs as it.
        create("d/program", 0o2775)

    as_user(1001, make)
    for name in ("f", "sub", "p", "l", "program"):
        assert os.lstat(f"d/{name}").st_gid == 5555, name
    assert bits("d/sub") == 0o2777 and bits("d/program") == 0o775


@check
def privileges_of_a_file_end_when_it_changes():
    def fresh(mode):
        if os.path.exists("f"):
            os.unlink("f")
        write("f", b"xx")
        os.chown("f", 1001, 1001)
        os.chmod("f", mode)

    def overwrite():
        fd = os.open("f", os.O_WRONLY)
        os.write(fd, b"y")
        os.close(fd)

    if os.geteuid() != 0:
        raise NeedsRoot
    changes = {
        "write": lambda: as_user(1002, overwrite),
        "truncate": lambda: as_user(1002, lambda: os.truncate("f", 1)),
        "truncate to the same size": lambda: as_user(1002, lambda: os.truncate("f", 2)),
        "O_TRUNC": lambda: as_user(1002, lambda: os.close(os.open("f", os.O_WRONLY | os.O_TRUNC))),
        "chown": lambda: as_user(1001, lambda: os.chown("f", -1, 1001)),
        "chown by root": lambda: os.chown("f", 0, 0),
        "chown that changes nothing": lambda: as_user(1001, lambda: os.chown("f", -1, -1)),
    }
    for what, change in changes.items():
        fresh(0o6777)
        change()
        assert bits("f") == 0o777, f"{what}: {bits('f'):o}"
    fresh(0o6777)
    overwrite()
    assert bits("f") == 0o6777, "root keeps them"
    # Without execution by the group the bit is no privilege.
    fresh(0o2767)
    os.chown("f", 0, 0)
    assert bits("f") == 0o2767
    os.mkdir("d")
    os.chmod("d", 0o6777)
    os.chown("d", 1002, 1002)
    assert bits("d") == 0o6777, "a directory's are of another kind"
    write("g")
    os.chown("g", 1001, 4444)
    as_user(1001, lambda: os.chmod("g", 0o2755))
    assert bits("g") == 0o755, "who is not in the group sets no set-group-id"
    as_user(1001, lambda: os.chmod("g", 0o2755), groups=(4444,))
    assert bits("g") == 0o2755


@check
def supplementary_groups_count():
    write("f")
    os.mkdir("d")
    if os.geteuid() != 0:
        raise NeedsRoot
    for path in ("f", "d"):
        os.chown(path, 0, 7777)
        os.chmod(path, 0o2770)
    as_user(1001, lambda: (write("f", b"x"), create("d/x")), groups=(7777,))
    as_user(1002, lambda: fails(errno.EACCES, os.open, "f", os.O_RDONLY))
    write("g")
    os.chown("g", 1001, 1001)
    as_user(1001, lambda: os.chown("g", -1, 7777), groups=(7777,))
    assert os.stat("g").st_gid == 7777
    as_user(1001, lambda: fails(errno.EPERM, os.chown, "g", -1, 8888), groups=(7777,))


@check
def permissions_are_asked_when_opened():
    fd = os.open("f", os.O_CREAT | os.O_RDWR, 0o400)
    os.write(fd, b"written although the mode forbids it")
    os.close(fd)
    assert bits("f") == 0o400
    os.chmod("f", 0o644)
    os.chmod(".", 0o755)
    os.mkdir("w")
    os.chmod("w", 0o777)
    os.mkdir("x")
    write("x/f", b"x")
    os.chmod("x", 0o711)

    def user():
        fd = os.open("w/f", os.O_CREAT | os.O_RDWR, 0)
        os.write(fd, b"abc")
        os.close(fd)
        fails(errno.EACCES, os.open, "w/f", os.O_RDONLY)
        read("x/f")
        fails(errno.EACCES, os.listdir, "x")
        fails(errno.EACCES, os.mkdir, "u")
        fails(errno.EPERM, os.chmod, "f", 0o777)
        fails(errno.EPERM, os.chown, "f", 1001, 1001)
        fails(errno.EPERM, os.utime, "f", (1, 1))
        fails(errno.EACCES, os.utime, "f")
        fails(errno.EACCES, os.truncate, "f", 0)
        fails(errno.EPERM, os.mknod, "w/device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        fails(errno.EACCES, os.setxattr, "f", "user.a", b"1")
        fails(errno.EPERM, os.setxattr, "w/f", "trusted.a", b"1")

    as_user(1001, user)


@check
def trusted_attributes_are_for_root():
    write("f")
    if os.geteuid() != 0:
        raise NeedsRoot
    for name in ("user.a", "trusted.b", "security.c"):
        os.setxattr("f", name, b"1")
    assert sorted(os.listxattr("f")) == ["security.c", "trusted.b", "user.a"]

    def user():
        assert sorted(os.listxattr("f")) == ["security.c", "user.a"]
        fails(errno.ENODATA, os.getxattr, "f", "trusted.b")

    as_user(1001, user)
    os.symlink("f", "l")
    os.mkfifo("p")
    for path in ("l", "p"):
        fails(errno.EPERM, os.setxattr, path, "user.a", b"1", follow_symlinks=False)
        os.setxattr(path, "trusted.a", b"1", follow_symlinks=False)
        assert os.listxattr(path, follow_symlinks=False) == ["trusted.a"]


@check
def direct_and_synchronous_files():
    aligned = mmap.mmap(-1, 8192)
    aligned[:] = b"a" * 8192
    fd = os.open("f", os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o644)
    assert os.writev(fd, [aligned]) == 8192
    back = mmap.mmap(-1, 8192)
    os.lseek(fd, 0, os.SEEK_SET)
    assert os.readv(fd, [back]) == 8192 and back[:] == aligned[:]
    os.close(fd)
    for flags, text in ((os.O_SYNC, b"sync"), (os.O_DSYNC | os.O_APPEND, b"end")):
        fd = os.open("f", os.O_RDWR | flags)
        os.write(fd, text)
        os.close(fd)
    content = read("f")
    assert content[:5] == b"synca" and content[-4:] == b"aend" and len(content) == 8195


@check
def sizes_are_set_beyond_the_end():
    fd = os.open("f", os.O_RDWR | os.O_CREAT, 0o644)
    os.ftruncate(fd, 5000)
    assert os.pread(fd, 9999, 0) == bytes(5000)
    os.pwrite(fd, b"x", 10**7)
    os.ftruncate(fd, 4999)
    os.ftruncate(fd, 20000)
    assert os.pread(fd, 30000, 0) == bytes(20000)
    mapped = mmap.mmap(fd, 20000)
    mapped[19999] = 7
    mapped.close()
    assert os.pread(fd, 9, 19999) == b"\x07"
    for size in (2**62, 2**63 - 1):
        fails(errno.EFBIG, os.ftruncate, fd, size)
    fails(errno.EFBIG, os.pwrite, fd, b"x", 2**62)
    assert os.fstat(fd).st_size == 20000
    os.close(fd)


@check
def programs_are_executed():
    shutil.copy("/bin/true", "true")
    assert subprocess.call(["./true"]) == 0
    with open("script", "w") as file:
        file.write("#!/bin/sh\nexit 7\n")
    os.chmod("script", 0o755)
    assert subprocess.call(["./script"]) == 7
    os.chmod("script", 0o644)
    fails(errno.EACCES, subprocess.call, ["./script"])
    shutil.copy("/bin/cat", "cat")
    running = subprocess.Popen(["./cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_RDONLY | os.O_TRUNC):
            fails(errno.ETXTBSY, os.open, "cat", flags)
        fails(errno.ETXTBSY, os.truncate, "cat", 0)
        assert os.stat("cat").st_size == os.stat("/bin/cat").st_size
        os.unlink("cat")
    finally:
        running.communicate(b"line")
    assert running.returncode == 0


@check
def sockets_pipes_and_devices():
    server, client = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    server.bind("socket")
    server.listen(1)
    assert stat.S_ISSOCK(os.lstat("socket").st_mode)
    fails(errno.EADDRINUSE, socket.socket(socket.AF_UNIX).bind, "socket")
    os.rename("socket", "moved")
    client.connect("moved")
    accepted, _ = server.accept()
    client.send(b"through")
    assert accepted.recv(99) == b"through"
    os.unlink("moved")
    os.mkfifo("pipe")
    writer = threading.Thread(target=write, args=("pipe", b"through"))
    writer.start()
    assert read("pipe") == b"through"
    writer.join()
    if os.geteuid() == 0:
        for name, kind, device in (("char", stat.S_IFCHR, (1, 3)), ("block", stat.S_IFBLK, (259, 70000))):
            os.mknod(name, kind | 0o640, os.makedev(*device))
            info = os.stat(name)
            assert info.st_rdev == os.makedev(*device) and stat.S_IFMT(info.st_mode) == kind


@check
def locks_hold_within_a_mount():
    write("f")
    first, second = os.open("f", os.O_RDWR), os.open("f", os.O_RDWR)
    exclusive = fcntl.LOCK_EX | fcntl.LOCK_NB
    fcntl.flock(first, fcntl.LOCK_EX)
    fails(errno.EAGAIN, fcntl.flock, second, exclusive)
    fcntl.flock(first, fcntl.LOCK_UN)
    fcntl.flock(second, exclusive)
    fcntl.lockf(first, fcntl.LOCK_EX, 10, 0)

    def other():
        fd = os.open("f", os.O_RDWR)
        fails(errno.EAGAIN, fcntl.lockf, fd, exclusive, 5, 5)
        fcntl.lockf(fd, exclusive, 5, 10)

    in_child(other)
    set_ofd_lock = 37
    range_lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 100, 10, 0)
    fcntl.fcntl(first, set_ofd_lock, range_lock)
    fails(errno.EAGAIN, fcntl.fcntl, second, set_ofd_lock, range_lock)
    os.close(first)
    fcntl.fcntl(second, set_ofd_lock, range_lock)
    os.close(second)
    # The lock of a process ends with it, and who waits gets it.
    (told, tell), (ending, end) = os.pipe(), os.pipe()
    holder = os.fork()
    if holder == 0:
        os.close(end)
        fcntl.flock(os.open("f", os.O_RDWR), fcntl.LOCK_EX)
        os.write(tell, b".")
        os.read(ending, 1)
        os._exit(0)
    os.read(told, 1)
    fd = os.open("f", os.O_RDWR)
    fails(errno.EAGAIN, fcntl.flock, fd, exclusive)
    waiter = threading.Thread(target=fcntl.flock, args=(fd, fcntl.LOCK_EX))
    waiter.start()
    os.close(end)
    waiter.join()
    assert os.waitpid(holder, 0)[1] == 0
    os.close(fd)


@check
def a_removed_directory_takes_nothing():
    os.makedirs("d/a")
    fd = os.open("d/a", os.O_RDONLY)
    os.rmdir("d/a")
    assert os.fstat(fd).st_nlink == 0 and os.listdir(fd) == []
    fails(errno.ENOENT, os.open, "x", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
    fails(errno.ENOENT, os.mkdir, "x", dir_fd=fd)
    os.close(fd)


@check
def errors_are_those_of_a_local_disk():
    write("f")
    os.makedirs("d/sub")
    os.symlink("loop", "loop")
    long = "x" * 256
    for code, function, *args in (
        (errno.ENOTDIR, os.stat, "f/x"),
        (errno.ENOTDIR, os.mkdir, "f/x"),
        (errno.ELOOP, os.stat, "loop"),
        (errno.ELOOP, os.open, "loop", os.O_RDONLY | os.O_NOFOLLOW),
        (errno.ENOTDIR, os.open, "f", os.O_RDONLY | os.O_DIRECTORY),
        (errno.EISDIR, os.open, "d", os.O_WRONLY),
        (errno.EISDIR, os.open, "d", os.O_CREAT | os.O_RDONLY),
        (errno.EISDIR, os.open, "new/", os.O_CREAT | os.O_WRONLY),
        (errno.ENOTEMPTY, os.rmdir, "d"),
        (errno.EINVAL, os.rmdir, "d/."),
        (errno.ENOTEMPTY, os.rmdir, "d/sub/.."),
        (errno.ENOTDIR, os.rmdir, "f"),
        (errno.EISDIR, os.unlink, "d"),
        (errno.EINVAL, os.rename, "d", "d/sub/x"),
        (errno.EISDIR, os.rename, "f", "d"),
        (errno.ENOTDIR, os.rename, "d", "f"),
        (errno.ENOTEMPTY, os.rename, "d/sub", "d"),
        (errno.EBUSY, os.rename, "d/.", "e"),
        (errno.ENOENT, os.rename, "none", "f"),
        (errno.ENAMETOOLONG, os.mkdir, long),
        (errno.ENAMETOOLONG, os.stat, long),
        (errno.ENAMETOOLONG, os.stat, "x/" * 3000),
        (errno.ENAMETOOLONG, os.rename, "f", long),
        (errno.ENAMETOOLONG, os.symlink, "a" * 4096, "l"),
        (errno.ENOENT, os.symlink, "", "l"),
        (errno.EEXIST, os.mkdir, "d/"),
        (errno.EEXIST, os.mkdir, "."),
        (errno.EEXIST, os.symlink, "x", "f"),
        (errno.EINVAL, os.readlink, "f"),
        (errno.EISDIR, os.truncate, "d", 0),
        (errno.ENOENT, os.truncate, "none", 0),
        (errno.EXDEV, os.rename, "/proc/version", "v"),
        (errno.EXDEV, os.link, "/proc/version", "v"),
    ):
        fails(code, function, *args)
    os.rename("f", "f")
    fd = os.open("f", os.O_RDONLY)
    fails(errno.EBADF, os.write, fd, b"x")
    fails(errno.EINVAL, os.ftruncate, fd, 0)
    fails(errno.EINVAL, os.lseek, fd, -1, os.SEEK_SET)
    os.fsync(fd)
    os.close(fd)
    fd = os.open("d", os.O_RDONLY)
    fails(errno.EISDIR, os.read, fd, 9)
    os.fsync(fd)
    os.close(fd)


@check
def bytes_go_from_file_to_file_in_the_kernel():
    content = os.urandom(300_000)
    write("from", content)
    source = os.open("from", os.O_RDONLY)
    for name, move in (
        ("sendfile", lambda to, at: os.sendfile(to, source, at, len(content) - at)),
        ("copy_file_range", lambda to, at: os.copy_file_range(source, to, len(content) - at, at, at)),
    ):
        to, at = os.open(name, os.O_CREAT | os.O_RDWR, 0o644), 0
        while at < len(content):
            at += move(to, at)
        os.close(to)
        assert read(name) == content, name
    out, into = os.pipe()
    moved = os.splice(source, into, 4096, offset_src=100)
    to = os.open("splice", os.O_CREAT | os.O_RDWR, 0o644)
    assert os.splice(out, to, moved) == moved
    os.close(to)
    assert read("splice") == content[100 : 100 + moved]
    os.close(source)


@check
def files_without_a_name_are_whole():
    opened = []
    for index in range(200):
        fd = os.open("f", os.O_CREAT | os.O_RDWR | os.O_EXCL, 0o600)
        os.write(fd, b"%d" % index * 1000)
        os.unlink("f")
        opened.append(fd)
    for index, fd in enumerate(opened):
        assert os.pread(fd, 9999, 0) == b"%d" % index * 1000
        os.close(fd)
    fd = os.open("f", os.O_CREAT | os.O_RDWR, 0o600)
    os.write(fd, b"content")
    os.unlink("f")
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
    os.fchmod(fd, 0o640)
    os.utime(fd, (1, 1))
    os.setxattr(fd, "user.a", b"x")
    os.ftruncate(fd, 4)
    info = os.fstat(again)
    assert stat.S_IMODE(info.st_mode) == 0o640 and info.st_nlink == 0 and info.st_size == 4
    assert os.getxattr(again, "user.a") == b"x" and os.pread(again, 9, 0) == b"cont"
    os.close(fd)
    os.close(again)


@check
def many_threads_at_once():
    failed = []

    def work(who):
        try:
            for index in range(60):
                name = f"{who}-{index}"
                write(name, name.encode() * 50)
                assert read(name) == name.encode() * 50
                os.rename(name, name + "r")
                if index % 2:
                    os.unlink(name + "r")
        except BaseException:
            failed.append(traceback.format_exc())

    threads = [threading.Thread(target=work, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed[0]
    assert len(os.listdir(".")) == 8 * 30


def main():
    root, wanted = os.path.abspath(sys.argv[1]), sys.argv[2:]
    os.umask(0o022)
    for function in checks:
        if wanted and function.__name__ not in wanted:
            continue
        at = os.path.join(root, f"check-{function.__name__}")
        os.mkdir(at, 0o755)
        os.chdir(at)
        began = time.time()
        print(function.__name__, end=" ", flush=True)
        try:
            function()
            print(f"{time.time() - began:.1f} s", flush=True)
        except NeedsRoot:
            print("skipped, because it takes root", flush=True)
    os.chdir("/")


main()
