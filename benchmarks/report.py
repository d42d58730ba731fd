"""What `benchmarks/README.md` says: tables from measured rows alone, and what was tried on the way (`changes.md`)."""

from pathlib import Path

MANY = 10_000_000
BUDGET_MB = 4000  # memory that a machine of the plan may use
HEAD = """# Benchmarks

Written by `python -m benchmarks` and `python -m benchmarks.neighbors` from the rows they measured; do not edit.
"""
SPEED = """## Speed

Variants of the same name took turns in one process, after it was asserted that they give the same. `s`: median, with
the smallest and largest of all rounds; `CPU`: processor time, all threads added; `ratio`: median over rounds of how
many times as fast as the first variant; `GEMM`: counted operations over those of the fastest product measured beside
it (compiled code hides its products, and is counted by its twin that is not compiled); memory: peak of a process of
its own, with Python and torch, in millions of bytes. `load`: processes that wanted a core when the line began. The
first size is that of the batch.

|  | size | s | CPU s | ratio | GFLOP | GEMM | memory MB | load |
|---|---|---:|---:|---:|---:|---:|---:|---:|
"""
NEIGHBORS = """## Neighbours

The five nearest of every vector by cosine, self excluded. Each line is a process of its own; memory is its peak, with
Python, torch, FAISS and the vectors themselves. `search` is wall-clock time, `its CPU` the processor time of that, all
threads added, and `CPU` that of building, tuning and searching together: on a machine that does other work besides
(`load`: processes that wanted a core when the line began) they say more than the clock. Recall is that of 1,000
queries that the index was not tuned on, against brute force. `ratio`: how many times as fast as the exact search, a
query, by the clock.

- *real*: embeddings (ImageNet EfficientNet-Lite0, 64 pixels, 1,280 numbers projected to 512) of random crops and
  flips of the shipped furniture renders and of ETH-80's photographs, each picture as often as the others{pictures};
- *clustered*: Gaussian noise about sqrt(N) centres, which flatters an index;
- *uniform*: directions without any structure, which defeats it. A graph (`hnsw`) is defeated by *clustered* ones too:
  few of its links lead from one cluster to another. There only 2,000 queries are timed.

`exact` takes each product once, for its row and for its column; `flat` is FAISS's exact index, which takes it twice
(timed on the queries shown).
"""


def write_report(rows: list[dict], path: Path) -> None:
    """Write the report of all rows."""
    neighbors = [row for row in rows if row["name"] == "neighbors"]
    others = [row for row in rows if row["name"] != "neighbors"]
    changes = Path(__file__).with_name("changes.md").read_text(encoding="utf-8")
    parts = [HEAD] + ([speed(others)] if others else []) + [changes]
    if neighbors:
        parts += neighbor_parts(neighbors)
    path.write_text("\n".join(parts), encoding="utf-8")


def speed(rows: list[dict]) -> str:
    """One line a variant."""
    lines = []
    for row in rows:
        size = " x ".join(f"{number:,}" for number in row["shape"])
        spread = f"{row['seconds']:.3g} [{row['low']:.3g}, {row['high']:.3g}]"
        counted = [f"{row['gflop']:.1f}", f"{row['gemm_share']:.0%}"] if "gflop" in row else ["", ""]
        cells = [f"{row['name']}, {row['variant']}", size, spread, f"{row['cpu_seconds']:.3g}", f"{row['ratio']:.2f}"]
        lines.append("| " + " | ".join([*cells, *counted, f"{row['memory_mb']:,}", f"{row['load']:.1f}"]) + " |")
    said = "".join(f"\n{sentence}" for sentence in data_shares(rows))
    return SPEED + "\n".join(lines) + f"\n\nMeasured with {machines_of(rows)}.\n{said}{said and chr(10)}"


def data_shares(rows: list[dict]) -> list[str]:
    """How much of a step its batch takes, where both were measured with as many images of the same size."""
    found = {(row["name"], row["variant"], row["device"], row["shape"][0], row["shape"][-1]): row for row in rows}
    sentences = []
    for (name, way, device, images, pixels), row in found.items():
        step = found.get(("shapeclipper_step", way, device, images, pixels))
        if name == "data" and step:
            sentences.append(
                f"Data, {way}, {device}: {images} images of {pixels} pixels take {row['seconds']:.3g} s, "
                f"{row['seconds'] / step['seconds']:.2%} of the step's {step['seconds']:.3g} s."
            )
    return sentences


def neighbor_parts(rows: list[dict]) -> list[str]:
    """The section on neighbours, and the plan for many more."""
    million = [row for row in rows if row["shape"][0] == 1_000_000]
    pictures = max((row.get("pictures", 0) for row in rows), default=0)
    head = NEIGHBORS.replace("{pictures}", f" ({pictures:,} different ones)" if pictures else "")
    return [head, table([row for row in rows if row not in million]), *(plan(row) for row in million)]


