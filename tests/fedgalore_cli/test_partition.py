"""`fedgalore partition`: every kind of split, who holds what as a table and as a picture, and each refusal."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner, Result

from client_agent.data import read_all
from client_agent.settings import load
from fedgalore_cli.main import app

DOMAINS = ("film", "news", "shop")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """120 texts of 4 classes and, apart from that, 3 domains."""
    rows = [
        {
            "text": f"text {i}",
            "label": f"[b{i % 4}]",
            "from": DOMAINS[i % 3],
            "question": f"q{i}",
            "parts": [str(i % 4), "a"],
            "share": str(i / 2),
            "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        }
        for i in range(120)
    ]
    path = tmp_path / "all.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def partition(table: Path, *options: str | Path) -> Result:
    """Into the folder `sites` beside the table."""
    arguments = ["partition", "--train", table, "--name", "texts", "--to", table.parent / "sites", *options]
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def shards(table: Path) -> dict[str, list[dict[str, Any]]]:
    """What each client's agent reads by its own config."""
    read = {}
    for config in sorted((table.parent / "sites").glob("*/agent.yaml")):
        settings = load(config)
        read[settings.name] = read_all(settings.data)["texts"].train.examples
    return read


def test_classes_are_skewed_by_default(table: Path) -> None:
    done = partition(table, "--clients", "3", "--alpha", "0.2", "--test", table)
    assert done.exit_code == 0, done.stderr
    held = shards(table)
    assert list(held) == ["client-1", "client-2", "client-3"]
    texts = [example["text"] for examples in held.values() for example in examples]
    assert sorted(texts) == sorted(f"text {i}" for i in range(120))
    assert len({tuple(sorted(Counter(e["label"] for e in examples).items())) for examples in held.values()}) == 3
    header, *rows, last = done.stdout.splitlines()
    assert header.split() == ["client", "examples", "classes", "largest", "class", "share"]
    for row, (name, examples) in zip(rows, held.items(), strict=True):
        classes = Counter(example["label"] for example in examples)
        (largest, count), *_ = classes.most_common()
        shown = row.split()
        assert shown[:3] == [name, str(len(examples)), str(len(classes))]
        assert classes[shown[3]] == count, (shown, largest)
        assert shown[4:] == [f"{100 * count / len(examples):.1f}", "%"]
    assert last.endswith("sites/*/agent.yaml")
    config = yaml.safe_load((table.parent / "sites" / "client-1" / "agent.yaml").read_text())
    assert config["data"] == {"texts": {"train": "train.jsonl", "test": "test.jsonl", "label": "label", "text": "text"}}
    assert len((table.parent / "sites" / "client-1" / "test.jsonl").read_text().splitlines()) == 120


def test_alike_shards_hang_on_the_seed(table: Path) -> None:
    assert partition(table, "--split", "iid", "--clients", "7").exit_code == 0
    first = shards(table)
    assert sorted(map(len, first.values())) == [17] * 6 + [18]
    again = CliRunner().invoke(
        app,
        ["partition", "--train", str(table), "--name", "texts", "--to", str(table.parent / "b" / "sites")]
        + ["--split", "iid", "--clients", "7", "--split-seed", "1"],
    )
    assert again.exit_code == 0
    assert shards(table.parent / "b" / "all.jsonl") != first


def test_sizes_are_skewed_and_keep_the_least(table: Path) -> None:
    done = partition(table, "--split", "quantity", "--clients", "5", "--alpha", "0.1", "--least", "10")
    assert done.exit_code == 0, done.stderr
    sizes = sorted(map(len, shards(table).values()))
    assert sizes[0] >= 10
    assert sizes[-1] > 40


def test_each_client_has_a_single_domain(table: Path) -> None:
    done = partition(table, "--split", "domain", "--domain", "from", "--clients", "6")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[0].split() == ["client", "examples", "domains", "largest", "domain", "share"]
    assert done.stdout.splitlines()[2].split() == ["client-2", "20", "1", "news", "100.0", "%"]
    numbers = {name: {int(e["text"].split()[1]) % 3 for e in examples} for name, examples in shards(table).items()}
    assert list(numbers.values()) == [{0}, {1}, {2}] * 2


def test_each_client_is_tested_on_its_own_domain(table: Path) -> None:
    test = table.parent / "test.csv"
    test.write_text(
        "text,label,from\n" + "".join(f"t{i},[b{i % 4}],{' ' * (i % 2)}{DOMAINS[i % 3]}\n" for i in range(9))
    )
    done = partition(table, "--split", "domain", "--domain", "from", "--clients", "4", "--test", test)
    assert done.exit_code == 0, done.stderr
    tests = {}
    for config in sorted((table.parent / "sites").glob("*/agent.yaml")):
        settings = load(config)
        held = read_all(settings.data)["texts"].test
        assert held is not None
        tests[settings.name] = [example["text"] for example in held.examples]
    film, news, shop = ["t0", "t3", "t6"], ["t1", "t4", "t7"], ["t2", "t5", "t8"]
    assert list(tests.values()) == [film, news, shop, film]


