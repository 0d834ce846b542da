"""What the tests do not notice: `python -m tools.mutation`, run by `make mutation`.

mutmut changes the modules that `[tool.mutmut]` names, one thing at a time, and runs the fast tests that reach it. Each
change that no test notices is printed in the form of `accepted_mutants.toml`, which lists the few that may live.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

ACCEPTED = Path(__file__).with_name("accepted_mutants.toml")
WORKPLACE = Path("mutants")  # mutmut's copy of the tree
MUTMUT = Path(sys.executable).with_name("mutmut")
NOTICED = {"killed", "timeout", "segfault", "caught by type check"}
CUT_SHORT = (124, 137)  # exit statuses of timeout
UNTRIED = {"not checked", "check was interrupted by user"}
_RESULT = re.compile(r"^ +(?P<name>\S+): (?P<status>.+)$", re.MULTILINE)
_SENTENCE = re.compile(r'"[^"]* [^"]*"')


@dataclass(frozen=True)
class Change:
    """One thing changed in one file: the lines that went, marked `-`, and those that came, marked `+`."""

    file: str
    lines: tuple[str, ...]

    @property
    def is_wording(self) -> bool:
        """Whether nothing but the words of a sentence changed: tests need not repeat those letter by letter."""
        sides = [[_SENTENCE.sub('""', line[1:]) for line in self.lines if line[0] == side] for side in "-+"]
        return sides[0] == sides[1]

    def as_toml(self) -> str:
        lines = "\n".join(self.lines)
        return f"[[accepted]]\nfile = \"{self.file}\"\nchange = '''\n{lines}'''\nreason = \"\"\n"


def statuses(results: str) -> dict[str, str]:
    """Mutant -> status, from what `mutmut results` prints; it leaves out what was killed."""
    return {match["name"]: match["status"] for match in _RESULT.finditer(results)}


def change_of(shown: str) -> Change:
    """The change in the diff that `mutmut show` prints; its header names the file."""
    diff = shown.splitlines()
    start = next(number for number, line in enumerate(diff) if line.startswith("--- "))
    file = diff[start].removeprefix("--- ")
    rows = (line for line in diff[start + 2 :] if line.startswith(("-", "+")))
    return Change(file, tuple(f"{line[0]} {line[1:].strip()}" for line in rows))


def accepted() -> dict[Change, str]:
    """The changes that may live, with the reason of each.

    Raises:
        ValueError: one has no reason.
    """
    reasons = {}
    for row in tomllib.loads(ACCEPTED.read_text())["accepted"]:
        if not row["reason"]:
            raise ValueError(f"{ACCEPTED.name}: {row['change']!r} of {row['file']} has no reason; say why it may live")
        reasons[Change(row["file"], tuple(row["change"].splitlines()))] = row["reason"]
    return reasons


def left_over(changes: Iterable[Change], may_live: Iterable[Change]) -> list[Change]:
    """The changes that nobody noticed and nobody accepted."""
    known = set(may_live)
    return [change for change in changes if change not in known and not change.is_wording]


def _mutmut(*arguments: str, minutes: float = 1) -> str:
    """What the command prints; one that takes longer is cut short."""
    bound = ["timeout", "--signal=INT", "--kill-after=30", f"{minutes}m"]
    done = subprocess.run([*bound, MUTMUT, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode not in (0, *CUT_SHORT):
        raise SystemExit(f"mutmut {arguments[0]} failed:\n{done.stdout[-3000:]}")
    return done.stdout


def _survivors(verdicts: dict[str, str]) -> Iterator[Change]:
    for name, status in verdicts.items():
        if status not in NOTICED | UNTRIED:
            yield change_of(_mutmut("show", name))


def main() -> int:
    """Exit status 0: all changes were tried, and those that no test noticed are accepted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help='mutants to try, such as "coordinator.state.*"; all without any')
    parser.add_argument("--minutes", type=float, default=30, help="when to stop (default: %(default)s)")
    arguments = parser.parse_args()
    shutil.rmtree(WORKPLACE, ignore_errors=True)  # it holds verdicts of tests that may have changed since
    _mutmut("run", *arguments.names, minutes=arguments.minutes)
    patterns = arguments.names or ["*"]
    results = statuses(_mutmut("results"))
    verdicts = {name: status for name, status in results.items() if any(fnmatch(name, p) for p in patterns)}
    survivors = list(_survivors(verdicts))
    left = left_over(survivors, accepted())
    for change in left:
        print(change.as_toml())
    untried = sum(status in UNTRIED for status in verdicts.values())
    print(f"{len(left)} changes that no test notices, {len(survivors) - len(left)} more are accepted or mere wording")
    if untried:
        print(f"{untried} changes were not tried in {arguments.minutes:g} minutes; raise --minutes or name fewer")
    return 1 if left or untried else 0


if __name__ == "__main__":
    sys.exit(main())
