"""The cases: which programs run, and the checks that each run has to pass."""

import os
import shutil
import subprocess
import sys
import time

from measure import cpu_seconds, json_lines, measured, per_event

# `vehicle_events` without its summary: a definition of a built-in name replaces the built-in one.
NO_SUMMARY = """
[[datasets]]
name = "vehicle_events"
""" + "".join(
    f'\n[[datasets.columns]]\nname = "{name}"\ntype = "{kind}"\n{more}'
    for name, kind, more in (
        ("vehicle_id", "text", ""),
        ("event_time", "timestamp", ""),
        ("event_source", "text", ""),
        ("event_type", "text", ""),
        ("event_value", "text", ""),
        ("event_extra_data", "json", 'required = false\ndefault = "{}"\n'),
    )
)

# The columns of the built-in dataset, as a user would define them, for the same files.
EVENTS_OF_A_USER = NO_SUMMARY.replace(
    'name = "vehicle_events"\n', 'name = "events"\nfiles = "vehicle_events_large*"\nrecords = "/vehicle_events"\n', 1
)


def readings(name, records, site):
    """A dataset with a column of each usual type. `site`: where the last column takes its value from."""
    columns = (
        ("sensor", "text", ""), ("at", "timestamp", 'epoch = "ms"'), ("count", "integer", ""), ("value", "float", ""),
        ("price", "decimal(12,4)", ""), ("ok", "boolean", ""), ("site", "text", site),
    )  # fmt: skip
    return f'\n[[datasets]]\nname = "{name}"\ntable = "readings"\nrecords = "{records}"\n' + "".join(
        f'\n[[datasets.columns]]\nname = "{name}"\ntype = "{kind}"\n{more}\n' for name, kind, more in columns
    )


READINGS = {
    "numbers": readings("numbers", "/readings", ""),
    "strings": readings("strings", "/readings", ""),
    "elements": readings("elements", "/sites/*/readings", 'envelope = "/sites/*/name"'),
}

# The number of stored records, of settled and of pending files.
STORED = (
    "SELECT (SELECT COALESCE(SUM(records), 0) FROM ingest_frames) + "
    "(SELECT COALESCE(SUM(records), 0) FROM ingest_files WHERE state = 'settled')"
)


ADD_INDEX = "ALTER TABLE vehicle_events ADD INDEX by_vehicle (vehicle_id, event_time)"
# The index of ten million events has more bytes.
INDEXED_POOL_BYTES = 256 << 20
# That of a million events has fewer.
FEW_POOL_BYTES = 512 << 20


# Rows of a statement: the number at which a row costs the server least. A transaction has as many
# rows as one of the engine.
STATEMENT_ROWS = {"insert": 500, "bulk": 2_000, "local": 1_000, "infile": 1_000}
# For MySQL, a placeholder costs more in a statement with more placeholders.
MYSQL_INSERT_ROWS = 128
TRANSACTION_ROWS = 4_000


class Sizes:
    def __init__(self, short):
        self.large = 2_000 if short else 1_000_000
        self.files = (4, 500) if short else (1_000, 1_000)
        self.small = (40, 50) if short else (20_000, 50)
        self.packed = (4, 500) if short else (40, 25_000)
        # xz and bzip2 compress a few MB a second.
        self.codecs = 500 if short else 200_000
        self.hard_vehicles = 500 if short else 20_000
        # Events of the table with an index, files and events of a file, and files of an archive.
        self.indexed = (4, 500) if short else (200, 50_000)
        # Files and events of a file, and the same of small files.
        self.indexed_few = (4, 100) if short else (20, 50_000)
        self.scaling = (20, 100, (60, 10)) if short else (2_000, 1_000, (300_000, 10))
        self.stored = (40, 10) if short else (20_000, 10)
        self.stored_large = (2, 2_000) if short else (20, 400_000)
        self.backlog = (2_000, 100) if short else (10_000, 100)
        # Events of the large file, and the number of repetitions.
        self.growth = [(400, 1), (2_000, 1), (2_000, 2)] if short else [
            (100_000, 1), (1_000_000, 1), (1_000_000, 5), (1_000_000, 10),
        ]  # fmt: skip
        self.huge_repeat = 4 if short else 40
        self.latency_files = (10, 100) if short else (200, 1_000)
        self.baseline_repeat = 2 if short else 5