@pytest.mark.parametrize(
    ("domains", "problem"),
    [
        (("film", "news"), "--test: domain 'shop' has no test examples; add some, or leave --test out"),
        ((*DOMAINS, "bank"), "--test: domain 'bank' has test examples and no training examples; leave them out"),
    ],
)
def test_domains_that_differ_between_training_and_test_are_refused(
    table: Path, domains: tuple[str, ...], problem: str
) -> None:
    test = table.parent / "test.csv"
    test.write_text("text,label,from\n" + "".join(f"t,[b0],{domain}\n" for domain in domains))
    refused = partition(table, "--split", "domain", "--domain", "from", "--clients", "3", "--test", test)
    assert (refused.exit_code, refused.stderr) == (1, f"error: {problem}\n")


def test_words_and_their_tags_and_conversations_are_split(table: Path) -> None:
    rows = [
        {"words": ["Ada", str(i)], "ner": ["B-PER", "O"], "chat": [{"role": "user", "content": str(i)}]}
        for i in range(8)
    ]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert partition(table, "--tokens", "words", "--tags", "ner", "--split", "iid", "--clients", "2").exit_code == 0
    first = shards(table)["client-1"][0]
    assert (first["tokens"][0], first["tags"]) == ("Ada", ["B-PER", "O"])
    again = ["partition", "--train", table, "--name", "texts", "--to", table.parent / "chats", "--messages", "chat"]
    assert CliRunner().invoke(app, [*map(str, again), "--clients", "2"]).exit_code == 0
    config = yaml.safe_load((table.parent / "chats" / "client-1" / "agent.yaml").read_text())
    assert config["data"]["texts"] == {"train": "train.jsonl", "messages": "messages"}


def test_shards_keep_what_templates_name(table: Path) -> None:
    done = partition(table, "--column", "question", "--column", "text=text", "--clients", "2")
    assert done.exit_code == 0, done.stderr
    settings = load(table.parent / "sites" / "client-1" / "agent.yaml")
    first = read_all(settings.data)["texts"].train.examples[0]["columns"]
    assert first.keys() == {"question", "text"}
    assert first["text"].startswith("text ")


