"""The goals, one row each, computed from the results of a run."""

import re

from hotspots import OBSERVED


# Runs of their own. Their results are below these names.
RUNS = ("baseline", "long", "profile", "scaling")


class Goal:
    """`only`: the cases, or a run of its own. `value` takes the results and returns a number. Raises KeyError
    if its cases did not run."""

    def __init__(self, what, only, limit, value, shape="{:.2f}", at_most=False):
        self.what, self.only, self.limit = what, only, limit
        self.value, self.shape, self.at_most = value, shape, at_most

    @property
    def command(self):
        return f"scripts/bench --{self.only}" if self.only in RUNS else f"scripts/bench --only {self.only}"

    def wanted(self):
        return ("at most " if self.at_most else "") + self.shape.format(self.limit)

    def reached(self, value):
        return value <= self.limit if self.at_most else value >= self.limit


def rate(results, name):
    return results[name]["rate"]


def best(results, prefix):
    """The best rate of the results whose names begin so. Raises KeyError if there are none."""
    rates = [result["rate"] for name, result in results.items() if name.startswith(prefix)]
    if not rates:
        raise KeyError(prefix)
    return max(rates)


def ratio(name, *others):
    return lambda results: rate(results, name) / max(best(results, other) for other in others)


def cpu(results, name, *processes):
    return sum(results[name]["cpu_us"].get(process, 0.0) for process in processes)


def stage(results, name, key):
    return results["parse"]["stages"][name][key]


def codec(name):
    """The rate of a compressed file, divided by that of its codec alone."""
    def value(results):
        rates = results["codecs"]["codecs"][name]
        return rates["file"] / rates["alone"]

    return value


def all_cores(results):
    several = [name for name in results["parse"]["stages"] if re.fullmatch(r"parse\+frame, (?!1$)\d+", name)]
    return stage(results, several[0], "rate") / stage(results, "parse+frame, 1", "rate")


def growth(results):
    """The time of ten times the events, divided by the time of the events: the largest of all pairs."""
    times = growth_times(results)
    pairs = [later / earlier for size, earlier in times.items() for more, later in times.items() if more == 10 * size]
    if not pairs:
        raise KeyError("growth")
    return max(pairs)


def growth_times(results):
    return {
        int(name.removeprefix("growth: ")): result["seconds"]
        for name, result in results.items()
        if name.startswith("growth: ")
    }


def own_memory(results):
    # The Python pipeline is not a part of the engine.
    found = [
        result["memory_mb"]["own"]
        for name, result in results.items()
        if "memory_mb" in result and not name.startswith("peer")
    ]
    if "huge" not in results:
        raise KeyError("huge")
    return max(found)


def cost(with_it, without):
    return lambda results: 100 * (rate(results, without) / rate(results, with_it) - 1)


def observing(results):
    """The share of metrics, status and HTTP in the processor time of an event, in percent."""
    found = results["profile"]
    return 100 * found["parts"][OBSERVED][0] / found["all_us"]


def limited(results):
    return results["baseline"]["limited"]["rate"] / results["baseline"]["unlimited"]["rate"]


def of_long(*path):
    """A figure of the long run."""
    def value(results):
        found = results["long"]
        for name in path:
            found = found[name]
        return found

    return value


def in_scaling(group, name, other):
    """The rate of a run of this group, whose name begins so, divided by that of another one."""
    def value(results):
        rates = {run["name"]: run["rate"] for run in results["scaling"]["runs"] if run["group"].startswith(group)}
        return rates[name] / rates[other]

    return value


BARE, INFILE = "large: bare", "large: LOAD DATA INFILE"

