"""`fedgalore simulate --sweep`: a job with other values, several times; a table, a picture, and runs that are kept."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from fedgalore.spec.start import PREFIX
from fedgalore_cli.errors import fail, stop
from fedgalore_cli.options import Format
from fedgalore_cli.output import note, record, rounds_bar
from fedgalore_cli.simulate_federation import Federation, failure
from fedgalore_cli.words import heading, value

if TYPE_CHECKING:
    from fedgalore.spec.job import JobSpec
    from fedgalore.sweep import Goal, Setting, Summary
    from fedgalore_cli.sweep_runs import Done, Runs


@dataclass
class Row:
    """A setting with what its seeds gave: values and bytes of those that ended, problems of those that failed."""

    setting: Setting
    values: dict[int, float] = field(default_factory=dict)
    up_bytes: list[int] = field(default_factory=list)
    problems: dict[int, str] = field(default_factory=dict)

    @property
    def summary(self) -> Summary:
        from fedgalore.sweep import Summary

        return Summary.of(list(self.values.values()))

    def document(self) -> dict[str, Any]:
        return {
            "setting": dict(self.setting.values),
            **vars(self.summary),
            "values": self.values,
            "up_bytes": self.up_bytes,
            "problems": self.problems,
        }


@dataclass(frozen=True)
class Sweep:
    """The settings of a job, how often each is run, and what they are compared by."""

    settings: Sequence[Setting]
    seeds: int
    goal: Goal

    @classmethod
    def planned(cls, spec: JobSpec, sweeps: Iterable[str], seeds: int, metric: str | None) -> Sweep:
        """
        Args:
            sweeps: as --sweep has them, `method.rank=4,8`.

        Raises:
            SweepError: something cannot be swept, or a setting is no job.
        """
        from fedgalore.sweep import SweepError, axis, goal_of, grid

        axes = [axis(text) for text in sweeps]
        for path, _ in axes:
            if path.partition(".")[0] == "data" and path in ("data", "data.name"):
                raise SweepError(f"--sweep {path}: all settings run on the same data; leave it out")
        settings = grid(spec, axes)
        for each in settings:
            if each.spec.model.source.startswith(PREFIX):
                raise SweepError(f"--sweep {each}: that version is at a coordinator; download it, and name its folder")
        return cls(settings, seeds, goal_of([each.spec for each in settings], metric))

    def run(self, federation: Federation, folder: Path, output: Format) -> None:
        """Runs what has not been run, shows the table, draws the picture, and ends the command where a run failed."""
        from fedgalore_cli import sweep_picture
        from fedgalore_cli.sweep_runs import Runs

        runs = Runs(folder, federation.sites, [row for rows in federation.tests.values() for row in rows])
        rows = [Row(setting) for setting in self.settings]
        places = [(row, spec) for row in rows for spec in row.setting.seeded(self.seeds)]
        for number, (row, spec) in enumerate(places, start=1):
            name = f"{row.setting}, seed {spec.seed}"
            done = self._run(row, spec, name, runs, federation, begun=number > 1)
            self._tell(row, spec.seed, f"[{number}/{len(places)}] {name}", done, output)
        picture = folder / "sweep.png"
        sweep_picture.draw(picture, rows, self.goal, f"{self.settings[0].spec.name}, {_times(self.seeds)}")
        self._show(rows, folder, picture, output)

    def _run(self, row: Row, spec: JobSpec, name: str, runs: Runs, federation: Federation, begun: bool) -> Done | None:
        from fedgalore.sweep import score
        from fedgalore.tracking import TrackerError

        try:
            key = runs.key(spec)
            done = runs.find(key)
            if done is None:
                done = _played(row, spec, name, key, federation, begun)
                runs.keep(key, done)
            row.values[spec.seed] = score(self.goal, done.measured)
            row.up_bytes.append(done.up_bytes)
            return done
        except TrackerError as error:
            fail(str(error))
        except KeyboardInterrupt:
            stop("stopped; the same command goes on with what has not been run")
        except Exception as error:  # whatever the code of a model or a tokenizer comes upon
            logging.getLogger(__name__).debug("a run failed", exc_info=True)
            row.problems[spec.seed] = failure(error, spec)
            return None

    def _tell(self, row: Row, seed: int, name: str, done: Done | None, output: Format) -> None:
        found, metric = row.values.get(seed), self.goal.metric
        if output is not Format.TABLE:
            about = {"setting": dict(row.setting.values), "seed": seed, "metric": metric, "value": found}
            record(output, {"type": "run", **about, "problem": row.problems.get(seed)})
        if done is None or found is None:
            note(f"{name}: failed: {row.problems[seed]}")
        else:
            note(f"{name}: {heading(metric)} {value(metric, {metric: found})} ({done.seconds:.0f} s)")

    def _show(self, rows: Sequence[Row], folder: Path, picture: Path, output: Format) -> None:
        best = best_of(rows, self.goal)
        if output is not Format.TABLE:
            chosen = dict(best.setting.values) if best else None
            found = {"metric": self.goal.metric, "mode": self.goal.mode, "settings": [row.document() for row in rows]}
            record(output, {"type": "sweep", **found, "best": chosen, "folder": str(folder), "picture": str(picture)})
        else:
            _print(rows, self.goal, best)
            note(f"runs: {folder / 'runs'}, picture: {picture}")
        if failed := [(row, seed) for row in rows for seed in row.problems]:
            row, seed = failed[0]
            fail(
                f"{len(failed)} of {len(rows) * self.seeds} runs failed, the first of them {row.setting}, seed {seed}: "
                f"{row.problems[seed]}"
            )


def _played(row: Row, spec: JobSpec, name: str, key: str, federation: Federation, begun: bool) -> Done:
    """`begun`: no tracker that is away stops what has begun."""
    from fedgalore.sweep import measured
    from fedgalore_cli.sweep_runs import Done

    started = time.monotonic()
    with federation.tracking(spec, name, key, without=begun) as tracking, rounds_bar() as drawn:
        result = federation.play(spec, tracking, lambda each: drawn(each.number, spec.rounds.count + 1))
        found = measured(spec, result)
        tracking.facts |= found
    return Done(
        dict(row.setting.values),
        spec.seed,
        found,
        sum(each.up_bytes for each in result.rounds),
        time.monotonic() - started,
        result.metrics(),
    )


def _times(seeds: int) -> str:
    return "one seed" if seeds == 1 else f"mean and standard deviation of {seeds} seeds"


def best_of(rows: Sequence[Row], goal: Goal) -> Row | None:
    """The setting with the best mean among those of which no run failed; of equal ones the first."""
    best: Row | None = None
    for row in rows:
        mean, than = row.summary.mean, best.summary.mean if best else None
        if mean is not None and not row.problems and (than is None or goal.is_better(mean, than)):
            best = row
    return best


def _print(rows: Sequence[Row], goal: Goal, best: Row | None) -> None:
    from fedgalore.spec.amounts import size
    from fedgalore.sweep import short
    from fedgalore_cli.show.console import console, table, whole

    drawn = table(*(path for path, _ in rows[0].setting.values), heading(goal.metric), "runs", "up a run", "")
    for row in rows:
        cells = [short(each) for _, each in row.setting.values]
        runs = f"{len(row.values)}" + (f", {len(row.problems)} failed" if row.problems else "")
        moved = size(fmean(row.up_bytes)) if row.up_bytes else "-"
        drawn.add_row(*cells, spread(row.summary, goal), runs, moved, "best" if row is best else "")
    console().print(whole(drawn))


def spread(summary: Summary, goal: Goal) -> str:
    """`84.2 % ± 1.1`: the mean, and the standard deviation over seeds in the same unit."""
    if summary.mean is None:
        return "-"
    mean = value(goal.metric, {goal.metric: summary.mean})
    if summary.spread is None:
        return mean
    unit = value(goal.metric, {goal.metric: summary.spread}).removesuffix(" %")
    return f"{mean} ± {unit}"