def long_sizes(arguments):
    """Events of the archive of a long run; files of its archive of small files; rates of its services with
    the part of the seconds that each runs; seconds."""
    if arguments.short:
        return arguments.events or 50_000, 100, [(2_000, 1)], arguments.seconds or 2
    # An hour and three minutes.
    return arguments.events or 30_000_000, 1_000_000, [(10_000, 1), (100_000, 1 / 20)], arguments.seconds or 3600


class Bench:
    """Everything that a case needs."""

    def __init__(self, programs, inputs, sizes, folder, redis, mariadb, mysql9=None):
        self.task_runner, self.ceiling, self.peer = programs
        self.inputs, self.sizes, self.folder = inputs, sizes, folder
        self.redis, self.mariadb, self.mysql9 = redis, mariadb, mysql9
        self.confine = None
        self.no_summary = self.config("no-summary", NO_SUMMARY)

    def environment(self, database_url, queue_url):
        """The environment of the engine, without the settings of the calling shell."""
        ours = ("DATABASE_URL", "REDIS_URL", "DB_", "REDIS_", "LEMONADE_", "SRC_PATH", "HISTORY_PATH")
        for name in [name for name in os.environ if name.startswith(ours) and name != "LEMONADE_MYSQL9_HOME"]:
            del os.environ[name]
        return {"DATABASE_URL": database_url, "REDIS_URL": queue_url, "LEMONADE_HTTP_ADDR": "off"}

    def data(self, name="data"):
        folder = os.path.join(self.folder, name)
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(os.path.join(folder, "inbound"), mode=0o700)
        return folder

    def config(self, name, text):
        """A file of settings with this text."""
        path = os.path.join(self.folder, f"{name}.toml")
        with open(path, "w") as file:
            file.write(text)
        return path

    def load(self, source, events, database=None, queue=None, config=None, verify=False, table="vehicle_events"):
        """Copies the files of a folder to inbound and loads them."""
        data = self.data()
        inbound = os.path.join(data, "inbound")
        names = os.listdir(source)
        for name in names:
            os.link(os.path.join(source, name), os.path.join(inbound, name))
        if database:
            database.clear()
        self.redis.clear()
        url = database.url if database else f"sqlite:{data}/rows.db"
        environment = self.environment(url, queue or "memory:")
        flags = ["--data-dir", data, *(["--config", config] if config else [])]
        subprocess.run(
            [self.task_runner, "migrate", *flags], env={**os.environ, **environment}, check=True, capture_output=True
        )
        servers = [*([self.redis] if queue else []), *([database] if database else [])]
        command = [self.task_runner, "load", "--no-progress", *flags]
        result = per_event(measured(command, servers, environment, self.confine), events)
        done = subprocess.run(
            [self.task_runner, "status", "--json", *flags], env={**os.environ, **environment}, capture_output=True
        )
        in_history = sum(len(names) for _, _, names in os.walk(os.path.join(data, "history")))
        if database:
            stored = database.rows(table)
            if (stored, in_history) != (events, len(names)):
                sys.exit(f"scripts/bench: {stored} rows of {events}, {in_history} files in history: {done.stdout}")
            result["disk_mb"] = database.disk_bytes() / 1e6
        if verify:
            command = [self.task_runner, "verify", "--content", *flags]
            loaded = result["rate"]
            result = per_event(measured(command, servers, environment, self.confine), events)
            result["rate_to_load"] = result["rate"] / loaded
        shutil.rmtree(data)
        return result

    def indexed(self, database, way, source, events, pool_bytes):
        """Loads a folder into a table with an index, with a buffer pool of this size. `way`: the index is in
        place, deferred by the load, or made by hand after the load; or the load decides (auto); or the server
        reads the same rows from a file of its own, with the index in place."""
        kept = database.sql("SELECT @@innodb_buffer_pool_size").strip()
        data = self.data()
        database.clear()
        database.resize_pool(pool_bytes)
        environment = self.environment(database.url, "memory:")
        flags = ["--data-dir", data]
        subprocess.run(
            [self.task_runner, "migrate", *flags], env={**os.environ, **environment}, check=True, capture_output=True
        )
        more = {"in place": [], "deferred": ["--defer-indexes=always"], "auto": ["--defer-indexes=auto"]}.get(way)
        if more is not None:
            database.sql(ADD_INDEX, "vehicles")
        command = [self.task_runner, "load", source, "--no-progress", *(more or []), *flags]
        result = measured(command, [database], environment, self.confine)
        if way == "by hand":
            before, began = cpu_seconds(database.pid), time.monotonic()
            database.sql(ADD_INDEX, "vehicles")
            result["seconds"] += time.monotonic() - began
            result["cpu"][database.name] += cpu_seconds(database.pid) - before
        elif way == "LOAD DATA INFILE":
            result = self.infile(database)
        if (stored := database.rows()) != events:
            sys.exit(f"scripts/bench: {stored} rows of {events}")
        if "by_vehicle" not in database.sql("SHOW CREATE TABLE vehicle_events", "vehicles"):
            sys.exit("scripts/bench: the index is missing")
        database.resize_pool(int(kept))
        shutil.rmtree(data)
        return per_event(result, events)

    def infile(self, database):
        """Writes the rows of the table to a file, and reads them back into the empty table with an index."""
        path = os.path.join(self.folder, "rows.tsv")
        database.sql(f"SELECT * FROM vehicle_events INTO OUTFILE '{path}'", "vehicles")
        database.sql("TRUNCATE TABLE vehicle_events", "vehicles")
        database.sql(ADD_INDEX, "vehicles")
        before, began = cpu_seconds(database.pid), time.monotonic()
        database.sql(f"LOAD DATA INFILE '{path}' INTO TABLE vehicle_events", "vehicles")
        seconds, cpu = time.monotonic() - began, cpu_seconds(database.pid) - before
        os.remove(path)
        return {"seconds": seconds, "cpu": {"own": 0.0, database.name: cpu}}

    def load_again(self, source, files, more=()):
        """Loads a stored archive again. An event of the result is a file."""
        data = self.data()
        self.mariadb.clear()
        environment = self.environment(self.mariadb.url, "memory:")
        command = [self.task_runner, "load", source, "--no-progress", "--data-dir", data]
        # A file that was written less than two seconds before its load is not remembered.
        time.sleep(2.1)
        measured(command, [self.mariadb], environment)
        result = measured([*command, *more], [self.mariadb], environment, self.confine)
        shutil.rmtree(data)
        return per_event(result, files)

    def bare_mysql(self, database, way, connections, events, per_file=1_000, vehicles=2_000, table="engine"):
        """Runs a client that only sends rows, which were made beforehand."""
        database.clear()
        # At least a few transactions for each connection.
        best = MYSQL_INSERT_ROWS if (database.name, way) == ("mysql9", "insert") else STATEMENT_ROWS[way]
        rows = min(best, events // 8)
        command = [
            self.ceiling, "mysql", "--url", database.url, "--server-pid", str(database.pid), "--ways", way,
            "--connections", str(connections), "--events", str(events), "--per-file", str(per_file),
            "--vehicles", str(vehicles), "--tables", table, "--folder", self.folder,
            "--rows", str(rows), "--statements", str(max(1, min(TRANSACTION_ROWS, events // 4) // rows)),
        ]  # fmt: skip
        return cpu_named(json_lines(command)[0], database.name)

    def bare(self, part, *arguments):
        return json_lines([self.ceiling, part, *arguments])

    def peer_load(self, source, events):
        self.mariadb.clear()
        self.redis.clear()
        command = [*self.peer, source, "--redis", self.redis.address]
        command += ["--database", f"127.0.0.1:{self.mariadb.port}/vehicles"]
        result = per_event(measured(command, [self.redis, self.mariadb]), events)
        stored = self.mariadb.rows()
        if stored != events:
            sys.exit(f"scripts/bench: the Python pipeline stored {stored} rows of {events}")
        return result

    def stop(self):
        """Time from SIGTERM to the end of a service that has many files left in inbound."""
        files, records = self.sizes.backlog
        source = self.inputs.files(files, records, prefix="backlog")
        data = self.data()
        inbound, work, history = (os.path.join(data, name) for name in ("inbound", "work", "history"))
        for name in os.listdir(source):
            os.link(os.path.join(source, name), os.path.join(inbound, name))
        self.mariadb.clear()
        self.redis.clear()
        environment = {**os.environ, **self.environment(self.mariadb.url, self.redis.url)}
        flags = ["--data-dir", data]
        subprocess.run([self.task_runner, "migrate", *flags], env=environment, check=True, capture_output=True)
        with open(os.path.join(data, "log"), "wb") as log:
            service = subprocess.Popen(
                [self.task_runner, "run", *flags], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            began = time.monotonic()
            while not has_files(history):
                if service.poll() is not None or time.monotonic() - began > 60:
                    sys.exit("scripts/bench: the service did not take its files")
                time.sleep(0.01)
        finally:
            asked = time.monotonic()
            service.terminate()
            service.wait()
        seconds = time.monotonic() - asked
        left = sum(len(names) for folder in (inbound, work) for _, _, names in os.walk(folder))
        if left == 0:
            sys.exit("scripts/bench: the service had no backlog when it was stopped")
        shutil.rmtree(data)
        return {"seconds": seconds, "left": left}

    def latency(self):
        """Times from the rename of a file into inbound to its last commit, and to its move to history."""
        files, records = self.sizes.latency_files
        source = self.inputs.files(files, records, prefix="latency")
        data = self.data()
        database = self.mariadb
        database.clear()
        self.redis.clear()
        environment = {**os.environ, **self.environment(database.url, self.redis.url)}
        flags = ["--data-dir", data]
        subprocess.run([self.task_runner, "migrate", *flags], env=environment, check=True, capture_output=True)
        with open(os.path.join(data, "log"), "wb") as log:
            service = subprocess.Popen(
                [self.task_runner, "run", *flags], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        asking = subprocess.Popen(
            [*database.client("vehicles"), "--unbuffered"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

        def stored():
            asking.stdin.write(STORED + ";\n")
            asking.stdin.flush()
            return int(asking.stdout.readline())

        committed, moved = [], []
        try:
            for number, name in enumerate(sorted(os.listdir(source))):
                before = os.path.join(data, "inbound", "." + name)
                history = os.path.join(data, "history", name)
                os.link(os.path.join(source, name), before)
                # Waits until the service is idle, so that the next file is not delayed by this one.
                time.sleep(0.02)
                began = time.monotonic()
                os.rename(before, before.replace("/." + name, "/" + name))
                in_table = in_history = None
                while in_table is None or in_history is None:
                    now = time.monotonic()
                    if in_table is None and stored() >= (number + 1) * records:
                        in_table = time.monotonic() - began
                    if in_history is None and os.path.exists(history):
                        in_history = time.monotonic() - began
                    if now - began > 30 or service.poll() is not None:
                        with open(os.path.join(data, "log"), errors="replace") as log:
                            sys.exit(f"scripts/bench: {name} did not pass the service:\n{log.read()[-3000:]}")
                    time.sleep(max(0.0, 0.001 - (time.monotonic() - now)))
                # The first file does not count: it opens connections and prepares statements.
                if number > 0:
                    committed.append(in_table * 1e3)
                    moved.append(in_history * 1e3)
        finally:
            asking.kill()
            asking.wait()
            service.terminate()
            service.wait()
        shutil.rmtree(data)
        return {
            "files": len(committed),
            "committed_ms": {"p50": percentile(committed, 50), "p99": percentile(committed, 99)},
            "history_ms": {"p50": percentile(moved, 50), "p99": percentile(moved, 99)},
        }


def has_files(folder):
    """Whether a file that is not hidden is below a folder. Each process has a folder in work."""
    return any(not name.startswith(".") for _, _, names in os.walk(folder) for name in names)


def percentile(values, part):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * part / 100))]


def cpu_named(line, server):
    """A line of the bare clients, with the keys of `measured`."""
    line["cpu_us"] = {"own": line.pop("client_us"), server: line.pop("server_us", 0.0)}
    return line


class Job:
    """A measurement that runs once a round, or once in all. Its name is the key of its result."""

    def __init__(self, case, name, run, once=False):
        self.case, self.name, self.run, self.once = case, name, run, once


def jobs(bench):
    """All jobs. Those that are compared with each other are close together."""
    sizes, inputs = bench.sizes, bench.inputs
    redis, mariadb, mysql9 = bench.redis, bench.mariadb, bench.mysql9
    found = []

    def job(case, name, call, once=False):
        found.append(Job(case, name, call, once))

    def ceiling(case, database, way, connections, events, name=None, **more):
        name = name or f"{case}: bare {way}, {connections}"
        job(case, name, lambda: bench.bare_mysql(database, way, connections, events, **more))

    count = sizes.large
    large = lambda: inputs.large(count)
    # Bare clients with one connection come first. A server that has just started, or has just done
    # other work, is slower for a while, and these clients are never the fastest. So neither the
    # engine nor the best bare client is slowed.
    bare = [(connections, way) for connections in (1, 2, 3) for way in ("insert", "bulk")]
    for connections, way in bare[:2]:
        ceiling("large", mariadb, way, connections, count)
    job("large", "large: redis", lambda: bench.load(large(), count, mariadb, redis.url))
    job("large", "large: memory", lambda: bench.load(large(), count, mariadb))
    for connections, way in bare[2:]:
        ceiling("large", mariadb, way, connections, count)
    for connections in (1, 2):
        name = f"large: LOAD DATA INFILE, {connections}"
        ceiling("large", mariadb, "infile", connections, count, name, table="auto")

    indexed_files, indexed_records = sizes.indexed
    to_index = lambda: inputs.files(indexed_files, indexed_records, vehicles=5_000)
    for database in [mariadb, *([mysql9] if mysql9 else [])]:
        for way in ("in place", "deferred", "by hand", "LOAD DATA INFILE"):
            job(
                "indexed", f"indexed, {database.name}: {way}",
                lambda database=database, way=way: bench.indexed(
                    database, way, to_index(), indexed_files * indexed_records, INDEXED_POOL_BYTES
                ),
                once=True,
            )  # fmt: skip
    few_files, few_records = sizes.indexed_few
    few = lambda: inputs.files(few_files, few_records, vehicles=5_000)
    for way in ("in place", "auto"):
        job(
            "indexed", f"indexed, few events: {way}",
            lambda way=way: bench.indexed(mariadb, way, few(), few_files * few_records, FEW_POOL_BYTES),
        )  # fmt: skip

    stored_files, stored_records = sizes.stored
    archive = lambda: inputs.files(stored_files, stored_records, prefix="archive")
    job("again", "again: recognised", lambda: bench.load_again(archive(), stored_files))
    job("again", "again: --rehash", lambda: bench.load_again(archive(), stored_files, ["--rehash"]))

    large_files, large_records = sizes.stored_large
    of_large = lambda: inputs.files(large_files, large_records, prefix="archive")
    job("again", "again, files of 100 MB: recognised", lambda: bench.load_again(of_large(), large_files), once=True)
    job("again", "again, files of 100 MB: --rehash", lambda: bench.load_again(of_large(), large_files, ["--rehash"]), once=True)
    job("stop", "stop: backlog", bench.stop)

    job("content", "content: verify", lambda: bench.load(large(), count, mariadb, verify=True))

    def of_dataset(name, config, source, table):
        job("datasets", f"datasets: {name}", lambda: bench.load(source(), count, mariadb, redis.url, config, table=table))

    of_dataset("built-in", bench.no_summary, large, "vehicle_events")
    of_dataset("a user's", bench.config("events", EVENTS_OF_A_USER), large, "events")
    for name, text in READINGS.items():
        source = lambda name=name: inputs.readings(count, name)
        of_dataset(name, bench.config(name, text), source, "readings")

    files, records = sizes.files
    many = lambda **more: inputs.files(files, records, **more)
    total = files * records
    job("files", "files: redis", lambda: bench.load(many(), total, mariadb, redis.url))
    job("peer", "peer: python", lambda: bench.peer_load(many(), total))
    job("files", "files: memory", lambda: bench.load(many(), total, mariadb))
    job("summary", "summary: without", lambda: bench.load(many(), total, mariadb, redis.url, bench.no_summary))
    job("summary", "summary: with", lambda: bench.load(many(), total, mariadb, redis.url))

    small_files, small_records = sizes.small
    small = lambda: inputs.files(small_files, small_records)
    job("small", "small: redis", lambda: bench.load(small(), small_files * small_records, mariadb, redis.url))
    job("small", "small: memory", lambda: bench.load(small(), small_files * small_records, mariadb))

    packed_files, packed_records = sizes.packed
    job("ndjson", "ndjson: redis", lambda: bench.load(inputs.large(count, "ndjson"), count, mariadb, redis.url))
    for compress in ("none", "gzip", "zstd"):
        packed = lambda compress=compress: inputs.files(packed_files, packed_records, compress=compress)
        run_it = lambda packed=packed: bench.load(packed(), packed_files * packed_records, mariadb, redis.url)
        job("packed", f"packed, {compress}: redis", run_it)

    vehicles = sizes.hard_vehicles
    hard = lambda: many(vehicles=vehicles)
    job("hard", "hard: redis", lambda: bench.load(hard(), total, mariadb, redis.url))
    job("hard", "hard: without summary", lambda: bench.load(hard(), total, mariadb, redis.url, bench.no_summary))
    for connections in (2, 3):
        ceiling("hard", mariadb, "bulk", connections, total, vehicles=vehicles)

    if mysql9:
        def with_load_data(on, call):
            def switched():
                mysql9.load_data(on)
                return call()
            return switched

        for on, way, numbers in ((True, "local", (1, 2, 3)), (False, "insert", (1, 2, 3))):
            word = "on" if on else "off"
            call = with_load_data(on, lambda: bench.load(large(), count, mysql9, redis.url))
            job("mysql9", f"mysql9, LOAD DATA {word}: redis", call)
            for connections in numbers:
                bare = lambda way=way, n=connections: bench.bare_mysql(mysql9, way, n, count)
                job("mysql9", f"mysql9, LOAD DATA {word}: bare {way}, {connections}", with_load_data(True, bare))

    def bare_sqlite():
        path = os.path.join(bench.folder, "bare.db")
        for old in (path, path + "-wal", path + "-shm"):
            if os.path.exists(old):
                os.remove(old)
        return cpu_named(bench.bare("sqlite", "--path", path, "--events", str(count))[0], "sqlite")

    job("sqlite", "sqlite: embedded", lambda: bench.load(many(), total))
    job("sqlite", "sqlite: bare", bare_sqlite)

    for queue in ("redis", "memory"):
        def discard(queue=queue):
            redis.clear()
            broker = redis.url if queue == "redis" else "memory:"
            pid = ["--server-pid", str(redis.pid)] if queue == "redis" else []
            return cpu_named(bench.bare("discard", "--files", many(), "--broker", broker, *pid)[0], "redis")

        job("discard", f"discard: {queue}", discard)

    def through_redis():
        redis.clear()
        lines = bench.bare("redis", "--addr", redis.address, "--server-pid", str(redis.pid), "--events", str(count))
        return cpu_named(lines[1], "redis")

    job("redis", "redis: bare", through_redis)
    job("parse", "parse", lambda: stages(bench.bare("parse", "--events", str(count), "--rounds", "3")))
    codec_events = str(sizes.codecs)
    job("codecs", "codecs", lambda: codecs(bench.bare("inflate", "--events", codec_events, "--rounds", "3")))
    job("latency", "latency", bench.latency, once=True)

    for events, repeat in sizes.growth:
        def grow(events=events, repeat=repeat):
            folder = inputs.large(events, repeat=repeat)
            result = bench.load(folder, events * repeat, mariadb, redis.url)
            if repeat > 1:
                shutil.rmtree(folder)
            return result

        job("growth", f"growth: {events * repeat}", grow, once=True)

    def huge():
        folder = inputs.large(count, repeat=sizes.huge_repeat)
        redis.clear()
        command = [bench.ceiling, "discard", "--files", folder, "--broker", redis.url]
        result = per_event(measured(command, [redis]), count * sizes.huge_repeat)
        result["file_mb"] = sum(entry.stat().st_size for entry in os.scandir(folder)) / 1e6
        shutil.rmtree(folder)
        return result

    job("huge", "huge", huge, once=True)
    return found


def codecs(lines):
    """The best rate of each codec in bytes/s, alone and as a file of the engine."""
    best = {}
    for line in lines:
        rates = best.setdefault(line["codec"], {})
        rates[line["way"]] = max(rates.get(line["way"], 0), line["bytes_rate"])
    return {"codecs": best}


def stages(lines):
    """The best time of each stage: disturbances only make a run slower."""
    best = {}
    for line in lines:
        name = f"{line['stage']}, {line['cores']}"
        if name not in best or line["seconds"] < best[name]["seconds"]:
            best[name] = line
    return {
        "rate": best["parse+frame, 1"]["rate"],
        "stages": {name: {"rate": line["rate"], "bytes_rate": line["bytes_rate"]} for name, line in best.items()},
    }
