"""Writes results as text, as tables of docs/performance-results.md, and as docs/performance.svg."""

import math
import re
import textwrap

from goals import GOALS, RUNS, growth_times
from long import WAYS
from scaling import HOST_CORES, PROCESSES_GROUP, WANTED_RATES, hosts, limits

PAGE, PLOT = "docs/performance-results.md", "docs/performance.svg"
SCALING_PAGE, SCALING_PLOT = "docs/scaling.md", "docs/scaling.svg"
NOT_MEASURED = "Not measured.\n"


def goal_rows(runs):
    """(what, at least, measured, reached, command) of each goal. measured is None if it did not run."""
    rows = []
    for goal in GOALS:
        value = None
        for run in runs:
            # Each row is computed from one run: figures of two runs are not compared.
            try:
                value = goal.value(run["results"] | {kind: run[kind] for kind in RUNS if kind in run})
            except KeyError:
                continue
        if value is None:
            rows.append((goal.what, goal.wanted(), None, None, goal.command))
        else:
            rows.append((goal.what, goal.wanted(), goal.shape.format(value), goal.reached(value), goal.command))
    return rows


def missing(run, only):
    """The goals for which a run should have figures, but has none."""
    if only:
        return []
    kinds = [kind for kind in RUNS if kind in run]
    asked = [goal for goal in GOALS if [kind for kind in RUNS if kind == goal.only] == kinds]
    measured = {what for what, _, value, _, _ in goal_rows([run]) if value is not None}
    return [goal.what for goal in asked if goal.what not in measured]


def result_rows(results):
    """(name, events/s, CPU µs an event by process, MB of the engine, ns between cores) of each result with a rate."""
    for name, result in results.items():
        if "rate" not in result or "cpu_us" not in result:
            continue
        cpu = {("client" if process == "own" else process): us for process, us in result["cpu_us"].items()}
        cpu = ", ".join(f"{process} {us:.2f}" for process, us in cpu.items())
        memory = result.get("memory_mb", {}).get("own")
        memory = "" if memory is None else f"{memory:.0f}"
        yield name, f"{result['rate']:,.0f}", cpu, memory, f"{result['cores_ns']:.0f}"


def text(run):
    """For the terminal."""
    lines = []
    rows = list(result_rows(run["results"]))
    if rows:
        lines.append(f"{'case':42} {'events/s':>12}  {'MB':>5}  {'ns':>4}  CPU µs an event")
        lines += [f"{name:42} {rate:>12}  {memory:>5}  {apart:>4}  {cpu}" for name, rate, cpu, memory, apart in rows]
    for what, wanted, value, reached, _ in goal_rows([run]):
        if value is not None:
            mark = "" if run["short"] else ("  reached" if reached else "  NOT REACHED")
            if not lines or lines[-1] and not lines[-1].startswith("  "):
                lines.append("")
            lines.append(f"  {what:70} {value:>10}   wanted {wanted}{mark}")
    if "latency" in run["results"]:
        latency = run["results"]["latency"]
        for name in ("committed_ms", "history_ms"):
            lines.append(f"  latency, {name}: p50 {latency[name]['p50']:.1f}, p99 {latency[name]['p99']:.1f}")
    if "profile" in run:
        lines += [f"  {' '.join(row)}" for row in profile_rows(run["profile"])]
    if "long" in run:
        for rows in parts_of_long(run["long"]):
            lines += ["", *("  " + " | ".join(row) for row in rows)]
    if "scaling" in run:
        for rows in (scaling_rows(run["scaling"]), hosts_rows(run["scaling"])):
            lines += ["", *("  " + " | ".join(row) for row in rows)]
    if "baseline" in run:
        lines.append("")
        lines += ["  " + " | ".join(row) for row in baseline_rows(run["baseline"])]
    if run["short"]:
        lines += ["", "a short run: everything works; the figures mean nothing"]
    return "\n".join(lines)


def baseline_rows(baseline):
    """A header, a row for the load without a limit, and a row for the load within the limit."""
    yield (
        "", "events/s", "engine, anonymous MB", "Redis, peak MB", "MariaDB, peak MB", "cgroup, peak MB",
        "disk: MariaDB MB", "disk: input MB", "killed",
    )  # fmt: skip
    for name in ("unlimited", "limited"):
        run = baseline[name]
        peak = run.get("cgroup_peak_mb")
        yield (
            name, f"{run['rate']:,.0f}", f"{run['memory_mb']['own']:.0f}", f"{run['peak_mb']['redis']:.0f}",
            f"{run['peak_mb']['mariadb']:.0f}", "" if peak is None else f"{peak:.0f}",
            f"{run['disk_parts_mb']['mariadb']:.0f}", f"{run['disk_parts_mb']['input']:.0f}",
            str(run.get("oom_kills", "")),
        )  # fmt: skip


