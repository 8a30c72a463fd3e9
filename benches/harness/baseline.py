"""A load on the smallest machine: engine, Redis and MariaDB in one memory cgroup of 2 GB, on a file
system of 10 GB."""

import os
import shutil
import subprocess
import sys

import measure
import servers
from cases import Bench
from inputs import Inputs

MEMORY_BYTES = 2_000_000_000
DISK_BYTES = 10_000_000_000


class Cgroup:
    """A memory cgroup of either version."""

    def __init__(self):
        name = f"lemonade-bench-{os.getpid()}"
        v2 = "/sys/fs/cgroup"
        with_memory = ""
        if os.path.exists(f"{v2}/cgroup.controllers"):
            with open(f"{v2}/cgroup.controllers") as file:
                with_memory = file.read()
        if "memory" in with_memory.split():
            self.version, self.folder = 2, f"{v2}/{name}"
            with open(f"{v2}/cgroup.subtree_control", "w") as file:
                file.write("+memory")
            limits = {"memory.max": MEMORY_BYTES, "memory.swap.max": 0}
        elif os.path.isdir("/sys/fs/cgroup/memory"):
            self.version, self.folder = 1, f"/sys/fs/cgroup/memory/{name}"
            limits = {"memory.limit_in_bytes": MEMORY_BYTES, "memory.swappiness": 0}
        else:
            sys.exit("scripts/bench: no memory cgroup here, of neither version")
        try:
            os.mkdir(self.folder)
            for file, value in limits.items():
                self.write(file, value)
        except OSError as error:
            sys.exit(f"scripts/bench: --baseline makes a cgroup, which takes root: {error}")

    def write(self, name, value):
        with open(os.path.join(self.folder, name), "w") as file:
            file.write(str(value))

    def read(self, name):
        with open(os.path.join(self.folder, name)) as file:
            return file.read()

    def enter(self):
        """Moves the calling process into the cgroup; for a child between fork and exec."""
        self.write("cgroup.procs", os.getpid())

    def oom_kills(self):
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        return sum(int(line.split()[1]) for line in self.read(name).splitlines() if line.startswith("oom_kill "))

    def peak_mb(self):
        """The peak of memory in bytes, with page cache: near the limit once files were read."""
        name = "memory.peak" if self.version == 2 else "memory.max_usage_in_bytes"
        try:
            return int(self.read(name)) / 1e6
        except FileNotFoundError:  # memory.peak came with Linux 5.19
            return None

    def remove(self):
        os.rmdir(self.folder)


class Disk:
    """A file system of 10 GB in an image. If it cannot be mounted: a folder whose size is measured."""

    def __init__(self, folder):
        self.folder, self.image = os.path.join(folder, "disk"), os.path.join(folder, "disk.img")
        os.makedirs(self.folder)
        with open(self.image, "wb") as file:
            file.truncate(DISK_BYTES)
        self.mounted = False
        for command in (["mkfs.ext4", "-q", "-m", "0", self.image], ["mount", "-o", "loop", self.image, self.folder]):
            try:
                done = subprocess.run(command, capture_output=True, text=True)
            except FileNotFoundError as error:
                done = subprocess.CompletedProcess(command, 1, "", str(error))
            if done.returncode != 0:
                why = done.stderr.strip()
                print(f"no separate file system ({why}): disk is measured, not limited", file=sys.stderr)
                os.remove(self.image)
                return
        self.mounted = True

    def used_mb(self):
        if self.mounted:
            stat = os.statvfs(self.folder)
            return (stat.f_blocks - stat.f_bfree) * stat.f_frsize / 1e6
        return folder_mb(self.folder)

    def remove(self):
        if self.mounted:
            servers.run(["umount", self.folder])
            os.remove(self.image)


def forget(folder):
    """Drops files from the page cache: the process that reads them next is charged for the pages."""
    for entry in os.scandir(folder):
        file = os.open(entry.path, os.O_RDONLY)
        os.fsync(file)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def folder_mb(folder):
    """The disk space of the files of a folder, in bytes."""
    blocks = (
        os.lstat(os.path.join(path, name)).st_blocks for path, _, names in os.walk(folder) for name in names
    )
    return sum(blocks) * 512 / 1e6


def baseline(programs, sizes, folder):
    """The same load twice on the same file system: without a limit, then within 2 GB."""
    disk = Disk(folder)
    results = {}
    try:
        for name in ("unlimited", "limited"):
            results[name] = one(programs, sizes, os.path.join(disk.folder, name), disk, name == "limited")
            shutil.rmtree(os.path.join(disk.folder, name))
    finally:
        disk.remove()
    return {
        "memory_limit_mb": MEMORY_BYTES / 1e6,
        "disk_limit_mb": DISK_BYTES / 1e6 if disk.mounted else None,
        "mariadb": servers.Mariadb.SIZES,
        **results,
    }


def one(programs, sizes, folder, disk, limited):
    cgroup = Cgroup() if limited else None
    confine = cgroup.enter if limited else None
    started = []
    try:
        inputs = Inputs(programs[0], os.path.join(folder, "inputs"))
        source = inputs.large(sizes.large, repeat=sizes.baseline_repeat)
        forget(source)
        before_mb = disk.used_mb()
        redis = servers.Redis(folder, confine)
        started.append(redis)
        mariadb = servers.Mariadb(folder, confine)
        started.append(mariadb)
        bench = Bench(programs, inputs, sizes, folder, redis, mariadb)
        bench.confine = confine
        result = bench.load(source, sizes.large * sizes.baseline_repeat, mariadb, redis.url)
        result["peak_mb"] = {server.name: measure.memory_kb(server.pid, "VmHWM") * 1024 / 1e6 for server in started}
        result["disk_parts_mb"] = {server.name: folder_mb(server.folder) for server in started}
        result["disk_parts_mb"]["input"] = folder_mb(source)
        result["disk_used_mb"] = disk.used_mb()
        result["disk_before_mb"] = before_mb
        if cgroup:
            result["cgroup_version"] = cgroup.version
            result["cgroup_peak_mb"] = cgroup.peak_mb()
            result["oom_kills"] = cgroup.oom_kills()
        return result
    finally:
        for server in reversed(started):
            server.stop()
        if cgroup:
            cgroup.remove()
