"""Reading a site's files: every kind of file, every way they are wrong."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedgalore.data.examples import DataError, SplitFile, read_examples


def split(path: Path, content: str | bytes, **columns) -> SplitFile:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return SplitFile(path, **(columns or {"text": ("text",), "label": "label"}))


def jsonl(*records) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def test_jsonl_keeps_order_and_counts_blank_lines_in_row_numbers(tmp_path):
    content = '{"text": "a", "label": 1}\n\n{"text": "é", "label": "no", "more": 0}\n'
    assert read_examples(split(tmp_path / "a.jsonl", content)) == [
        {"row": 1, "text": "a", "text_pair": None, "label": 1},
        {"row": 3, "text": "é", "text_pair": None, "label": "no"},
    ]


def test_csv_with_quotes_line_breaks_byte_order_mark_and_long_fields(tmp_path):
    long = "x" * 200_000
    content = f'\ufefftext,label\n"a, ""b""\nc",2\n{long},name\n'
    first, second = read_examples(split(tmp_path / "a.csv", content))
    assert first == {"row": 2, "text": 'a, "b"\nc', "text_pair": None, "label": "2"}
    assert (second["row"], len(second["text"]), second["label"]) == (4, 200_000, "name")


def test_tsv_with_quotes_as_plain_characters_and_two_text_columns(tmp_path):
    content = 'premise\thypothesis\ty\n"so\tit goes\t-1\n'
    file = split(tmp_path / "a.tsv", content, text=("premise", "hypothesis"), label="y", quoting=False)
    assert read_examples(file) == [{"row": 2, "text": '"so', "text_pair": "it goes", "label": "-1"}]


def test_parquet_reads_named_columns(tmp_path):
    table = pa.table({"text": ["a", "b"], "label": pa.array([0.0, 3.0]), "more": [[1], [2]]})
    pq.write_table(table, tmp_path / "a.parquet")
    examples = read_examples(SplitFile(tmp_path / "a.parquet", text=("text",), label="label"))
    assert [(e["row"], e["text"], e["label"]) for e in examples] == [(1, "a", 0), (2, "b", 3)]


def test_language_model_examples(tmp_path):
    file = split(tmp_path / "a.jsonl", jsonl({"q": "1+1", "a": "2"}), prompt="q", completion="a")
    assert read_examples(file) == [{"row": 1, "prompt": "1+1", "completion": "2"}]


def test_columns_for_templates_are_texts_that_may_be_empty(tmp_path):
    columns = {"prompt": "q", "completion": "a", "for_templates": {"hint": "more", "year": "y"}}
    rows = jsonl({"q": "1+1", "a": "2", "more": None, "y": 1984.0}, {"q": "?", "a": "!", "more": "", "y": 0.5})
    first, second = read_examples(split(tmp_path / "a.jsonl", rows, **columns))
    assert first == {"row": 1, "prompt": "1+1", "completion": "2", "columns": {"hint": "", "year": "1984"}}
    assert second["columns"] == {"hint": "", "year": "0.5"}
    alone = split(tmp_path / "a.csv", "more,y\nx,1984\n", for_templates=columns["for_templates"])
    assert read_examples(alone) == [{"row": 2, "columns": {"hint": "x", "year": "1984"}}]


def test_words_and_their_tags(tmp_path):
    expected = [{"row": 1, "tokens": ["New", "", "York"], "tags": ["B", 0, "2"]}]
    columns = {"tokens": "words", "tags": "ner"}
    assert (
        read_examples(
            split(tmp_path / "a.jsonl", jsonl({"words": ["New", "", "York"], "ner": ["B", 0, "2"]}), **columns)
        )
        == expected
    )
    file = split(tmp_path / "a.csv", 'words,ner\n"[""New"", """", ""York""]","[""B"", 0, ""2""]"\n', **columns)
    assert read_examples(file) == [expected[0] | {"row": 2}]
    pq.write_table(pa.table({"words": [["New", "York"]], "ner": [[1, 2]]}), tmp_path / "a.parquet")
    assert read_examples(SplitFile(tmp_path / "a.parquet", **columns)) == [
        {"row": 1, "tokens": ["New", "York"], "tags": [1, 2]}
    ]


