"""Agent settings: sources in order, paths from the config's folder, every mistake named."""

from pathlib import Path

import pytest
import yaml
from PIL import Image

from client_agent.data import read_all
from client_agent.settings import load
from fedgalore.data.examples import DataError
from fedgalore.process.settings import SettingsError

GOOD = {
    "name": "hospital-a",
    "work_dir": "./work",
    "data": {"intents": {"train": "train.jsonl", "test": "sub/test.jsonl", "text": "text", "label": "label"}},
}


def write(folder: Path, **changes) -> Path:
    path = folder / "agent.yaml"
    path.write_text(yaml.safe_dump({**GOOD, **changes}))
    return path


def test_paths_are_relative_to_the_config_file(tmp_path):
    (tmp_path / "model").mkdir()
    settings = load(write(tmp_path, models=["model"]))
    assert settings.work_dir == tmp_path / "work"
    assert settings.models == (tmp_path / "model",)
    assert settings.data["intents"].train == tmp_path / "train.jsonl"
    assert settings.data["intents"].test == tmp_path / "sub" / "test.jsonl"
    assert settings.data["intents"].text == ("text",)
    assert (settings.coordinator, settings.device, settings.threads) == ("127.0.0.1:50051", "auto", "auto")


def test_paths_of_flags_and_variables_are_seen_from_where_the_agent_is_started(tmp_path, monkeypatch):
    (tmp_path / "here" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("FEDGALORE_AGENT_JOIN_TOKEN_FILE", "site.token")
    monkeypatch.setenv("FEDGALORE_AGENT_TLS_KEY", "~/site.key")
    monkeypatch.setenv("FEDGALORE_AGENT_MODELS", '["model"]')
    settings = load(write(tmp_path, tls_cert="site.pem", ca="other.pem"), {"ca": Path("ca.pem"), "work_dir": None})
    here = tmp_path / "here"
    assert (settings.join_token_file, settings.ca, settings.models) == (
        here / "site.token",
        here / "ca.pem",
        (here / "model",),
    )
    assert (settings.tls_cert, settings.tls_key) == (tmp_path / "site.pem", Path.home() / "site.key")
    monkeypatch.setenv("FEDGALORE_AGENT_DATA", '{"qa": {"train": "a.csv", "prompt": "q", "completion": "a"}}')
    assert load(write(tmp_path)).data["qa"].train == here / "a.csv"


def test_flags_come_before_the_environment_before_the_file(tmp_path, monkeypatch):
    config = write(tmp_path, coordinator="file:1", threads=1)
    monkeypatch.setenv("FEDGALORE_AGENT_COORDINATOR", "env:2")
    monkeypatch.setenv("FEDGALORE_AGENT_THREADS", "2")
    settings = load(config, {"coordinator": "flag:3", "threads": None})
    assert (settings.coordinator, settings.threads) == ("flag:3", 2)


def test_everything_can_come_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDGALORE_AGENT_NAME", "env-site")
    monkeypatch.setenv("FEDGALORE_AGENT_WORK_DIR", "work")
    monkeypatch.setenv("FEDGALORE_AGENT_DATA", '{"qa": {"train": "a.csv", "prompt": "q", "completion": "a"}}')
    settings = load()
    assert settings.work_dir == tmp_path / "work"
    assert settings.data["qa"].train == tmp_path / "a.csv"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nmae": "x"}, ["nmae: unknown key"]),
        ({"name": "a b"}, ["name: "]),
        ({"threads": 0}, ["threads: "]),
        ({"device": "tpu"}, ["device: ", "auto, cpu or cuda"]),
        ({"coordinator": "nowhere"}, ["coordinator: ", "such as nowhere:50051"]),
        ({"coordinator": "http://nowhere:50051"}, ["coordinator: ", "starts with http://", "such as nowhere:50051"]),
        ({"coordinator": "::1:50051"}, ["coordinator: ", "without brackets", "such as [::1]:50051"]),
        ({"data": {}}, ["data: "]),
        ({"data": {"d": {"train": "a.csv", "text": "t", "label": "y", "tset": "b"}}}, ["data.d.tset: unknown key"]),
        ({"data": {"d": {"train": "a.csv", "text": "t"}}}, ["data.d: ", "and label"]),
        ({"data": {"d": {"train": "a.csv", "image": "i"}}}, ["data.d: ", "image and label"]),
        ({"data": {"d": {"train": "a.csv", "text": ["a", "b", "c"], "label": "y"}}}, ["data.d.text: "]),
        ({"models": ["nothing-here"]}, ["models: ", "not a folder"]),
        ({"models": ["x" * 5000]}, ["models: ", "not a folder"]),
        ({"models": ["a\0b"]}, ["models: ", "zero byte"]),
        ({"work_dir": "~nobody-of-this-name/work"}, ["work_dir: ", "home directory", "Write the path out"]),
        (
            {"data": {"d": {"train": "a\0.csv", "text": "t", "label": "y"}}},
            [r"data.d.train: a\x00.csv has a zero byte"],
        ),
        ({"coordinator": "host:٣"}, ["coordinator: "]),
        ({"_cli_parse_args": True}, ["_cli_parse_args: unknown key"]),
        ({"_env_file": "/etc/passwd"}, ["_env_file: unknown key"]),
    ],
)
def test_mistakes_are_named_by_key(tmp_path, changes, words):
    with pytest.raises(SettingsError) as caught:
        load(write(tmp_path, **changes))
    for word in words:
        assert word in str(caught.value)


