"""How the rate grows with worker tasks, processes, shards of the queue and database servers, and a model
that is fitted to these runs: each kind of process has a cost for an event, and all share the cores."""

import math
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from functools import partial

import servers
from cases import STORED, Bench
from inputs import Inputs
from measure import cpu_seconds, measured, per_event
from servers import free_port

# Longest time of a run, in seconds.
RUN_SECONDS = 300
# Processes of one run: ingest, work. In the first, one process has both roles.
PROCESSES = ((0, 0), (1, 1), (2, 1), (1, 2), (2, 2), (3, 3))
WORKERS = (1, 2, 3, 4)
SHARDS = (1, 3)
DATABASES = (1, 2, 3)
SMALL_INGEST = (1, 2)
# Cores of a host, as many as were measured, and the rates to plan for, in the table of hosts.
HOST_CORES = 2
# The clock of processor time shows less than a tick as zero, in a short run.
COST_MIN_US = 0.01
WANTED_RATES = (100_000, 250_000, 500_000, 1_000_000)
TASKS_GROUP, PROCESSES_GROUP = "worker tasks", "ingest + work processes"
SMALL_GROUP = "ingest processes, {:,} files of {}"
KINDS = ("ingest", "redis", "work", "mariadb")


def scaling(programs, folder, files, records, small, rounds):
    """`small`: how many small files, and events of each. `rounds`: how often each run is made; the one with
    the median rate counts."""
    started = []
    try:
        redis = servers.Redis(folder)
        started.append(redis)
        databases = []
        for number in range(max(DATABASES)):
            databases.append(servers.Mariadb(os.path.join(folder, f"database-{number}")))
            started.append(databases[-1])
        inputs = Inputs(programs[0], os.path.join(folder, "inputs"))
        bench = Bench(programs, inputs, None, folder, redis, databases[0])
        source = inputs.files(files, records)
        total = files * records
        small_source = inputs.files(*small, prefix="small")
        small_group, small_total = SMALL_GROUP.format(*small), math.prod(small)
        runs = [
            *((TASKS_GROUP, str(count), partial(one_load, bench, source, total, count)) for count in WORKERS),
            *((PROCESSES_GROUP, f"{ingest} + {work}" if ingest else "one", partial(roles, bench, source, total, ingest, work)) for ingest, work in PROCESSES),
            *((small_group, str(count), partial(roles, bench, small_source, small_total, count, 1)) for count in SMALL_INGEST),
            *(("shards of the queue", str(count), partial(roles, bench, source, total, 1, 1, count)) for count in SHARDS),
            *(("database servers", str(count), partial(spread, bench, databases[:count], source, total)) for count in DATABASES),
        ]  # fmt: skip
        taken = {(group, name): [] for group, name, _ in runs}
        for _ in range(rounds):
            for group, name, run in runs:
                result = run()
                taken[group, name].append(result)
                print(f"scaling: {group} {name}: {result['rate']:,.0f} events/s", file=sys.stderr, flush=True)
        found = []
        for (group, name), results in taken.items():
            middle = sorted(results, key=lambda result: result["rate"])[(len(results) - 1) // 2]
            found.append({"group": group, "name": name, **middle})
        of_model = [run for run in found if run["group"] != small_group]
        return {"runs": found, "cores": os.cpu_count(), **model(of_model, os.cpu_count())}
    finally:
        for server in reversed(started):
            server.stop()


def one_load(bench, source, events, workers):
    """One process with all roles."""
    data = filled(bench, source)
    bench.mariadb.clear()
    bench.redis.clear()
    environment = {**bench.environment(bench.mariadb.url, bench.redis.url), "LEMONADE_WORKERS": str(workers)}
    command = [bench.task_runner, "load", "--no-progress", "--data-dir", data]
    result = per_event(measured(command, [bench.redis, bench.mariadb], environment), events)
    check(bench.mariadb, events)
    shutil.rmtree(data)
    return {"rate": result["rate"], "cpu_us": result["cpu_us"]}


def roles(bench, source, events, ingest, work, shards=1):
    """Processes of the service that share inbound, queue and database: so many of each role, or one with all
    roles. Each file is read once."""
    data = filled(bench, source)
    bench.mariadb.clear()
    bench.redis.clear()
    common = {**os.environ, **bench.environment(bench.mariadb.url, bench.redis.url)}
    common["LEMONADE_QUEUE_SHARDS"] = str(shards)
    flags = ["--data-dir", data]
    subprocess.run([bench.task_runner, "migrate", *flags], env=common, check=True, capture_output=True)
    names = [("work", number) for number in range(work)] + [("ingest", number) for number in range(ingest)]
    names = names or [("ingest,work", 0)]
    processes, pages = [], []
    before = {server.name: cpu_seconds(server.pid) for server in (bench.redis, bench.mariadb)}
    began = time.monotonic()
    with open(os.path.join(data, "log"), "wb") as log:
        try:
            for role, number in names:
                # Only ingest processes share directories.
                place = data if role != "work" else os.path.join(data, f"work-{number}")
                command = [bench.task_runner, "run", "--role", role, "--data-dir", place]
                environment = {**common, "LEMONADE_NODE": f"{role}-{number}".replace(",", "-")}
                if role != "work":
                    environment["LEMONADE_HTTP_ADDR"] = f"127.0.0.1:{free_port()}"
                    pages.append(f"http://{environment['LEMONADE_HTTP_ADDR']}/metrics")
                process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
                processes.append((role, process))
            wait(bench.mariadb, events, data, [process for _, process in processes])
            seconds = time.monotonic() - began
            cpu = dict.fromkeys((role for role, _ in names), 0.0)
            for role, process in processes:
                cpu[role] += cpu_seconds(process.pid)
            cpu |= {server.name: cpu_seconds(server.pid) - before[server.name] for server in (bench.redis, bench.mariadb)}
            check_read(source, pages)
        finally:
            for _, process in processes:
                process.terminate()
            for _, process in processes:
                process.wait()
    check(bench.mariadb, events)
    shutil.rmtree(data)
    return {"rate": events / seconds, "cpu_us": {name: spent * 1e6 / events for name, spent in cpu.items()}}


def check_read(source, pages):
    """Each byte of the files was read once, by all processes together."""
    there = sum(entry.stat().st_size for entry in os.scandir(source))
    read = 0
    for page in pages:
        text = urllib.request.urlopen(page, timeout=10).read().decode()
        read += sum(float(value) for value in re.findall(r"^lemonade_read_bytes_total(?:\{.*\})? (\S+)$", text, re.MULTILINE))
    if read != there:
        sys.exit(f"scripts/bench: the files have {there:,} bytes, and {read:,.0f} were read")


def wait(database, events, data, processes):
    """Until all records are stored, and no process has ended."""
    deadline = time.monotonic() + RUN_SECONDS
    while int(database.sql(STORED, "vehicles")) < events:
        if time.monotonic() > deadline or any(process.poll() is not None for process in processes):
            with open(os.path.join(data, "log"), errors="replace") as log:
                sys.exit(f"scripts/bench: the processes did not store {events} records:\n{log.read()[-3000:]}")
        time.sleep(0.05)


def spread(bench, databases, source, events):
    """One engine for each database, each with its part of the files, all at once through one Redis."""
    bench.redis.clear()
    names = sorted(os.listdir(source))
    processes = []
    before = cpu_seconds(bench.redis.pid) + sum(map(cpu_seconds, (database.pid for database in databases)))
    for number, database in enumerate(databases):
        database.clear()
    data = [filled(bench, source, names[number :: len(databases)], f"data-{number}") for number in range(len(databases))]
    began = time.monotonic()
    for number, database in enumerate(databases):
        environment = {**os.environ, **bench.environment(database.url, bench.redis.url)}
        environment["LEMONADE_REDIS_PREFIX"] = f"engine{number}"
        command = [bench.task_runner, "load", "--no-progress", "--quiet", "--data-dir", data[number]]
        processes.append(subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL))
    own = 0.0
    for process in processes:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        own += usage.ru_utime + usage.ru_stime
        if process.returncode != 0:
            sys.exit(f"scripts/bench: a load beside others: exit code {process.returncode}")
    seconds = time.monotonic() - began
    servers_cpu = cpu_seconds(bench.redis.pid) + sum(map(cpu_seconds, (database.pid for database in databases))) - before
    stored = sum(database.rows() for database in databases)
    if stored != events:
        sys.exit(f"scripts/bench: {stored} rows of {events}")
    for folder in data:
        shutil.rmtree(folder)
    return {"rate": events / seconds, "cpu_us": {"own": own * 1e6 / events, "servers": servers_cpu * 1e6 / events}}