def test_conversations_keep_who_says_what(tmp_path):
    messages = [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}]
    more = [messages[0] | {"name": "x", "weight": None}, messages[1] | {"tool_calls": None, "weight": 1.0}]
    file = split(tmp_path / "a.jsonl", jsonl({"m": more}, {"m": json.dumps(messages)}), messages="m")
    assert read_examples(file) == [{"row": row, "messages": messages} for row in (1, 2)]


def test_an_answer_of_weight_0_is_known_as_such_and_may_be_empty(tmp_path):
    turns = [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "", "weight": 0}]
    (example,) = read_examples(split(tmp_path / "a.jsonl", jsonl({"m": turns}), messages="m"))
    assert example["messages"] == turns


@pytest.mark.parametrize("text", ["\u200b", "\ufeff \u200e", "\ufffd", "\u0301", "\u2028\x00"])
def test_a_text_in_which_nothing_can_be_read_is_empty(tmp_path, text):
    for held in ("👍🏽", "👩\u200d🚀", f"{text}.", "क्"):
        assert read_examples(split(tmp_path / "a.jsonl", jsonl({"t": held, "l": 1}), text=("t",), label="l"))
    with pytest.raises(DataError, match=r"row 1, column 't': nothing can be read in the text .*; fill it or remove"):
        read_examples(split(tmp_path / "a.jsonl", jsonl({"t": text, "l": 1}), text=("t",), label="l"))


@pytest.mark.parametrize(
    ("record", "columns", "words"),
    [
        (
            {"t": "New York", "g": [1, 2]},
            {"tokens": "t", "tags": "g"},
            "column 't': expected a list, found 'New York'; write",
        ),
        ({"t": [], "g": []}, {"tokens": "t", "tags": "g"}, "column 't': expected a list, found an empty one"),
        ({"t": ["a", 3], "g": [1, 2]}, {"tokens": "t", "tags": "g"}, "column 't': expected text, found 3"),
        ({"t": ["a"], "g": [None]}, {"tokens": "t", "tags": "g"}, "column 'g': label None is no number"),
        ({"m": True}, {"for_templates": {"x": "m"}}, "column 'm': expected text, found True; write it as text"),
        ({"m": ["a"]}, {"for_templates": {"x": "m"}}, "column 'm': expected text, found ['a']; write it as text"),
        ({"n": "a"}, {"for_templates": {"x": "m"}}, "column 'm': no such column"),
        ({"m": "hello"}, {"messages": "m"}, "column 'm': expected a list, found 'hello'"),
        ({"t": ["", "\u200b"], "g": [1, 2]}, {"tokens": "t", "tags": "g"}, "nothing can be read in the words ['', "),
        (
            {"m": [{"role": "user"}]},
            {"messages": "m"},
            "column 'm': message 1 has no role and content, but the keys 'role'; write it as {\"role\"",
        ),
        (
            {"m": [{"from": "human", "value": "hi"}]},
            {"messages": "m"},
            "message 1 has no role and content, but the keys 'from', 'value'; write it as",
        ),
        ({"m": [{"role": "user", "content": None}]}, {"messages": "m"}, "message 1: its content is None; write it as"),
    ],
)
def test_lists_that_cannot_be_used_are_named(tmp_path, record, columns, words):
    with pytest.raises(DataError) as caught:
        read_examples(split(tmp_path / "a.jsonl", jsonl(record), **columns))
    assert words in str(caught.value)
    assert "row 1" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", "", ["holds no examples"]),
        ("a.csv", "text,label\n", ["holds no examples"]),
        ("a.jsonl", b'{"text": "\xff", "label": 0}', ["not UTF-8", "save the file as UTF-8"]),
        ("a.jsonl", '{"text": "a", "label": 0}\n{"text": ', ["row 2", "not JSON"]),
        ("a.jsonl", "[" * 100_000, ["row 1", "not JSON"]),
        ("a.jsonl", '{"text": "a", "label": ' + "9" * 5000 + "}", ["row 1", "not JSON"]),
        ("a.jsonl", "[1]\n", ["row 1", "not a JSON object"]),
        ("a.jsonl", jsonl({"txt": "a", "label": 0}), ["column 'text'", "no such column", "'txt'"]),
        (
            "a.jsonl",
            jsonl({"text": "a", "label": 0}, {"text": " ", "label": 0}),
            ["row 2", "column 'text'", "empty text"],
        ),
        ("a.jsonl", jsonl({"text": 3, "label": 0}), ["column 'text'", "expected text, found 3"]),
        ("a.jsonl", '{"text": "\\ud83d", "label": 0}', ["row 1", "broken Unicode"]),
        ("a.jsonl", jsonl({"text": "a", "label": None}), ["row 1", "column 'label'", "label None is no number"]),
        ("a.jsonl", '{"text": "a", "label": NaN}', ["row 1", "label nan is no number"]),
        ("a.jsonl", jsonl({"text": "a", "label": {"id": 1}}), ["{'id': 1} is no number, name or list of them"]),
        ("a.jsonl", jsonl({"text": "a", "label": [1, None]}), ["[1, None] is no number"]),
        ("a.csv", "text,label\na,0\nb,c,1\n", ["row 3", "3 fields under a header of 2"]),
        ("a.csv", 'text,label\n"a,0\n', ["row 2", "damaged", "quoting: false"]),
        ("a.csv", "text,text,label\na,b,0\n", ["column 'text'", "more than once"]),
        ("a.tsv", "a,0\n", ["no such column", "'a,0'"]),
        ("a.parquet", "PAR1 not really", ["no Parquet file, or damaged"]),
        ("a.xlsx", "", ["unknown kind of file '.xlsx'", ".jsonl"]),
    ],
)
def test_bad_files_are_named_with_place_and_remedy(tmp_path, name, content, words):
    with pytest.raises(DataError) as caught:
        read_examples(split(tmp_path / name, content))
    for word in [name, *words]:
        assert word in str(caught.value)