def machines_of(rows: list[dict]) -> str:
    """Threads and machines that the rows were measured with."""
    return "; ".join(
        sorted({f"{row['threads']} thread{'s' * (row['threads'] > 1)} on {row['machine']}" for row in rows})
    )


def table(rows: list[dict]) -> str:
    """One line a variant."""
    rows = sorted(rows, key=lambda row: (*row["shape"], row["variant"].split(", ")[::-1]))
    names = [
        "",
        "vectors",
        "queries",
        "search s",
        "its CPU s",
        "build s",
        "tune s",
        "CPU s",
        "memory MB",
        "recall",
        "ratio",
        "load",
    ]
    lines = ["| " + " | ".join(names) + " |", "|---|" + "---:|" * (len(names) - 1)]
    for row in rows:
        keys = ("seconds", "search_cpu_seconds", "build_seconds", "tune_seconds", "cpu_seconds")
        times = [f"{row[key]:.1f}" if key in row else "" for key in keys]
        size = f"{row['shape'][0]:,} x {row['shape'][1]}"
        rest = [
            f"{row['memory_mb']:,}",
            f"{row['recall']:.3f}",
            f"{row['ratio']:.2g}" if row["ratio"] else "",
            f"{row['load']:.1f}",
        ]
        lines.append("| " + " | ".join([row["variant"], size, f"{row['queries']:,}", *times, *rest]) + " |")
    return "\n".join(lines) + f"\n\nMeasured with {machines_of(rows)}.\n"


def plan(row: dict) -> str:
    """Ten million vectors, extrapolated from one measured million, with the arithmetic."""
    size, factor = row["shape"][1], MANY // row["shape"][0]
    query = row["seconds"] / row["queries"]  # of one query in one million
    build = row["build_seconds"]
    raw = MANY * size * 4 / 1e6
    per_shard = row["memory_mb"]
    one = factor**0.5 * query * MANY / 3600
    sharded = factor * query * MANY / 3600
    categories = 20
    part = factor / categories
    grouped = part**0.5 * query * MANY / 3600
    return f"""
## Ten million

Measured at a million ({row["variant"]}, {row["threads"]} threads on {row["machine"]}, load {row["load"]:.1f}): build
{build:.0f} s, tuning {row["tune_seconds"]:.0f} s, {row["queries"]:,} queries in {row["seconds"]:.1f} s
({query * 1e3:.2f} ms each), recall {row["recall"]:.3f}, peak memory {row["memory_mb"]:,} MB, of which the vectors are
{row["shape"][0] * size * 4 / 1e6:,.0f} MB and the index's copy of them as much.

What follows is arithmetic from that line. An index of N has 4 sqrt(N) clusters, so a query compares itself with a
number of centres and of members that both grow as sqrt(N); the build assigns N vectors to 4 sqrt(N) centres, so it
grows as N^1.5. Vectors take {MANY:,} x {size} x 4 bytes = {raw:,.0f} MB on disk, and an index as much in memory.

| way | shards | memory a shard | build | search, all queries |
|---|---:|---:|---:|---:|
| one index | 1 | {factor * per_shard:,} MB | {build:.0f} s x {factor}^1.5 = {build * factor**1.5 / 3600:.1f} h \
| {query * 1e3:.2f} ms x sqrt({factor}) x 10^7 = {one:.1f} h |
| shards at random, each asked by all | {factor} | {per_shard:,} MB | {factor} x {build:.0f} s = \
{factor * build / 3600:.1f} h | {query * 1e3:.2f} ms x {factor} x 10^7 = {sharded:.1f} h |
| a shard a category (say {categories} equal ones) | {categories} | {per_shard * part:,.0f} MB \
| {categories} x {build:.0f} s x {part:g}^1.5 = {categories * build * part**1.5 / 3600:.1f} h \
| {query * 1e3:.2f} ms x sqrt({part:g}) x 10^7 = {grouped:.1f} h |

Neighbours are asked for within a split and category, so the last way is what `find_neighbors` does by itself: a group
is an index, one after the other, and only the largest has to fit. A category of more than
{BUDGET_MB / per_shard:.1f} million needs more than {BUDGET_MB:,} MB: cut it into shards of at most that many, ask
each, and keep the best K of the lists. Shards are independent, so M machines take 1/M of the time. The exact search
would take {MANY:,}^2 x {size} multiplications and additions (half the pairs, two operations each) =
{MANY**2 * size / 1e15:,.0f} x 10^15 operations, that is {MANY**2 * size / 1e12 / 3600:,.1f} h a TFLOP/s.
"""