GOALS = [
    Goal("one large file through Redis into MariaDB / bare client, same keys", "large", 0.85, ratio("large: redis", BARE)),
    Goal("1,000 × 1,000 through Redis into MariaDB / bare client, same keys", "large,files", 0.85, ratio("files: redis", BARE)),
    Goal("the same / LOAD DATA INFILE of a ready TSV, AUTO_INCREMENT", "large,files", 1.15, ratio("files: redis", INFILE)),
    Goal("the same / tuned Python pipeline through Redis", "files,peer", 2.8, ratio("files: redis", "peer: python")),
    Goal(
        "… client CPU / that of the Python pipeline", "files,peer", 0.25,
        lambda r: cpu(r, "files: redis", "own") / cpu(r, "peer: python", "own"), at_most=True,
    ),
    Goal(
        "index larger than the buffer pool: --defer-indexes / index in place", "indexed", 2.0,
        ratio("indexed, mariadb: deferred", "indexed, mariadb: in place"),
    ),
    Goal(
        "… / load, then the index by hand", "indexed", 0.95,
        ratio("indexed, mariadb: deferred", "indexed, mariadb: by hand"),
    ),
    Goal(
        "… / LOAD DATA INFILE of the same rows, index in place", "indexed", 1.8,
        ratio("indexed, mariadb: deferred", "indexed, mariadb: LOAD DATA INFILE"),
    ),
    Goal(
        "index within the buffer pool: --defer-indexes=auto / index in place", "indexed", 1,
        ratio("indexed, few events: auto", "indexed, few events: in place"),
    ),
    Goal("archive of 20,000 stored files again: files/s", "again", 100_000, lambda r: rate(r, "again: recognised"), "{:,.0f}"),
    Goal(
        "archive of 20 stored files of 100 MB again / with --rehash", "again", 20,
        ratio("again, files of 100 MB: recognised", "again, files of 100 MB: --rehash"), "{:.0f}",
    ),
    Goal(
        "service with a backlog of 10,000 files: s from SIGTERM to its end", "stop", 2,
        lambda r: r["stop: backlog"]["seconds"], "{:.1f}", at_most=True,
    ),
    Goal("through Redis / in-process queue", "large", 0.97, ratio("large: redis", "large: memory")),
    Goal(
        "MySQL 9, LOAD DATA LOCAL on / bare LOAD DATA LOCAL", "mysql9", 0.85,
        ratio("mysql9, LOAD DATA on: redis", "mysql9, LOAD DATA on: bare"),
    ),
    Goal(
        "MySQL 9, LOAD DATA LOCAL off / bare prepared INSERT", "mysql9", 0.85,
        ratio("mysql9, LOAD DATA off: redis", "mysql9, LOAD DATA off: bare"),
    ),
    Goal("20,000 × 50 through Redis / one large file", "large,small", 0.75, ratio("small: redis", "large: redis")),
    Goal("without a database, through Redis: events/s", "discard", 1_200_000, lambda r: rate(r, "discard: redis"), "{:,.0f}"),
    Goal(
        "… CPU µs an event, Redis included", "discard", 1.3,
        lambda r: cpu(r, "discard: redis", "own", "redis"), at_most=True,
    ),
    Goal("cut, one core: GB/s", "parse", 4, lambda r: stage(r, "cut, 1", "bytes_rate") / 1e9, "{:.1f}"),
    Goal(
        "parse + frame, one core / bare simd-json to_tape", "parse", 0.80,
        lambda r: stage(r, "parse+frame, 1", "rate") / stage(r, "to_tape, 1", "rate"),
    ),
    Goal("parse + frame, all cores / one", "parse", 1.8, all_cores),
    Goal("a user's dataset / the built-in one, same columns", "datasets", 0.95, ratio("datasets: a user's", "datasets: built-in")),
    Goal("numbers in strings / numbers", "datasets", 0.75, ratio("datasets: strings", "datasets: numbers")),
    Goal("records below elements, with a value of these / flat", "datasets", 0.75, ratio("datasets: elements", "datasets: numbers")),
    Goal("bzip2: file to inflated bytes / the codec alone", "codecs", 0.80, codec("bzip2")),
    Goal("xz: file to inflated bytes / the codec alone", "codecs", 0.80, codec("xz")),
    Goal("gzip / plain, the same events", "packed", 0.95, ratio("packed, gzip: redis", "packed, none: redis")),
    Goal("zstd / plain, the same events", "packed", 1.0, ratio("packed, zstd: redis", "packed, none: redis")),
    Goal("embedded (in-process queue, SQLite) / bare rusqlite", "sqlite", 0.6, ratio("sqlite: embedded", "sqlite: bare")),
    Goal(
        "Redis memory: bytes an event in flight", "redis", 100,
        lambda r: r["redis: bare"]["redis_bytes_per_event"], "{:.0f}", at_most=True,
    ),
    Goal("engine's own memory in all cases, a 10 GB file included: MB", "huge,growth,files", 200, own_memory, "{:.0f}", at_most=True),
    Goal("5,000,000 events within 2 GB / without a limit", "baseline", 0.85, limited),
    Goal(
        "… processes that the kernel killed", "baseline", 0,
        lambda r: r["baseline"]["limited"]["oom_kills"], "{:.0f}", at_most=True,
    ),
    Goal(
        "verify --content / load of the same rows", "content", 0.5,
        lambda r: r["content: verify"]["rate_to_load"], "{:.1f}",
    ),
    Goal(
        "verify --content, a million rows: MB", "content", 100,
        lambda r: r["content: verify"]["memory_mb"]["own"], "{:.0f}", at_most=True,
    ),
    Goal(
        "30 million events: the whole / the first 10 million", "long", 0.95,
        of_long("without an index", "rate_to_first"),
    ),
    Goal(
        "30 million events: --defer-indexes / index in place", "long", 4,
        lambda r: r["long"]["index deferred"]["rate"] / r["long"]["index in place"]["rate"],
    ),
    Goal(
        "archive of a million files: the engine's memory, MB", "long", 100,
        of_long("files", "first", "engine_mb"), "{:.0f}", at_most=True,
    ),
    Goal(
        "two ingest and two work processes / one process, same cores", "scaling", 0.95,
        in_scaling("ingest + work processes", "2 + 2", "one"),
    ),
    Goal(
        "300,000 small files, two ingest processes / one, same cores", "scaling", 1,
        in_scaling("ingest processes", "2", "1"),
    ),
    Goal("10 × the events: times the time", "growth", 10.5, growth, "{:.1f}", at_most=True),
    Goal(
        "service, file of 1,000 events: p99 ms to committed", "latency", 100,
        lambda r: r["latency"]["committed_ms"]["p99"], "{:.0f}", at_most=True,
    ),
    Goal("… p99 ms to history", "latency", 250, lambda r: r["latency"]["history_ms"]["p99"], "{:.0f}", at_most=True),
    Goal("metrics and status page, asked every second: % of the CPU time of an event", "profile", 1, observing, at_most=True),
    Goal("daily summary of 2,000 vehicles: % of the time", "summary", 5, cost("summary: with", "summary: without"), "{:.0f}", at_most=True),
    Goal("daily summary of 20,000 vehicles: % of the time", "hard", 20, cost("hard: redis", "hard: without summary"), "{:.0f}", at_most=True),
]
