"""Where the engine's processor time goes. perf samples one load, whose metrics and status are asked for
every second. Each sample counts for the part of the work in whose functions it was taken, with all that they
call: allocator, copies, kernel."""

import os
import re
import subprocess
import threading
import urllib.error
import urllib.request

from servers import free_port, program

# A timer, because some machines have no performance counters. Release builds have no frame
# pointers, so perf copies this many bytes of the stack and unwinds them later: enough to reach the
# function of the stage.
EVENT, HERTZ, STACK_BYTES = "cpu-clock", "997", 8192

OBSERVED = "metrics, status and HTTP"
# A sample counts for the first pattern that matches a function of its stack.
PARTS = (
    (OBSERVED, r"lemonade_task::(telemetry|http|status)|metrics::|metrics_(exporter|process|util)|axum|hyper"),
    ("rows to the database (values, packets, sending)", r"sink::mysql::(bind|load_data)|session::Session>?::(insert|load_data)|exec_batch|exec_drop"),
    ("the rest of the database client (transactions, ledger)", r"mysql_|sink::mysql"),
    ("daily summary", r"lemonade_task::summary"),
    ("frames to batches", r"frame::(decode|read|check_span)|arrow_ipc::reader|lz4_flex::.*decompress"),
    ("batches to frames", r"frame::(write|Encoder)|lz4_flex::.*compress"),
    ("records to batches", r"lemonade_records::(parse|timestamp)|simd_json"),
    ("cut", r"lemonade_records::cut"),
    ("hash of the content (BLAKE3)", r"blake3"),
    ("bytes of files", r"lemonade_task::content"),
    ("moves of files", r"lemonade_task::inbox"),
    ("Redis client", r"fred|redis_protocol|lemonade_task::broker"),
    ("the rest of ingest and workers", r"lemonade_task::(ingest|worker)"),
    ("threads and timers", r"tokio|rayon|crossbeam"),
    ("everything else", r""),
)
ALLOCATOR_AND_COPIES = re.compile(r"\bmi_|_mi_|mem(move|cpy|set)|alloc::")


def hotspots(bench, source, events):
    """Loads the files of a folder through Redis into MariaDB. Returns µs an event of each part: in all,
    in the kernel, and in the allocator and copies."""
    address = f"127.0.0.1:{free_port()}"
    data, wrapper = (os.path.join(bench.folder, name) for name in ("perf.data", "under-perf"))
    perf = program("perf")
    with open(wrapper, "w") as file:
        file.write(
            f'#!/bin/sh\n[ "$1" = load ] || exec {bench.task_runner} "$@"\n'
            f"exec {perf} record --quiet --event {EVENT} --freq {HERTZ} --call-graph dwarf,{STACK_BYTES} "
            f'--output {data} {bench.task_runner} "$@" --http-addr {address}\n'
        )
    os.chmod(wrapper, 0o755)
    engine, bench.task_runner = bench.task_runner, wrapper
    asking = Asking(address)
    try:
        result = bench.load(source, events, bench.mariadb, bench.redis.url)
    finally:
        bench.task_runner = engine
        asking.end()
    command = [perf, "script", "--input", data, "--no-inline", "--fields", "ip,sym"]
    script = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    counts = {name: [0, 0, 0] for name, _ in PARTS}
    samples = [stack.strip().split("\n") for stack in script.split("\n\n") if stack.strip()]
    for stack in samples:
        part = counts[next(name for name, pattern in PARTS if any(re.search(pattern, frame) for frame in stack))]
        address, _, leaf = stack[0].strip().partition(" ")
        in_kernel = address.startswith("ffffffff")
        part[0] += 1
        part[1] += in_kernel
        part[2] += not in_kernel and bool(ALLOCATOR_AND_COPIES.search(leaf))
    cpu = result["cpu_us"]["own"]
    parts = {name: [cpu * count / len(samples) for count in found] for name, found in counts.items()}
    return {"cpu_us": cpu, "all_us": sum(result["cpu_us"].values()), "parts": parts}


class Asking(threading.Thread):
    """Asks for metrics and status every second."""

    def __init__(self, address):
        super().__init__(daemon=True)
        self.pages = [f"http://{address}/metrics", f"http://{address}/api/status"]
        self.over = threading.Event()
        self.start()

    def run(self):
        while not self.over.wait(1):
            for page in self.pages:
                try:
                    urllib.request.urlopen(page, timeout=10).read()
                except urllib.error.URLError:
                    pass  # The program is about to start, or has ended.

    def end(self):
        self.over.set()
        self.join()
