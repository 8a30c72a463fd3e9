"""Where the engine's processor time goes: one load under perf, its samples by what they are for."""

import os
import re
import subprocess

from servers import program

# A timer that machines without performance counters have, too.
EVENT, HERTZ = "cpu-clock", "1499"

# The first that fits a symbol counts. Copies, allocation and the kernel's part serve all the others.
PARTS = (
    ("find and build the JSON (simd-json)", r"simd_json"),
    ("records to columns (walk, timestamps)", r"lemonade_task::(parse|timestamp)|arrow_array::builder|from_utf8"),
    ("cut", r"lemonade_task::cut"),
    ("hash of the content (BLAKE3)", r"blake3"),
    ("compression of frames (LZ4)", r"lz4_flex"),
    ("frames (Arrow IPC, checksum)", r"arrow_|flatbuffers|xxh|lemonade_task::frame"),
    ("rows to the database (binding, driver)", r"mysql_|lemonade_task::sink"),
    ("Redis client", r"fred|redis_protocol|lemonade_task::broker|bytes::bytes"),
    ("daily summary", r"lemonade_task::summary|hashbrown|indexmap"),
    ("copies and comparisons of memory", r"mem(move|cpy|set|cmp)"),
    ("allocator", r"\bmi_|_mi_|mimalloc|alloc::"),
    ("kernel: memory", r"\[k\].*(clear_page|folio|fault|pte|pmd|pgd|page|unmap|zap|memcg|lruvec|mmap|vma|madvise|tlb|xa_)"),
    ("kernel: network", r"\[k\].*(tcp|skb|ip_|inet|sock|net_|netif|dev_|copy_(to|from)_iter|send|recv|softirq|loopback)"),
    ("kernel: the rest (files, threads)", r"\[k\]"),
    ("everything else", r""),
)


def hotspots(bench, source, events):
    """Loads the files of a folder through Redis into MariaDB; µs an event of each part."""
    data, wrapper = (os.path.join(bench.folder, name) for name in ("perf.data", "under-perf"))
    perf = program("perf")
    with open(wrapper, "w") as file:
        file.write(
            f'#!/bin/sh\n[ "$1" = load ] || exec {bench.task_runner} "$@"\n'
            f'exec {perf} record --quiet --event {EVENT} --freq {HERTZ} --output {data} {bench.task_runner} "$@"\n'
        )
    os.chmod(wrapper, 0o755)
    engine, bench.task_runner = bench.task_runner, wrapper
    try:
        result = bench.load(source, events, bench.mariadb, bench.redis.url)
    finally:
        bench.task_runner = engine
    command = [perf, "report", "--input", data, "--stdio", "--no-children", "--sort", "symbol", "--field-separator", ";"]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    shares = dict.fromkeys((name for name, _ in PARTS), 0.0)
    for line in report.splitlines():
        if sample := re.match(r"\s*([\d.]+)%?\s*;(.*)", line):
            name = next(name for name, pattern in PARTS if re.search(pattern, sample[2]))
            shares[name] += float(sample[1])
    whole = sum(shares.values())
    cpu = result["cpu_us"]["own"]
    return {"cpu_us": cpu, "parts": {name: cpu * share / whole for name, share in shares.items()}}