def test_all_mistakes_are_reported_at_once(tmp_path):
    with pytest.raises(SettingsError) as caught:
        load(write(tmp_path, name="", threads=-1))
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("a: [", "agent.yaml is not valid YAML"),
        ("name: &a x\nwork_dir: *a", "aliases .* are not read; write the value out"),
        ("name: a\nname: b", "'name' is given twice"),
        ("name: !!python/object/apply:os.getcwd []", "not valid YAML.*is of no plain value"),
        ("name: !!bool x", "not valid YAML.*does not fit its tag"),
        ("[" * 100_000, "not valid YAML: nested too deeply"),
        ("- 1", "must be a mapping with the keys name"),
        ("# nothing yet", "(?m)^work_dir: "),
        (None, "cannot be read"),
    ],
)
def test_a_config_that_is_no_mapping_or_empty(tmp_path, content, word):
    path = tmp_path / "agent.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError, match=word):
        load(path)


def test_a_variable_that_is_no_json(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDGALORE_AGENT_MODELS", "[")
    with pytest.raises(SettingsError, match="give lists and mappings as JSON"):
        load(write(tmp_path))


def test_every_split_is_read_with_its_file(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"text": "a", "label": 0}\n{"text": "b", "label": 1}\n')
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "test.jsonl").write_text('{"text": "c", "label": 1}\n')
    data = read_all(load(write(tmp_path)).data)["intents"]
    assert (len(data.train.examples), len(data.test.examples)) == (2, 1)
    assert data.test.path == tmp_path / "sub" / "test.jsonl"


def test_a_data_set_of_images_is_a_table_or_a_folder(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "scans.csv").write_text("file,found\na.png,no\n")
    (tmp_path / "train" / "no").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "train" / "no" / "b.png")
    table = {"train": "scans.csv", "image": "file", "label": "found"}
    data = read_all(load(write(tmp_path, data={"table": table, "folder": {"train": "train"}})).data)
    assert data["table"].train.examples == [{"row": 2, "image": str(tmp_path / "a.png"), "label": "no"}]
    assert data["folder"].train.examples == [{"row": 1, "image": str(tmp_path / "train/no/b.png"), "label": "no"}]


def test_forgotten_columns_are_reported_when_the_file_is_read(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"text": "a", "label": 0}\n')
    settings = load(write(tmp_path, data={"d": {"train": "train.jsonl"}}))
    with pytest.raises(DataError, match=r"train\.jsonl: no columns are named.*name text .* and label, image and label"):
        read_all(settings.data)


def test_columns_for_templates_are_a_list_or_a_mapping(tmp_path):
    (tmp_path / "a.csv").write_text("question,Die Antwort\n1+1,2\n")
    for columns in ("question", ["question"], {"question": "question", "answer": "Die Antwort"}):
        settings = load(write(tmp_path, data={"qa": {"train": "a.csv", "columns": columns}}))
        (example,) = read_all(settings.data)["qa"].train.examples
        assert example["columns"].keys() == ({columns} if columns == "question" else set(columns))
    with pytest.raises(SettingsError, match=r"^data\.qa\.columns.*'Die Antwort' is no name for a template; take lett"):
        load(write(tmp_path, data={"qa": {"train": "a.csv", "columns": ["question", "Die Antwort"]}}))
    with pytest.raises(SettingsError, match=r"^data\.qa\.columns: "):
        load(write(tmp_path, data={"qa": {"train": "a.csv", "columns": [["question"]]}}))


def test_images_may_be_links_where_the_config_says_so(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "train" / "no").mkdir(parents=True)
    (tmp_path / "train" / "no" / "b.png").symlink_to(tmp_path / "a.png")
    with pytest.raises(DataError, match="leads out of .*follow_links: true"):
        read_all(load(write(tmp_path, data={"d": {"train": "train"}})).data)
    data = read_all(load(write(tmp_path, data={"d": {"train": "train", "follow_links": True}})).data)
    assert data["d"].train.examples == [{"row": 1, "image": str(tmp_path / "a.png"), "label": "no"}]