def filled(bench, source, names=None, folder="data"):
    """A data directory whose inbound has these files."""
    data = bench.data(folder)
    for name in names or os.listdir(source):
        os.link(os.path.join(source, name), os.path.join(data, "inbound", name))
    return data


def check(database, events):
    if (stored := database.rows()) != events:
        sys.exit(f"scripts/bench: {stored} rows of {events}")


def model(runs, cores):
    """Costs of an event by kind of process, in µs, and the part of the cores that a run uses: the part for
    which the squares of the relative errors are least. All processes of a run share the cores. A worker
    task sends a batch and waits for the server, so one task alone is slower than that."""
    split = next(run for run in runs if run["name"] == "1 + 1" and run["group"] == PROCESSES_GROUP)
    costs = {kind: max(split["cpu_us"][kind], COST_MIN_US) for kind in KINDS}
    bound = cores * 1e6 / sum(costs.values())
    one_task = 1e6 / (costs["work"] + costs["mariadb"])
    tasks = lambda run: int(run["name"]) if run["group"] == TASKS_GROUP else None
    shares = [run["rate"] / bound for run in runs if tasks(run) != 1]
    used = sum(share * share for share in shares) / sum(shares)
    for run in runs:
        alone = [one_task * tasks(run)] if tasks(run) else []
        run["of_model"] = run["rate"] / min([bound * used, *alone])
    return {"costs_us": costs, "used": used}


def limits(found, cores=HOST_CORES):
    """The highest rate of one host of each kind. Redis has one thread for commands."""
    used = found["used"]
    return {kind: used * (1 if kind == "redis" else cores) * 1e6 / cost for kind, cost in found["costs_us"].items()}


def hosts(found, rate):
    """How many hosts of each kind a rate needs."""
    return {kind: max(1, math.ceil(rate / limit)) for kind, limit in limits(found).items()}
