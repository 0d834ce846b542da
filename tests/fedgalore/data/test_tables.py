"""Tables of every kind: the same examples from each; where they are damaged, packed, or of other encodings."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedgalore.data.errors import DataError
from fedgalore.data.examples import SplitFile, read_examples
from fedgalore.data.labels import classes_of, label_index
from tests.fedgalore.conftest import classifier

ROWS = [{"text": "a, b", "label": "no"}, {"text": 'é\n"c"', "label": "yes"}, {"text": "d", "label": "no"}]
TEXT = {"text": ("text",), "label": "label"}


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def delimited(path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writerows([["text", "label"], *[row.values() for row in ROWS]])


def arrow(path: Path, table: pa.Table, kind: Any = pa.ipc.new_stream) -> None:
    with kind(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def table() -> pa.Table:
    return pa.table({key: [row[key] for row in ROWS] for key in ("text", "label")})


def refused(path: Path, **columns: Any) -> str:
    with pytest.raises(DataError) as caught:
        read_examples(SplitFile(path, **(columns or TEXT)))
    return str(caught.value)


# --- every kind ----------------------------------------------------------------------------------------------


def test_every_kind_of_file_gives_the_same_examples(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(lines(ROWS))
    (tmp_path / "a.ndjson").write_text(lines(ROWS).replace("\n", "\r\n\r\n"))
    (tmp_path / "list.json").write_text(json.dumps(ROWS))
    (tmp_path / "indented.json").write_text(json.dumps(ROWS, indent=2), encoding="utf-8-sig")
    (tmp_path / "data.json").write_text(json.dumps({"version": [1.5], "data": ROWS, "more": {}}))
    (tmp_path / "lines.json").write_text(lines(ROWS))
    delimited(tmp_path / "a.csv")
    delimited(tmp_path / "a.tsv")
    for path in list(tmp_path.iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    pq.write_table(table(), tmp_path / "a.parquet")
    arrow(tmp_path / "stream.arrow", table())
    arrow(tmp_path / "file.arrow", table(), pa.ipc.new_file)
    for path in sorted(tmp_path.iterdir()):
        examples = read_examples(SplitFile(path, **TEXT))
        assert [{key: example[key] for key in ROWS[0]} for example in examples] == ROWS, path
        rows = [2, 3, 5] if "sv" in path.name else [1, 3, 5] if "ndjson" in path.name else [1, 2, 3]
        assert [example["row"] for example in examples] == rows, path


def test_a_folder_of_shards_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    for number, row in enumerate(ROWS):
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / f"train-{number:05}-of-00003.parquet")
    for litter in ("_SUCCESS", ".crc", "Thumbs.db"):
        (tmp_path / litter).write_text("")
    examples = read_examples(SplitFile(tmp_path, **TEXT))
    assert [example["text"] for example in examples] == [row["text"] for row in ROWS]
    assert examples[1]["row"] == "train-00001-of-00003.parquet:1"
    pq.write_table(pa.table({"text": ["a"], "label": ["b"]}), tmp_path / "train-00002.PARQUET")
    assert len(read_examples(SplitFile(tmp_path, **TEXT))) == 1 + len(ROWS)
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "train-00003.parquet")
    assert "train-00003.parquet, column 'label': no such column" in refused(tmp_path)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a.csv", "a.jsonl"], "is a folder of 'a.csv', 'a.jsonl'; name a table, or a folder that holds files of one"),
        (["a.csv", "more/b.csv"], "is a folder of 'a.csv', 'more'"),
        (["a.xlsx"], "unknown kind of file '.xlsx'"),
        (["train-0.csv", "test-0.csv"], "holds files of test and train; move each split into its own folder"),
        ([], "is a folder of nothing"),
    ],
)
def test_a_folder_of_anything_else_is_refused(tmp_path: Path, names: list[str], words: str) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text,label\na,0\n")
    assert words in refused(tmp_path)


# --- folders of `datasets` -----------------------------------------------------------------------------------


def saved(folder: Path, numbers: list[int], names: list[str] | None, where: str = "info") -> Path:
    """What `Dataset.save_to_disk` writes of texts with a column of class numbers."""
    folder.mkdir(parents=True)
    label = {"names": names, "_type": "ClassLabel"} if names else {"dtype": "int64", "_type": "Value"}
    features = {"text": {"dtype": "string", "_type": "Value"}, "label": label}
    shards = [f"data-{number:05}-of-00002.arrow" for number in range(2)]
    for number, name in enumerate(shards):
        part = numbers[number * 2 : number * 2 + 2]
        of_part = pa.table({"text": ["x"] * len(part), "label": pa.array(part, pa.int64())})
        if where == "schema":
            of_part = of_part.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        arrow(folder / name, of_part)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in shards]}))
    info = {"features": features} if where == "info" else {}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


@pytest.mark.parametrize("where", ["info", "schema"])
def test_a_saved_data_set_s_names_say_what_its_numbers_mean(tmp_path: Path, where: str) -> None:
    folder = saved(tmp_path / "train", [0, 1, 2, 0], ["pos", "neg", "mixed"], where)
    examples = read_examples(SplitFile(folder, **TEXT))
    assert [(e["row"], e["label"], e["label_names"][e["label"]]) for e in examples][2] == (3, 2, "mixed")
    named = classifier(model={"num_labels": None, "label_names": ["neg", "pos", "mixed"]})
    assert [label_index(example, classes_of(named)) for example in examples] == [1, 0, 2, 1]
    assert [label_index(example, classes_of(classifier())) for example in examples] == [0, 1, 2, 0]


def test_numbers_without_names_are_numbers(tmp_path: Path) -> None:
    examples = read_examples(SplitFile(saved(tmp_path / "train", [2, 0, 1], None), **TEXT))
    assert [label_index(example, classes_of(classifier())) for example in examples] == [2, 0, 1]
    no_names: Any = "pos neg"
    again = read_examples(SplitFile(saved(tmp_path / "again", [2, 0, 1], no_names), **TEXT))
    assert "label_names" not in examples[0] and "label_names" not in again[0]


def test_rows_without_a_class_are_refused(tmp_path: Path) -> None:
    message = refused(saved(tmp_path / "train", [0, 1, -1], ["pos", "neg"]))
    assert "row 3, column 'label': -1 is none of the data set's 2 classes; label it or remove the row" in message


def test_shards_whose_names_differ_are_refused(tmp_path: Path) -> None:
    for number, names in enumerate((["pos", "neg"], ["neg", "pos"])):
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        shard = pa.table({"text": ["a"], "label": [0]}).replace_schema_metadata(metadata)
        pq.write_table(shard, tmp_path / f"{number}.parquet")
    assert "1.parquet: names its classes otherwise than 0.parquet; write the folder again" in refused(tmp_path)


def test_names_of_tags_and_in_parquet(tmp_path: Path) -> None:
    for feature in (
        {"feature": {"names": ["O", "B"], "_type": "ClassLabel"}, "_type": "Sequence"},
        [{"names": ["O", "B"], "_type": "ClassLabel"}],
    ):
        metadata = {"huggingface": json.dumps({"info": {"features": {"ner": feature}}})}
        words = pa.table({"words": [["Ada", "is"]], "ner": [[1, 0]]}).replace_schema_metadata(metadata)
        pq.write_table(words, tmp_path / "a.parquet")
        (example,) = read_examples(SplitFile(tmp_path / "a.parquet", tokens="words", tags="ner"))
        assert example == {"row": 1, "tokens": ["Ada", "is"], "tags": [1, 0], "tag_names": ("O", "B")}


def test_folders_that_are_no_single_split_are_refused(tmp_path: Path) -> None:
    saved(tmp_path / "train", [0], None)
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    words = f"holds splits in sub-folders: train; name one of them, such as {tmp_path / 'train'}"
    assert words in refused(tmp_path)
    assert "test: cannot be read (No such file or directory)" in refused(tmp_path / "test")
    state = tmp_path / "train" / "state.json"
    for document, problem in (
        ({"_data_files": [{"filename": "../a.arrow"}]}, "names no files of the folder"),
        ({"_data_files": []}, "names no files of the folder"),
        ({"_data_files": [{"filename": "gone.arrow"}]}, "cannot be read"),
        ({"_indices_data_files": [{"filename": "i.arrow"}]}, "save it by flatten_indices()"),
    ):
        state.write_text(json.dumps(document))
        assert problem in refused(tmp_path / "train")
    state.write_text("{")
    assert "state.json: not JSON" in refused(tmp_path / "train")


# --- encodings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.csv.gz"])
@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        ("utf-16", 'UTF-16, not UTF-8; save the file as UTF-8; Excel calls it "CSV UTF-8"'),
        ("utf-32", "UTF-32, not UTF-8"),
        ("latin-1", "not UTF-8 (byte 0xe9 at place "),
    ],
)
def test_other_encodings_are_named(tmp_path: Path, name: str, encoding: str, words: str) -> None:
    rows = [{"text": "plain", "label": 0}, {"text": "café", "label": 1}]
    text = json.dumps(rows, ensure_ascii=False) if ".json" in name else "text,label\nplain,0\ncafé,1\n"
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows) if "jsonl" in name else text
    data = text.encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    message = refused(tmp_path / name)
    assert words in message
    if encoding == "latin-1" and name != "a.json":
        assert f"row {2 if 'jsonl' in name else 3}" in message


def test_utf_16_without_a_mark_is_known_by_its_zeros(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("text,label\na,0\n".encode("utf-16-le"))
    assert "row 1: holds a NUL byte, as UTF-16 does; save the file as UTF-8" in refused(tmp_path / "a.csv")
    (tmp_path / "a.json").write_bytes('[{"text": "a", "label": 0}]'.encode("utf-16-le"))
    assert "a.json: holds a NUL byte, as UTF-16 does; save the file as UTF-8" in refused(tmp_path / "a.json")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_lines_may_end_in_every_way(tmp_path: Path, end: str, mark: str) -> None:
    content = mark + end.join(["", "text,label", '"a', 'b",0', "", "c,1"]) + end
    (tmp_path / "a.csv").write_bytes(content.encode())
    first, second = read_examples(SplitFile(tmp_path / "a.csv", **TEXT))
    assert (first["row"], first["text"], second["row"], second["text"]) == (3, f"a{end}b", 6, "c")


def test_other_dividers_are_named(tmp_path: Path) -> None:
    for divider in (";", "\t"):
        (tmp_path / "a.csv").write_text(f"text{divider}label\na{divider}0\n")
        words = f"which {divider!r} divides; save it with commas, or with tabs as .tsv"
        assert words in refused(tmp_path / "a.csv")


# --- what is damaged -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", '[{"text": "a", "label": 0}, {"text": ', "row 2: not JSON"),
        ("a.json", '[{"text": "a", "label": 0}', "row 2: not JSON (',' is missing)"),
        ("a.json", '[{"text": "a", "label": 0}] []', "more text after the end"),
        ("a.json", '{"data": [{"text": "a", "label": 0}]', "not JSON (',' is missing)"),
        ("a.json", "[1]", "row 1: not a JSON object; a .json file holds a list of objects"),
        ("a.json", "text", "row 1: not JSON ('{' is missing)"),
        ("a.json", "", "row 1: not JSON"),
        ("a.json", "[]", "holds no examples"),
        ("a.json", '{"text": {"0": "a"}, "label": {"0": 1}}', "row 1, column 'text': expected text, found {'0': 'a'}"),
        ("a.json", '[{"txt": "a"}]', "row 1, column 'text': no such column; the file has 'txt'"),
        ("a.json", "[" * 100_000, "not JSON"),
        ("a.json", '[{"text": "a", "label": 0, "text": "b"}]', "row 1: not JSON (the key 'text' stands twice in an"),
        ("a.json", '{"text": "a", "label": 0, "text": "b"}', "row 1: not JSON (the key 'text' stands twice in an"),
        ("a.json", '{"data": [{"text": "a", "label": 0}], "data": []}', "the key 'data' stands twice in an object"),
        ("a.jsonl", '{"text": "a", "label": 0, "label": 1}', "row 1: not JSON (the key 'label' stands twice in an"),
        (
            "a.csv",
            "Text, label\na,0\n",
            "no such column; the file has 'Text', ' label'; name the right one, as it stands",
        ),
        ("a.csv.gz", b"text,label\na,0\n", "no gzip file, or damaged"),
        ("a.csv.gz", gzip.compress(b"text,label\na,0\n" * 9, mtime=0)[:-9], "no gzip file, or damaged"),
        ("a.parquet.gz", b"", "unknown kind of file '.parquet.gz'"),
        ("a.gz", b"", "unknown kind of file '.gz'"),
        ("a.zip", b"PK", "unknown kind of file '.zip'; use one of .jsonl, .ndjson, .json, .csv, .tsv (each also with"),
        ("a.arrow", b"ARROW1 not really", "no Arrow file, or damaged"),
        ("a.arrow", b"", "no Arrow file, or damaged"),
    ],
)
def test_what_is_damaged_is_refused_with_its_place(tmp_path: Path, name: str, content: Any, words: str) -> None:
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    assert words in refused(tmp_path / name)


def test_json_is_read_across_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedgalore.data.lines._PIECE", 3)
    rows = [{"text": "é" * 9, "label": 1234567}, {"text": "b", "label": -0.5}]
    for document in (rows, {"a": 12345, "data": rows, "z": "zzzzz"}):
        (tmp_path / "a.json").write_text(json.dumps(document, ensure_ascii=False, indent=3))
        examples = read_examples(SplitFile(tmp_path / "a.json", **TEXT))
        assert [{key: example[key] for key in rows[0]} for example in examples] == rows
    (tmp_path / "b.json").write_bytes(b'[{"text": "abcdef\xe9", "label": 0}]')
    assert "not UTF-8 (byte 0xe9 at place 18 of the file)" in refused(tmp_path / "b.json")


def test_what_unpacks_without_end_or_is_one_endless_line_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedgalore.data.lines._UNPACKED", 2**16)
    (tmp_path / "bomb.csv.gz").write_bytes(gzip.compress(b"text,label\n" + b"a,0\n" * 40_000))
    assert "unpacks to more than 200 times its size; unpack it, and look at it" in refused(tmp_path / "bomb.csv.gz")
    for module in ("lines", "tables", "json_records"):
        monkeypatch.setattr(f"fedgalore.data.{module}.LONGEST", 2**16)
    (tmp_path / "long.jsonl").write_text('{"text": "a", "label": 0}\n{"text": "' + "a" * 2**17)
    assert "row 2: a line of more than 0 MiB; shorten it" in refused(tmp_path / "long.jsonl")
    (tmp_path / "long.csv").write_text('text,label\n"' + "a\n" * 2**16)
    assert "row 2: damaged (field larger than field limit" in refused(tmp_path / "long.csv")


@pytest.mark.parametrize(
    "records",
    [
        [{"data": ["x"], "text": "a", "label": 0}, {"data": [], "text": "b", "label": 1}],
        [{"text": "a", "label": 0, "data": [{"x": 1}]}, {"text": "b", "label": 1, "data": [[]]}],
        [{"text": "a", "label": 0, "data": {"text": "c"}}, {"text": "b", "label": 1}],
    ],
)
def test_a_column_may_be_called_data(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    for document in (lines(records), json.dumps(records), json.dumps({"data": records})):
        (tmp_path / "a.json").write_text(document)
        examples = read_examples(SplitFile(tmp_path / "a.json", **TEXT))
        assert [(e["row"], e["text"], e["label"]) for e in examples] == [(1, "a", 0), (2, "b", 1)]


def test_a_column_of_lists_may_be_called_data(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    for records, columns in (
        ([{"data": ["x", "y"], "ner": [0, 1]}, {"data": ["z"], "ner": [0]}], {"tokens": "data", "tags": "ner"}),
        ([{"data": talk}, {"data": talk}], {"messages": "data"}),
    ):
        for document in (lines(records), json.dumps(records), json.dumps({"data": records})):
            (tmp_path / "a.json").write_text(document)
            assert len(read_examples(SplitFile(tmp_path / "a.json", **columns))) == 2


def test_a_list_that_is_one_value_is_not_read_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedgalore.data.lines._PIECE", 2**8)
    monkeypatch.setattr("fedgalore.data.json_records.LONGEST", 2**10)
    (tmp_path / "a.json").write_text('{"columns": ["text"], "data": [' + '["a"], ' * 2**10 + "[]]}")
    assert "row 1: not JSON (a value of more than 0 MiB)" in refused(tmp_path / "a.json")


# --- shapes of columns ---------------------------------------------------------------------------------------


def test_words_conversations_and_many_labels_are_lists_or_their_json_text(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    row = {"words": ["Ada", "is"], "ner": ["B-PER", 0], "chat": chat, "text": "a", "label": ["x", 2, 0.5]}
    (tmp_path / "a.jsonl").write_text(lines([row]))
    with (tmp_path / "a.csv").open("w", newline="") as file:
        cells = [value if isinstance(value, str) else json.dumps(value) for value in row.values()]
        csv.writer(file).writerows([list(row), cells])
    for path in sorted(tmp_path.iterdir()):
        (words,) = read_examples(SplitFile(path, tokens="words", tags="ner"))
        assert (words["tokens"], words["tags"]) == (["Ada", "is"], ["B-PER", 0])
        (turns,) = read_examples(SplitFile(path, messages="chat"))
        assert turns["messages"] == chat
    (many,) = read_examples(SplitFile(tmp_path / "a.jsonl", **TEXT))
    assert many["label"] == ["x", 2, 0.5]
    extra = [{"role": "user", "content": "Hi", "name": None}]
    pq.write_table(pa.table({"chat": [extra]}), tmp_path / "a.parquet")
    assert read_examples(SplitFile(tmp_path / "a.parquet", messages="chat"))[0]["messages"] == chat[:1]