def long_rows(found):
    """A header, and a row for each load of the archive."""
    yield (
        "", "events", "events/s", "the whole / the first 10 M, until stored", "events/s of each tenth, thousands",
        "engine, anonymous MB", "Redis, peak MB", "MariaDB, peak MB", "disk: MariaDB MB", "verify --content, s",
    )  # fmt: skip
    for name in WAYS:
        run = found[name]
        verify = run.get("verify_seconds")
        yield (
            name, f"{run['events']:,}", f"{run['rate']:,.0f}", f"{run['rate_to_first']:.2f}",
            " ".join(f"{rate / 1000:.0f}" for rate in run["rates"]), f"{run['engine_mb']:.0f}",
            f"{run['redis_mb']:.0f}", f"{run['mariadb_mb']:.0f}", f"{run['disk_mb']:.0f}",
            "" if verify is None else f"{verify:.0f}",
        )  # fmt: skip


def file_rows(found):
    """A header, and a row for the load of an archive of small files and for the load of it again."""
    yield "archive of files with one event", "files", "files/s", "engine, anonymous MB"
    for name, what in (("first", "loaded"), ("again", "loaded again")):
        run = found["files"][name]
        yield what, f"{found['files']['files']:,}", f"{run['rate']:,.0f}", f"{run['engine_mb']:.0f}"


def service_rows(found):
    """A header, and a row for each service."""
    yield "events/s delivered", "files", "p50 ms to history", "p99", "p99.9", "engine, anonymous MB"
    for run in found["services"]:
        times = run["history_ms"]
        yield (
            f"{run['asked_rate']:,}", f"{run['files']:,}", f"{times['p50']:.0f}", f"{times['p99']:.0f}",
            f"{times['p99.9']:.0f}", f"{run['engine_mb']:.0f}",
        )  # fmt: skip


def parts_of_long(found):
    """The rows of each part that has results."""
    parts = (("archive_mb", long_rows), ("files", file_rows), ("services", service_rows))
    return [rows(found) for name, rows in parts if name in found]


def long_tables(runs):
    """The tables of all long runs, each part by the last run that has it."""
    commands, found = [], {}
    for run in runs:
        if "long" in run:
            commands.append(f"`{run['command']}`")
            found |= run["long"]
    if not commands:
        return NOT_MEASURED
    tables = "\n".join(table(next(rows), rows) for rows in parts_of_long(found))
    return ", ".join(commands) + "\n\n" + tables


def scaling_rows(found):
    """A header, and a row for each run."""
    yield "", "", "events/s", "measured / model", "CPU µs an event"
    before = None
    for run in found["runs"]:
        group = "" if run["group"] == before else run["group"]
        before = run["group"]
        cpu = ", ".join(f"{name} {us:.2f}" for name, us in run["cpu_us"].items())
        yield group, run["name"], f"{run['rate']:,.0f}", f"{run['of_model']:.2f}" if "of_model" in run else "", cpu.replace("own", "engine")


def hosts_rows(found):
    """A header, a row with the limit of one host of each kind, and a row of hosts for each rate."""
    kinds = found["costs_us"]
    yield "", *kinds
    yield f"events/s of a host with {HOST_CORES} cores", *(f"{limit:,.0f}" for limit in limits(found).values())
    for rate in WANTED_RATES:
        yield f"hosts for {rate:,} events/s", *(str(count) for count in hosts(found, rate).values())


def scaling_parts(runs):
    for run in runs:
        if "scaling" in run:
            found = run["scaling"]
            errors = [abs(1 - part["of_model"]) for part in found["runs"] if "of_model" in part]
            costs = ", ".join(f"{kind} {us:.2f}" for kind, us in found["costs_us"].items())
            said = (
                f"`{run['command']}` on {found['cores']} cores of {run['machine']['processor']}. An event costs, in µs "
                f"of processor time: {costs}. The runs use {found['used']:.2f} of the cores. The model errs by "
                f"{sum(errors) / len(errors):.0%} on average, and by {max(errors):.0%} at most."
            )
            said = textwrap.fill(said, 100, break_on_hyphens=False, break_long_words=False) + "\n\n"
            rows, planned = scaling_rows(found), hosts_rows(found)
            return {"scaling": said + table(next(rows), rows), "hosts": table(next(planned), planned)}
    return {"scaling": NOT_MEASURED, "hosts": NOT_MEASURED}


