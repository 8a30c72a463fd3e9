"""A long run: an archive of many millions of events through Redis into MariaDB, without an index, with
one that the load defers, and with one in place; an archive of a million files; then services that take
files at a steady rate."""

import os
import shutil
import subprocess
import sys
import threading
import time

import servers
from cases import ADD_INDEX, INDEXED_POOL_BYTES, STORED, Bench, percentile
from inputs import HEAD, Inputs
from measure import cpu_seconds, measured, memory_kb, per_event

EVENTS_A_FILE = 25_000
# Disk of an event with an index, in bytes: table and index, the index once more while it is built,
# redo log, and the compressed archive.
DISK_BYTES_AN_EVENT = 450
# The ways to load the archive, each with its options of `load`.
WAYS = {"without an index": (), "index deferred": ("--defer-indexes",), "index in place": ()}
# The rate of the whole is compared with that of the first events.
FIRST_EVENTS = 10_000_000
PARTS = 10
SERVICE_RECORDS = 1_000
# Longest time from the last file of a service to its place in history, in seconds.
LAST_FILE_SECONDS = 120


def fitting(events, folder):
    """At most so many events that a third of the free disk stays free."""
    free = shutil.disk_usage(folder).free
    return min(events, int(free * 2 / 3 / DISK_BYTES_AN_EVENT) // EVENTS_A_FILE * EVENTS_A_FILE)


def long_run(programs, folder, events, files, rates, seconds, only=None):
    """`rates`: pairs of events/s and the part of `seconds` that a service takes them. `only`: these of
    `archive`, `files` and `services`."""
    asks_for = lambda part: only is None or part in only
    wanted, events = events, fitting(events, folder)
    if events == 0:
        sys.exit(f"scripts/bench: no space for a long run in {folder}")
    if events < wanted:
        print(f"space for {events:,} of {wanted:,} events", file=sys.stderr)
    started = []
    try:
        for server in (servers.Redis, servers.Mariadb):
            started.append(server(folder))
        redis, mariadb = started
        inputs = Inputs(programs[0], os.path.join(folder, "inputs"))
        bench = Bench(programs, inputs, None, folder, redis, mariadb)
        found = {}
        if asks_for("archive"):
            source = inputs.files(
                events // EVENTS_A_FILE, EVENTS_A_FILE, vehicles=5_000, compress="zstd", prefix="long"
            )
            found["archive_mb"] = sum(entry.stat().st_size for entry in os.scandir(source)) / 1e6
            for name, options in WAYS.items():
                found[name] = archive(bench, source, events, name.startswith("index"), options)
                report(name, found[name])
            shutil.rmtree(source)
        if asks_for("files"):
            found["files"] = small_files(bench, files)
            report(f"{files:,} files", found["files"])
            mariadb.clear()
        if asks_for("services"):
            found["services"] = []
            for rate, part in rates:
                found["services"].append(service(bench, rate, max(1, round(seconds * part))))
                report(f"{rate:,} events/s", found["services"][-1])
        return found
    finally:
        for server in reversed(started):
            server.stop()


def report(name, result):
    print(f"long: {name}: {result}", file=sys.stderr, flush=True)


class Progress(threading.Thread):
    """Reads every second how many records are stored, and what Redis and MariaDB hold."""

    def __init__(self, bench):
        super().__init__(daemon=True)
        self.bench, self.seen, self.over = bench, [], threading.Event()
        self.peaks = {"redis_mb": 0.0, "mariadb_mb": 0.0, "disk_mb": 0.0}
        self.began = time.monotonic()
        self.start()

    def run(self):
        while not self.over.wait(1):
            self.look()

    def look(self):
        stored = int(self.bench.mariadb.sql(STORED, "vehicles"))
        self.seen.append((time.monotonic() - self.began, stored))
        for server in (self.bench.redis, self.bench.mariadb):
            resident = memory_kb(server.pid, "VmRSS") * 1024 / 1e6
            self.peaks[f"{server.name}_mb"] = max(self.peaks[f"{server.name}_mb"], resident)
        self.peaks["disk_mb"] = max(self.peaks["disk_mb"], self.bench.mariadb.disk_bytes() / 1e6)

    def end(self):
        self.over.set()
        self.join()
        self.look()

    def at(self, records):
        """The second at which so many records were stored, between the two readings around it."""
        before = (0.0, 0)
        for seen in self.seen:
            if seen[1] >= records:
                part = (records - before[1]) / max(1, seen[1] - before[1])
                return before[0] + part * (seen[0] - before[0])
            before = seen
        return before[0]


def archive(bench, source, events, indexed, options):
    """Loads an archive, then compares all rows with it. An index is larger than the buffer pool."""
    data = bench.data()
    mariadb = bench.mariadb
    pool = mariadb.sql("SELECT @@innodb_buffer_pool_size").strip()
    if indexed:
        mariadb.resize_pool(INDEXED_POOL_BYTES)
    mariadb.clear()
    bench.redis.clear()
    environment = bench.environment(mariadb.url, bench.redis.url)
    flags = ["--data-dir", data]
    subprocess.run(
        [bench.task_runner, "migrate", *flags], env={**os.environ, **environment}, check=True, capture_output=True
    )
    if indexed:
        mariadb.sql(ADD_INDEX, "vehicles")
    progress = Progress(bench)
    command = [bench.task_runner, "load", source, "--no-progress", *options, *flags]
    result = per_event(measured(command, [bench.redis, mariadb], environment), events)
    progress.end()
    if (stored := mariadb.rows()) != events:
        sys.exit(f"scripts/bench: {stored} rows of {events}")
    if indexed and "by_vehicle" not in mariadb.sql("SHOW CREATE TABLE vehicle_events", "vehicles"):
        sys.exit("scripts/bench: the index is missing")
    ends = [progress.at(events * (part + 1) // PARTS) for part in range(PARTS)]
    result["rates"] = [events / PARTS / max(1e-9, end - begin) for begin, end in zip([0.0, *ends], ends)]
    first = min(FIRST_EVENTS, events)
    # Until the last record is stored: the summary and the build of an index follow.
    result["stored_seconds"] = progress.at(events)
    result["rate_to_first"] = (events / progress.at(events)) / (first / progress.at(first))
    result |= progress.peaks
    result["engine_mb"] = result.pop("memory_mb")["own"]
    result["summary_rows"] = mariadb.rows("daily_summary")
    if not indexed:
        command = [bench.task_runner, "verify", "--content", *flags]
        result["verify_seconds"] = measured(command, [mariadb], environment)["seconds"]
    mariadb.resize_pool(int(pool))
    shutil.rmtree(data)
    return result


def small_files(bench, files):
    """Loads an archive of files with one event each, and loads it again."""
    source = bench.inputs.files(files, 1, prefix="small")
    data = bench.data()
    bench.mariadb.clear()
    bench.redis.clear()
    environment = bench.environment(bench.mariadb.url, bench.redis.url)
    command = [bench.task_runner, "load", source, "--no-progress", "--data-dir", data]
    # A file that was written less than two seconds before its load is not remembered.
    time.sleep(2.1)
    runs = [measured(command, [bench.redis, bench.mariadb], environment) for _ in range(2)]
    if (stored := bench.mariadb.rows()) != files:
        sys.exit(f"scripts/bench: {stored} rows of {files}")
    shutil.rmtree(data)
    shutil.rmtree(source)
    found = {"files": files}
    for name, run in zip(("first", "again"), runs):
        found[name] = {"rate": files / run["seconds"], "engine_mb": run["memory_mb"]["own"]}
    return found


def service(bench, rate, seconds):
    """Delivers files of 1,000 events at this rate. Times from the rename into inbound to history."""
    data = bench.data()
    mariadb = bench.mariadb
    mariadb.clear()
    bench.redis.clear()
    folder = bench.inputs.files(1, SERVICE_RECORDS, prefix="service")
    with open(os.path.join(folder, os.listdir(folder)[0]), "rb") as file:
        events = file.read().removeprefix(HEAD)
    environment = {**os.environ, **bench.environment(mariadb.url, bench.redis.url)}
    flags = ["--data-dir", data]
    subprocess.run([bench.task_runner, "migrate", *flags], env=environment, check=True, capture_output=True)
    inbound, history = os.path.join(data, "inbound"), os.path.join(data, "history")
    os.makedirs(history, exist_ok=True)
    with open(os.path.join(data, "log"), "wb") as log:
        running = subprocess.Popen(
            [bench.task_runner, "run", *flags], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    files = max(1, rate * seconds // SERVICE_RECORDS)
    every = SERVICE_RECORDS / rate
    delivered, times, number, memory_mb = {}, [], 0, 0.0
    began = last = time.monotonic()
    try:
        while len(times) < files:
            now = time.monotonic()
            while number < files and now >= began + number * every:
                name = f"vehicle_events_{number}.json"
                hidden = os.path.join(inbound, "." + name)
                with open(hidden, "wb") as file:
                    # The number makes the contents differ: equal files would be duplicates.
                    file.write(b'{"number": %d, ' % number + HEAD.removeprefix(b"{") + events)
                delivered[name] = last = time.monotonic()
                os.rename(hidden, os.path.join(inbound, name))
                number += 1
            for entry in os.scandir(history):
                if (at := delivered.pop(entry.name, None)) is not None:
                    times.append((time.monotonic() - at) * 1e3)
                    os.remove(entry.path)
            memory_mb = max(memory_mb, memory_kb(running.pid, "RssAnon") * 1024 / 1e6)
            if running.poll() is not None or now - last > LAST_FILE_SECONDS:
                with open(os.path.join(data, "log"), errors="replace") as log:
                    sys.exit(f"scripts/bench: {len(times)} of {files} files in history:\n{log.read()[-3000:]}")
            time.sleep(0.002)
        took = time.monotonic() - began
        cpu = cpu_seconds(running.pid)
    finally:
        running.terminate()
        running.wait()
    if (stored := mariadb.rows()) != files * SERVICE_RECORDS:
        sys.exit(f"scripts/bench: {stored} rows of {files * SERVICE_RECORDS}")
    shutil.rmtree(data)
    return {
        "asked_rate": rate,
        "files": files,
        "rate": files * SERVICE_RECORDS / took,
        "seconds": took,
        "history_ms": {f"p{part:g}": percentile(times, part) for part in (50, 99, 99.9)},
        "engine_mb": memory_mb,
        "cpu_us": cpu * 1e6 / (files * SERVICE_RECORDS),
    }
