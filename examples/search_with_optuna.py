"""A search by Optuna in place of a grid: `python examples/search_with_optuna.py job.yaml train.jsonl test.jsonl`.

It needs `pip install 'fedgalore[all,optuna]'`. Trials are judged by what `fedgalore simulate --sweep` compares settings
by; one that does worse than half of the others at its round is given up. They are kept in a file beside the job: the
same command goes on where it was. Change `choose` to what you want to search.
"""

import argparse
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from fedgalore import RoundRecord, Site, SplitFile, load_job, read_examples, simulate, split
from fedgalore.sweep import goal_of, measured, score, with_values


def choose(trial: optuna.Trial) -> list[tuple[str, float | int]]:
    """Fields of the job's document and their values in this trial."""
    return [
        ("method.rank", trial.suggest_categorical("method.rank", [2, 4, 8])),
        ("local.learning_rate", trial.suggest_float("local.learning_rate", 1e-4, 1e-1, log=True)),
    ]


parser = argparse.ArgumentParser(description="Search a job's fields with Optuna.")
parser.add_argument("job", type=Path)
parser.add_argument("train", type=Path, help="a table with the columns text and label")
parser.add_argument("test", type=Path, help="as the first, and at no site")
parser.add_argument("--clients", type=int, default=4)
parser.add_argument("--trials", type=int, default=20, help="in this call, beside those that the file has")
arguments = parser.parse_args()

job = load_job(arguments.job)
goal = goal_of([job])
train = read_examples(SplitFile(arguments.train, text=("text",), label="label"))
test = read_examples(SplitFile(arguments.test, text=("text",), label="label"))
labels = [example["label"] for example in train]
shards = split("dirichlet", labels, clients=arguments.clients, alpha=0.5, seed=0, min_examples=2)
sites = [Site(f"site-{number}", [train[index] for index in shard]) for number, shard in enumerate(shards, start=1)]


def judge(trial: optuna.Trial) -> float:
    spec = with_values(job, choose(trial))

    def on_round(record: RoundRecord) -> None:
        trial.report(record.held_out["test"].metrics[goal.metric], step=record.number)
        if trial.should_prune():
            raise optuna.TrialPruned

    result = simulate(spec, Path(spec.model.source), sites, on_round=on_round, held_out={"test": test})
    return score(goal, measured(spec, result))


study = optuna.create_study(
    storage=JournalStorage(JournalFileBackend(str(arguments.job.with_suffix(".optuna")))),
    study_name=job.name,
    direction="maximize" if goal.mode == "max" else "minimize",
    sampler=optuna.samplers.TPESampler(seed=job.seed),
    pruner=optuna.pruners.MedianPruner(),
    load_if_exists=True,
)
study.optimize(judge, n_trials=arguments.trials)
print(f"best of {len(study.trials)} trials: {goal.metric} {study.best_value:.4f} with {study.best_params}")