def test_parquet_without_the_column(tmp_path):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="column 'label': no such column"):
        read_examples(SplitFile(tmp_path / "a.parquet", text=("text",), label="label"))


@pytest.mark.parametrize("columns", [{"text": ("text",), "label": "label"}, {}], ids=["table", "folder"])
def test_missing_file(tmp_path, columns):
    with pytest.raises(DataError, match="No such file .*name a file, or a folder of tables or images"):
        read_examples(SplitFile(tmp_path / "a.jsonl", **columns))


def test_a_domain_comes_along_as_it_stands(tmp_path):
    content = jsonl({"text": "a", "label": 1, "from": "film"}, {"text": "b", "label": 0, "from": 7})
    columns = {"text": ("text",), "label": "label", "domain": "from"}
    examples = read_examples(split(tmp_path / "a.jsonl", content, **columns))
    assert [example["domain"] for example in examples] == ["film", 7]
    pq.write_table(pa.table({"p": ["a"], "c": ["b"]}), tmp_path / "a.parquet")
    (same,) = read_examples(SplitFile(tmp_path / "a.parquet", prompt="p", completion="c", domain="c"))
    assert same == {"row": 1, "prompt": "a", "completion": "b", "domain": "b"}


@pytest.mark.parametrize("value", [None, "", " ", True, 1.5, ["a"]])
def test_what_is_no_domain_is_refused(value, tmp_path):
    file = split(tmp_path / "a.jsonl", jsonl({"text": "a", "label": 1, "from": value}))
    with pytest.raises(DataError, match="row 1, column 'from': domain .* is neither a name nor an integer; fill it"):
        read_examples(replace(file, domain="from"))
    with pytest.raises(DataError, match="column 'where': no such column"):
        read_examples(replace(file, domain="where"))


@pytest.mark.parametrize(
    "columns",
    [
        {"text": ("a",)},
        {"label": "y"},
        {"image": "i"},
        {"image": "i", "text": ("a",), "label": "y"},
        {"text": ("a", "b", "c"), "label": "y"},
        {"prompt": "a"},
        {"tokens": "a"},
        {"tokens": "a", "label": "y"},
        {"messages": "m", "prompt": "p", "completion": "c"},
        {"text": ("a",), "label": "y", "prompt": "p", "completion": "c"},
    ],
)
def test_columns_must_make_examples(columns):
    with pytest.raises(DataError, match="text .* and label, image and .*, messages, or columns"):
        SplitFile(Path("a.jsonl"), **columns)
