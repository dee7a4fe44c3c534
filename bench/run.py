"""Side by side with other tools, in one table: `make bench`, and `make bench-quick` in two minutes.

The table goes to standard output as Markdown, every single time to a JSON file below bench/out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench import deid, dicomdir, retrieve, upload, web  # noqa: E402
from bench.timing import OUT, Runs, Work, compare, machine, table  # noqa: E402
from tests.support.peers import missing_programs  # noqa: E402

PARTS = {"retrieve": retrieve, "web": web, "upload": upload, "deid": deid, "dicomdir": dicomdir}


def main() -> int:
    """Run the benchmarks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help=f"of {', '.join(PARTS)} (all)")
    parser.add_argument("--rounds", type=int, help="runs of every tool (3; 1 with --quick)")
    parser.add_argument("--quick", action="store_true", help="a few comparisons, in two minutes")
    arguments = parser.parse_args()
    if line := missing_programs():
        print(line, file=sys.stderr)
        return 1
    facts = machine()
    done: list[tuple[Work, dict[str, Runs]]] = []
    failed = []
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        for part in arguments.parts or PARTS:
            try:
                for work in PARTS[part].works(Path(name) / part, arguments.quick):
                    done.append((work, compare(work, arguments.rounds or (1 if arguments.quick else 3))))
            except (RuntimeError, AssertionError, OSError, subprocess.SubprocessError) as error:  # the others go on
                failed.append(f"{part} ended early: {type(error).__name__}: {error}")
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"results-{time.strftime('%Y%m%dT%H%M%S')}.json"
    times = {work.name: {tool: asdict(runs) for tool, runs in results.items()} for work, results in done}
    path.write_text(json.dumps({"machine": facts, "works": times}, indent=1))
    print("\n".join([*(f"{key}: {value}" for key, value in facts.items()), "", table(done)]))
    print(f"\nEvery single time: {path.relative_to(ROOT)}")
    print("\n".join(failed), file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