def test_numbers_that_a_data_set_has_names_for_are_written_as_these(table: Path) -> None:
    features = {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    path = table.with_suffix(".parquet")
    pq.write_table(pa.table({"text": ["a", "b"] * 4, "label": [0, 1] * 4}).replace_schema_metadata(metadata), path)
    done = CliRunner().invoke(
        app,
        ["partition", "--train", str(path), "--name", "texts", "--to", str(table.parent / "sites"), "--clients", "2"],
    )
    assert done.exit_code == 0, done.stderr
    held = [(e["text"], e["label"]) for examples in shards(table).values() for e in examples]
    assert Counter(held) == {("a", "no"): 4, ("b", "yes"): 4}


def test_a_class_is_the_same_however_it_is_written(table: Path) -> None:
    labels = [1, "1", 1.0, "1.0", "cafe\u0301", "caf\u00e9", True, "TRUE"] * 5
    table.write_text("".join(json.dumps({"text": f"t{i}", "label": label}) + "\n" for i, label in enumerate(labels)))
    done = partition(table, "--clients", "1")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[1].split() == ["client-1", "40", "3", "1", "50.0", "%"]


def test_the_text_of_a_list_is_no_class(table: Path) -> None:
    path = table.with_suffix(".csv")
    path.write_text("text,label\n" + "".join(f'a,"[""c{i % 3}""]"\n' for i in range(12)))
    refused = partition(path)
    assert refused.exit_code == 1
    assert f"label '[\"c0\"]' of row 2 of {path} is no single class; take quantity, iid or domain" in refused.stderr
    done = partition(path, "--split", "iid")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[0].split() == ["client", "examples"]


def test_prompts_differ_in_number(table: Path) -> None:
    prompts = ("--prompt", "question", "--completion", "text")
    done = partition(table, *prompts, "--clients", "3", "--picture", table.parent / "sizes.png")
    assert done.exit_code == 0, done.stderr
    sizes = [len(examples) for examples in shards(table).values()]
    assert len(set(sizes)) == 3
    assert [line.split() for line in done.stdout.splitlines()[:-1]] == [
        ["client", "examples"],
        *([f"client-{number}", str(size)] for number, size in enumerate(sizes, 1)),
    ]
    assert (table.parent / "sizes.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("columns", "example"),
    [
        (("--tokens", "parts", "--tags", "parts"), {"tokens": ["0", "a"], "tags": ["0", "a"]}),
        (
            ("--messages", "messages"),
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        ),
        (("--label", "parts", "--split", "iid"), {"text": "text 0", "text_pair": None, "label": ["0", "a"]}),
    ],
)
def test_what_has_no_single_class_is_split_by_number(table: Path, columns: tuple[str, ...], example: Any) -> None:
    done = partition(table, *columns)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[0].split() == ["client", "examples"]
    examples = [{k: v for k, v in e.items() if k != "row"} for held in shards(table).values() for e in held]
    assert len(examples) == 120
    assert example in examples


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "title"),
    [
        (["--alpha", "0.5"], "all.jsonl over 4 clients: dirichlet split, alpha 0.5, seed 0"),
        (["--split", "quantity", "--split-seed", "3"], "all.jsonl over 4 clients: quantity split, alpha 0.1, seed 3"),
        (["--split", "domain", "--domain", "from"], "all.jsonl over 4 clients: domain split, seed 0"),
    ],
)
def test_the_picture_names_the_split(table: Path, options: list[str], title: str) -> None:
    path = table.parent / "sites" / "picture.svg"  # between the shards
    done = partition(table, *options, "--picture", path)
    assert done.exit_code == 0, done.stderr
    drawn = path.read_text()
    assert title in drawn.replace("\n", " ")  # SVG keeps its texts in comments
    assert "<!-- client-4 -->" in drawn
    assert ("<!-- news -->" in drawn) == ("domain" in options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--split", "iid", "--alpha", "1"], "--alpha: --split iid has no skew; leave --alpha out"),
        (["--split", "domain", "--domain", "from", "--alpha", "1"], "--alpha: --split domain has no skew"),
        (["--alpha", "0"], "--alpha: 0 is not a number above 0"),
        (["--alpha", "nan"], "--alpha: nan is not a number above 0"),
        (["--split", "domain"], "--domain: --split domain needs a column; name the column"),
        (["--domain", "from"], "--domain: only --split domain looks at it; add --split domain or leave"),
        (
            ["--split", "domain", "--domain", "form"],
            "column 'form': no such column; the file has 'text', 'label', 'fro",
        ),
        (
            ["--split", "domain", "--domain", "from", "--clients", "2"],
            "--clients 2: 3 domains need at least as many clients, not 2; take more",
        ),
        (["--split", "iid", "--clients", "121"], "--clients 121: 120 examples are too few"),
        (["--least", "31"], "--clients 4 with --least 31: 120 examples are too few"),
        (["--alpha", "0.01", "--clients", "40"], "--clients 40: no Dirichlet(0.01) split gave each"),
        (
            ["--split", "dirichlet", "--prompt", "question", "--completion", "text"],
            "--split: dirichlet skews classes, and these examples have none; take quantity, iid or domain",
        ),
        (["--label", "parts"], "--split: dirichlet skews classes, and label ['0', 'a'] of row 1 of "),
        (["--label", "share"], "label '0.5' of row 2 of "),
        (
            ["--prompt", "question"],
            "image and label, tokens and tags, prompt and completion, messages, or columns",
        ),
        (["--prompt", "question", "--completion", "text", "--text", "text"], "columns do not make examples"),
        (["--column", "a b"], "--column: 'a b' is no name for a template; take letters, digits, - and _"),
        (["--picture", "a.gif"], "--picture: a.gif ends in none of .png, .svg, .pdf"),
        (["--picture", "/dev/null/a.png"], "--picture: /dev/null/a.png cannot be written"),
        (["--test", "nowhere.jsonl"], "nowhere.jsonl: cannot be read"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_a_single_line_and_nothing_is_written(
    table: Path, options: list[str], problem: str
) -> None:
    refused = partition(table, *options)
    assert refused.exit_code == 1
    assert refused.stderr.startswith("error: ")
    assert problem in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert list(table.parent.iterdir()) == [table]


def test_a_folder_that_exists_is_left_alone(table: Path) -> None:
    (table.parent / "sites").mkdir()
    refused = partition(table)
    assert refused.exit_code == 1
    assert "sites exists; name a new folder" in refused.stderr
    assert list((table.parent / "sites").iterdir()) == []
    assert partition(table, "--split", "sorted").exit_code == 2
    assert partition(table, "--least", "0").exit_code == 2
