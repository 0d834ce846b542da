"""Where a client finds its coordinator, its key and its CA: arguments, environment, contexts."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedgalore.client import Client, WrongArgument, contexts
from fedgalore.client.access import DEFAULT_URL, Access
from fedgalore.client.contexts import Context, Contexts

SECURED = "https://coordinator.example:8080"


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of contexts, which is not there yet; nothing else is in the environment."""
    for name in ("URL", "API_KEY", "API_KEY_FILE", "CA", "CONTEXT"):
        monkeypatch.delenv(f"FEDGALORE_{name}", raising=False)
    monkeypatch.setenv("FEDGALORE_CONFIG", str(tmp_path / "of/contexts.toml"))
    return tmp_path / "of/contexts.toml"


def test_contexts_come_back_as_they_were_written(file: Path) -> None:
    assert contexts.place() == file
    assert contexts.read(file) == Contexts()
    odd = Context(url=SECURED, key_file=Path('/keys/"a" \\ é\x7f.key'), ca=Path("/ca.pem"))
    written = Contexts(current='the "first"', contexts={'the "first"': odd, "second": Context(url=DEFAULT_URL)})
    contexts.write(file, written)
    assert contexts.read(file) == written
    file.write_text('[contexts.a]\nurl = "http://127.0.0.1:8080"\nkey_file = "a.key"\n')
    assert contexts.read(file).contexts["a"].key_file == file.parent / "a.key"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[contexts.a]\nurl = 3\n", "contexts.a.url: Input should be a valid string; correct the file"),
        ("[contexts.a]\nurl = 'a:80'\n", "contexts.a.url: 'a:80' does not start with http:// or https://"),
        ("[contexts.a]\nurl = 'http://a:80'\nkey = 'secret'\n", "contexts.a.key: Extra inputs are not permitted"),
        ("current = 'b'\n", "current: there is no context 'b'"),
        ("current = \n", "cannot be read as TOML"),
    ],
)
def test_a_file_that_holds_something_else_is_named(file: Path, text: str, words: str) -> None:
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(WrongArgument, match="FEDGALORE_CONFIG: ") as refused:
        Client()
    assert words in str(refused.value)


def test_arguments_come_before_the_environment_and_that_before_contexts(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Access.of() == Access(DEFAULT_URL, {}, None)
    (tmp_path / "key").write_text("fgk_context\n")
    clinic = Context(url=SECURED, key_file=tmp_path / "key", ca=tmp_path / "ca.pem")
    contexts.write(file, Contexts(current="clinic", contexts={"clinic": clinic, "here": Context(url=DEFAULT_URL)}))
    assert Access.of() == Access(SECURED, {"Authorization": "Bearer fgk_context"}, tmp_path / "ca.pem")
    assert Access.of(context="here") == Access(DEFAULT_URL, {}, None)
    monkeypatch.setenv("FEDGALORE_CONTEXT", "here")
    assert Access.of() == Access(DEFAULT_URL, {}, None)
    with pytest.raises(WrongArgument, match="context: there is no 'x'; there are clinic, here"):
        Access.of(context="x")
    assert Access.of("https://other.example") == Access("https://other.example", {}, None)  # no key of another place
    monkeypatch.setenv("FEDGALORE_URL", "https://from.environment/")
    monkeypatch.setenv("FEDGALORE_API_KEY", "fgk_environment")
    monkeypatch.setenv("FEDGALORE_CA", "/environment.pem")
    found = Access.of()
    assert found == Access(
        "https://from.environment", {"Authorization": "Bearer fgk_environment"}, Path("/environment.pem")
    )
    assert Access.of(context="clinic") == Access(SECURED, {"Authorization": "Bearer fgk_context"}, tmp_path / "ca.pem")
    assert Access.of("https://from.environment") == found
    elsewhere = Access(DEFAULT_URL, {}, Path("/environment.pem"))
    assert Access.of(context="here") == Access.of(DEFAULT_URL) == elsewhere  # the key is of FEDGALORE_URL's coordinator
    monkeypatch.delenv("FEDGALORE_URL")
    lent = Access(DEFAULT_URL, {"Authorization": "Bearer fgk_environment"}, Path("/environment.pem"))
    assert Access.of(context="here") == lent  # what the context lacks
    with pytest.raises(WrongArgument, match="context: here does not go with an address"):
        Access.of(SECURED, context="here")
    assert Access.of(SECURED, key="fgk_given", ca="given.pem") == Access(
        SECURED, {"Authorization": "Bearer fgk_given"}, Path("given.pem")
    )


@pytest.mark.parametrize(
    ("arguments", "field", "words"),
    [
        ({"url": "coordinator:8080"}, "url", "write it such as http://coordinator:8080"),
        ({"url": "http://a.example", "key": "k"}, "key", "must not travel to a.example in plaintext"),
        ({"url": SECURED, "key": "a b"}, "key", "holds characters that no key has"),
        ({"url": SECURED, "ca": "nowhere.pem"}, "FEDGALORE_CA", "nowhere.pem is no PEM file"),
    ],
)
def test_what_cannot_be_used_is_named(arguments: dict[str, str], field: str, words: str) -> None:
    with pytest.raises(WrongArgument, match=words) as refused:
        Client(**arguments)
    assert (refused.value.code, refused.value.fields[0].field) == ("wrong_argument", field)