def write_docs(runs):
    """Replaces the tables between the marks of the pages, and draws the plots. A table for which no run has
    a result stays as it is."""
    parts = {
        "goals": goals_table(runs),
        "profile": profile_table(runs),
        "baseline": baseline_table(runs),
        "long": long_tables(runs),
        "results": results_table(runs),
    }
    write_tables(PAGE, parts)
    write_tables(SCALING_PAGE, scaling_parts(runs))
    for run in runs:
        if growth_times(run["results"]):
            with open(PLOT, "w") as file:
                file.write(plot(run["results"]))
        if "scaling" in run:
            with open(SCALING_PLOT, "w") as file:
                file.write(scaling_plot(run["scaling"]))


def write_tables(path, parts):
    with open(path) as file:
        page = file.read()
    for name, table in parts.items():
        if table == NOT_MEASURED:
            continue
        marks = re.compile(f"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        page, found = marks.subn(lambda match: match[1] + table + match[2], page)
        assert found == 1, f"{path} has no marks for {name}"
    with open(path, "w") as file:
        file.write(page)


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def goals_table(runs):
    rows = []
    for what, wanted, value, reached, command in goal_rows(runs):
        shown = "not measured" if value is None else f"**{value}**" if reached else f"{value} (not reached)"
        rows.append((what, wanted, shown, f"`{command}`"))
    return table(("what", "at least", "measured", "command"), rows)


def results_table(runs):
    text = ""
    for run in runs:
        rows = list(result_rows(run["results"]))
        if not rows:
            continue
        machine, servers = run["machine"], run.get("servers", {})
        versions = ", ".join(f"{name} {version}" for name, version in servers.items())
        heading = (
            f"`{run['command'].strip()}`, medians of {run['rounds']}: {machine['cores']} cores of "
            f"{machine['processor']}, {machine['memory_gb']:.0f} GB, {machine['system']}; {versions}."
        )
        text += textwrap.fill(heading, 100, break_on_hyphens=False, break_long_words=False) + "\n\n"
        text += table(("case", "events/s", "CPU µs an event", "own memory, MB", "cores apart, ns"), rows) + "\n"
    return text


def baseline_table(runs):
    for run in runs:
        if "baseline" in run:
            header, *rows = baseline_rows(run["baseline"])
            return table(header, rows)
    return NOT_MEASURED


PROFILE = ("what for", "µs an event", "of it kernel", "of it allocator and copies", "")


def profile_rows(found):
    """Rows with part, µs an event, kernel, allocator and copies, and a bar; the largest part first."""
    parts = sorted(found["parts"].items(), key=lambda part: -part[1][0])
    for name, figures in parts:
        yield name, *(f"{us:.2f}" for us in figures), "█" * round(figures[0] * 50)
    sums = (sum(figures[at] for figures in found["parts"].values()) for at in range(3))
    yield "together", *(f"{us:.2f}" for us in sums), ""


def profile_table(runs):
    for run in runs:
        if "profile" in run:
            return table(PROFILE, profile_rows(run["profile"]))
    return NOT_MEASURED


# The plot.

WIDTH, HEIGHT = 860, 340
LEFT, TOP, PANEL_WIDTH, PANEL_HEIGHT, GAP = 70, 56, 320, 220, 100

STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #444c56 }
  .title { font-size: 14px; font-weight: 600; fill: #1f2328 }
  .grid { stroke: #d8dee4; stroke-width: 1 }
  .line { fill: none; stroke-width: 2.5; stroke-linejoin: round; stroke-linecap: round }
  .c0 { stroke: #0969da; fill: #0969da } .c1 { stroke: #bc4c00; fill: #bc4c00 } .c2 { stroke: #1a7f37; fill: #1a7f37 }
  .line { fill: none } .label { stroke: none; font-weight: 600 }
  @media (prefers-color-scheme: dark) {
    text { fill: #9198a1 } .title { fill: #f0f6fc } .grid { stroke: #3d444d }
    .c0 { stroke: #4493f8; fill: #4493f8 } .c1 { stroke: #f0883e; fill: #f0883e } .c2 { stroke: #3fb950; fill: #3fb950 }
    .line { fill: none } .label { stroke: none }
  }
"""


def plot(results):
    """Rate and memory over the number of events: two panels side by side, the events on a log scale."""
    found = {int(name.removeprefix("growth: ")): r for name, r in results.items() if name.startswith("growth: ")}
    sizes = sorted(found)
    rates = {"events/s": [found[size]["rate"] for size in sizes]}
    memory = {
        name: [found[size]["memory_mb"][key] for size in sizes]
        for name, key in (("engine", "own"), ("MariaDB", "mariadb"), ("Redis", "redis"))
    }
    axis = Axis("events in the file", lambda size: f"{size / 1e6:g} M" if size >= 1e5 else f"{size:,}", math.log10)
    body = panel(LEFT, "Events a second, through Redis into MariaDB", sizes, rates, "thousands", axis)
    body += panel(LEFT + PANEL_WIDTH + GAP, "Memory at its peak, MB (anonymous)", sizes, memory, "", axis)
    return picture("Rate and memory over the number of events", body)


def scaling_plot(found):
    """Measured and computed rates over processes, and the limits of each kind of host over their number."""
    runs = [run for run in found["runs"] if run["group"] == PROCESSES_GROUP]
    places = list(range(1, len(runs) + 1))
    measured = {
        "measured": [run["rate"] for run in runs],
        "model": [run["rate"] / run["of_model"] for run in runs],
    }
    names = Axis("ingest + work processes, on the same cores", lambda place: runs[place - 1]["name"])
    body = panel(LEFT, "Events a second, as measured", places, measured, "thousands", names)
    counts = list(range(1, 6))
    limit = limits(found)
    series = {kind: [limit[kind] * count for count in counts] for kind in ("redis", "mariadb", "work")}
    several = Axis(f"hosts of {HOST_CORES} cores", str)
    body += panel(LEFT + PANEL_WIDTH + GAP, "Events a second, by the model", counts, series, "thousands", several)
    return picture("Rates over processes, and limits over hosts", body)


def picture(label, body):
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{label}">\n<style>{STYLE}</style>\n{body}</svg>\n'
    )


class Axis:
    """What the horizontal axis of a panel shows: its title, the text at a place, and its scale."""

    def __init__(self, title, shown, scale=lambda place: place):
        self.title, self.shown, self.scale = title, shown, scale


def panel(left, title, sizes, series, unit, axis):
    top = nice(max(max(values) for values in series.values()))
    first, last = axis.scale(sizes[0]), axis.scale(sizes[-1])
    spread = (last - first) or 1.0
    x = lambda size: left + 14 + (PANEL_WIDTH - 28) * (axis.scale(size) - first) / spread
    y = lambda value: TOP + PANEL_HEIGHT * (1 - value / top)
    out = [f'<text class="title" x="{left - 46}" y="{TOP - 26}">{title}</text>']
    for step in range(5):
        value = top * step / 4
        shown = f"{value / 1000:,.0f}k" if unit else f"{value:,.0f}"
        out.append(f'<line class="grid" x1="{left}" x2="{left + PANEL_WIDTH}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        out.append(f'<text x="{left - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{shown}</text>')
    for size in sizes:
        place = f'x="{x(size):.1f}" y="{TOP + PANEL_HEIGHT + 26}"'
        out.append(f'<text {place} text-anchor="middle">{axis.shown(size)}</text>')
    place = f'x="{left + PANEL_WIDTH / 2}" y="{TOP + PANEL_HEIGHT + 48}"'
    out.append(f'<text {place} text-anchor="middle">{axis.title}</text>')
    ends = []
    for number, (name, values) in enumerate(series.items()):
        points = [(x(size), y(value)) for size, value in zip(sizes, values)]
        path = " ".join(f"{'M' if at == 0 else 'L'}{px:.1f} {py:.1f}" for at, (px, py) in enumerate(points))
        out.append(f'<path class="line c{number}" d="{path}"/>')
        out += [f'<circle class="c{number}" cx="{px:.1f}" cy="{py:.1f}" r="3.5"/>' for px, py in points]
        ends.append((points[-1][1], points[-1][0], number, name))
    line_before = -math.inf
    for py, px, number, name in sorted(ends) if len(series) > 1 else ():
        # From the top line down: a label is above the end of its line, or below it if it would
        # overlap the line or the label before.
        at = py - 9 if py - line_before > 36 else py + 20
        line_before = py
        out.append(f'<text class="label c{number}" x="{px:.1f}" y="{at:.1f}" text-anchor="end">{name}</text>')
    return "\n".join(out) + "\n"


def nice(value):
    """The next larger round number whose quarter is round as well."""
    scale = 1
    while True:
        for step in (1, 2, 4, 6, 8):
            if step * scale >= value * 1.05:
                return step * scale
        scale *= 10
