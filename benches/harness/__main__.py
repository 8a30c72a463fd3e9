"""scripts/bench: what the engine does beside what its parts can do, in one run.

    scripts/bench                       all cases, three rounds: forty minutes on an idle machine
    scripts/bench --only large,peer     these cases
    scripts/bench --short               the same with few events: it must work, its figures mean nothing
    scripts/bench --baseline            engine, Redis and MariaDB within 2 GB of memory and 10 GB of disk
    scripts/bench --profile             where the engine's processor time goes, by perf
    scripts/bench --long                30 million events as an archive, a million files, and two services; two hours
    scripts/bench --scaling             rates over tasks, processes, shards and database servers, and a model
    scripts/bench --instructions        instructions of each stage, beside simd-json alone: fails above limits
    scripts/bench --json FILE           the results as JSON as well
    scripts/bench --render FILE...      docs/performance-results.md, docs/scaling.md and their plots from such files

The cases of a round run one after the other, so that a drift of the machine meets all of them: compare
the figures of one run only. Medians count. Servers are private and start empty. Runs are made while the
cores are near each other, as far as ten minutes of patience reach (benches/harness/cores.py).
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import cases
import instructions
import render
import servers
from baseline import baseline
from cores import Cores
from hotspots import hotspots
from inputs import Inputs
from long import long_run
from scaling import scaling

# The package of the bare clients.
CEILING = "lemonade-ceiling"


def main():
    arguments = parse()
    if arguments.render:
        results = [load_json(path) for path in arguments.render]
        if any(result["short"] for result in results):
            sys.exit("scripts/bench: the figures of a short run mean nothing, so they are not written to the page")
        render.write_docs(results)
        return
    if arguments.instructions:
        count_instructions()
        return
    began = time.monotonic()
    programs = build(arguments.short)
    sizes = cases.Sizes(arguments.short)
    servers.Database.flushes = not arguments.short
    os.makedirs("target/bench", exist_ok=True)
    folder = tempfile.mkdtemp(prefix="run-", dir=os.path.abspath("target/bench"))
    results = {
        "command": command(arguments),
        "short": arguments.short,
        "machine": machine(),
        "rounds": arguments.rounds,
        "results": {},
    }
    try:
        if arguments.baseline:
            results["baseline"] = baseline(programs, sizes, folder)
        elif arguments.profile:
            results["servers"], results["profile"] = one_profile(programs, sizes, folder)
        elif arguments.long:
            only = arguments.only.split(",") if arguments.only else None
            results["long"] = long_run(programs, folder, *cases.long_sizes(arguments), only)
        elif arguments.scaling:
            results["scaling"] = scaling(programs, folder, *sizes.scaling, arguments.rounds)
        else:
            results["servers"], results["results"] = all_cases(programs, sizes, folder, arguments)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    results["took_seconds"] = time.monotonic() - began
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(results, file, indent=1)
            file.write("\n")
    print(render.text(results))
    if missing := render.missing(results, arguments.only):
        sys.exit("scripts/bench: no result for: " + "; ".join(missing))


def parse():
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help="few events, the debug build")
    parser.add_argument("--rounds", type=int, help="how often each case runs (3; 1 with --short)")
    parser.add_argument("--only", metavar="CASE,...", help="these cases; with --long: archive, files, services")
    parser.add_argument("--baseline", action="store_true", help="2 GB of memory and 10 GB of disk for everything")
    parser.add_argument("--profile", action="store_true", help="where the engine's processor time goes, by perf")
    parser.add_argument("--long", action="store_true", help="an archive as large as the disk allows, and two services")
    parser.add_argument("--events", type=int, help="events of the archive of --long (30,000,000)")
    parser.add_argument("--seconds", type=int, help="how long the slower service of --long runs (3600)")
    parser.add_argument("--scaling", action="store_true", help="rates over processes and servers, and a model of them")
    parser.add_argument("--instructions", action="store_true", help="instructions of each stage, by callgrind")
    parser.add_argument("--json", metavar="FILE", help="write the results there")
    parser.add_argument("--render", metavar="FILE", nargs="+", help="write the tables and plots of the docs")
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or (1 if arguments.short else 3)
    return arguments


def command(arguments):
    """The command to repeat the run, without the files of results."""
    flags = ["--short"] * arguments.short + ["--baseline"] * arguments.baseline
    flags += ["--profile"] * arguments.profile + ["--long"] * arguments.long + ["--scaling"] * arguments.scaling
    flags += ["--events", str(arguments.events)] if arguments.events else []
    flags += ["--seconds", str(arguments.seconds)] if arguments.seconds else []
    flags += ["--only", arguments.only] if arguments.only else []
    return " ".join(["scripts/bench", *flags, "--rounds", str(arguments.rounds)])


def load_json(path):
    with open(path) as file:
        return json.load(file)


def all_cases(programs, sizes, folder, arguments):
    started = []
    try:
        redis = servers.Redis(folder)
        started.append(redis)
        mariadb = servers.Mariadb(folder)
        started.append(mariadb)
        only = arguments.only.split(",") if arguments.only else None
        mysql9 = None
        if only is None or "mysql9" in only:
            mysql9 = servers.Mysql9(folder)
            started.append(mysql9)
        inputs = Inputs(programs[0], os.path.join(folder, "inputs"))
        bench = cases.Bench(programs, inputs, sizes, folder, redis, mariadb, mysql9)
        jobs = cases.jobs(bench)
        known = {job.case for job in jobs} | {"mysql9"}
        if only and (strangers := set(only) - known):
            sys.exit(f"scripts/bench: no case {', '.join(sorted(strangers))}; there are {', '.join(sorted(known))}")
        jobs = [job for job in jobs if only is None or job.case in only]
        cores = Cores(programs[1], patient=not arguments.short)
        return versions(redis, mariadb, mysql9), run_rounds(jobs, arguments.rounds, cores)
    finally:
        for server in reversed(started):
            server.stop()


def count_instructions():
    found = instructions.instructions(cargo(False, "--package", CEILING)["ceiling"])
    print(f"{'stage':14} {'an event':>10} {'/ to_tape':>10} {'at most':>10}")
    for row in instructions.rows(found):
        print("{:14} {:>10} {:>10} {:>10}".format(*row))
    if excess := instructions.excess(found):
        sys.exit(f"scripts/bench: more instructions than the limit: {', '.join(excess)}")


def one_profile(programs, sizes, folder):
    started = []
    try:
        for server in (servers.Redis, servers.Mariadb):
            started.append(server(folder))
        bench = cases.Bench(programs, Inputs(programs[0], os.path.join(folder, "inputs")), sizes, folder, *started)
        found = hotspots(bench, bench.inputs.large(sizes.large), sizes.large)
        return versions(*started, None), found
    finally:
        for server in reversed(started):
            server.stop()


def run_rounds(jobs, rounds, cores):
    taken = {job.name: [] for job in jobs}
    for number in range(rounds):
        for job in jobs:
            if job.once and number > 0:
                continue
            result = cores.steady(job.run)
            taken[job.name].append(result)
            rate = f"{result['rate']:12,.0f} events/s" if "rate" in result else ""
            apart = f"cores {result['cores_ns']:.0f} ns apart"
            print(f"{number + 1}/{rounds} {job.name:45} {rate:21} {apart}", file=sys.stderr, flush=True)
    return {job.name: {"case": job.case, **median(taken[job.name])} for job in jobs}


def median(rounds):
    """The round with the median rate, with the rates of all of them, and medians of processor time."""
    if "rate" not in rounds[0]:
        return rounds[0]
    middle = sorted(rounds, key=lambda result: result["rate"])[(len(rounds) - 1) // 2]
    rates = [result["rate"] for result in rounds]
    result = {**middle, "rate": statistics.median(rates), "rates": rates}
    result["cores_ns"] = statistics.median(taken["cores_ns"] for taken in rounds)
    if "cpu_us" in middle:
        names = middle["cpu_us"]
        result["cpu_us"] = {name: statistics.median(taken["cpu_us"][name] for taken in rounds) for name in names}
    return result


def versions(redis, mariadb, mysql9):
    info = dict(line.split(":", 1) for line in redis.command("INFO", "server") if ":" in line)
    found = {"redis": info.get("redis_version"), "mariadb": mariadb.sql("SELECT VERSION()").strip()}
    if mysql9:
        found["mysql9"] = mysql9.sql("SELECT VERSION()").strip()
    return found


def machine():
    with open("/proc/cpuinfo") as file:
        models = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": os.cpu_count(),
        "processor": models[0] if models else platform.machine(),
        "memory_gb": round(memory / 1e9, 1),
        "system": f"Linux {platform.release()}",
        "load_before": os.getloadavg()[0],
    }


def build(short):
    """The programs: task_runner, the bare clients, the Python pipeline.

    The engine that is measured is the one that is shipped: without features that only tests need.
    """
    built = cargo(short, "--package", "lemonade-task", "--package", CEILING, "--bins")
    return built["task_runner"], built["ceiling"], peer()


def cargo(short, *arguments):
    """Builds; returns the programs by name."""
    command = ["cargo", "build", *arguments, "--locked", "--message-format=json-render-diagnostics"]
    command += [] if short else ["--release"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(done.returncode)
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    return {message["target"]["name"]: message["executable"] for message in messages if message.get("executable")}


def peer():
    """The Python pipeline, in an environment of its own, which is kept."""
    home, requirements = os.path.abspath("target/bench/venv"), "benches/peers/requirements.txt"
    python, kept = os.path.join(home, "bin/python"), os.path.join(home, "requirements.txt")
    with open(requirements) as file:
        wanted = file.read()
    if not os.path.exists(kept) or open(kept).read() != wanted:
        servers.run([sys.executable, "-m", "venv", "--clear", home])
        servers.run([python, "-m", "pip", "install", "--quiet", "--requirement", requirements])
        shutil.copy(requirements, kept)
    return [python, os.path.abspath("benches/peers/pipeline.py")]


main()
