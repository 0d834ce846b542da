"""Addresses as people write them: what is taken, and the right form that each refusal names."""

from __future__ import annotations

import re

import pytest

from fedgalore.process.address import check_host, check_target, check_targets, check_url, targets


@pytest.mark.parametrize("text", ["127.0.0.1:50051", "[::1]:50051", "[fe80::1%eth0]:1", "site.example:65535", "a_b:2"])
def test_a_target_is_a_host_and_a_port(text: str) -> None:
    assert check_target(text) == text


@pytest.mark.parametrize(
    ("text", "fault", "right"),
    [
        ("http://site:50051", "starts with http://", "site:50051"),
        ("https://site", "starts with https://", "site:50051"),
        ("http://site:8080", "starts with http://", "site:50051"),  # that is the door of REST
        ("grpc://site:7000/", "starts with grpc://", "site:7000"),
        ("dns:///site:7000", "starts with dns:///", "site:7000"),
        ("site", "names no port", "site:50051"),
        ("site:", "names no port", "site:50051"),
        ("site:0", "has the port '0'", "site:50051"),
        ("site:65536", "numbers from 1 to 65535", "site:50051"),
        ("site:x", "has the port 'x'", "site:50051"),
        ("::1:50051", "without brackets", "[::1]:50051"),
        ("fd00::2:7000", "without brackets", "[fd00::2]:7000"),
        ("::1", "without brackets", "[::1]:50051"),
        ("[::1]", "names no port", "[::1]:50051"),
        ("[::1:7000", "without brackets", "[::1]:7000"),
        ("[::zz]:7000", "has '::zz' in it, which is no address", "127.0.0.1:7000"),
        ("site:7000/", "has a path", "site:7000"),
        ("site:7000/x?y", "has a path", "site:7000"),
        ("site :7000", "has spaces", "site:7000"),
        ("site:7000\n", "has spaces", "site:7000"),
        ("höst:7000", "beyond ASCII", "xn--hst-sna:7000"),
        ("site:٣", "has the port", "site:50051"),
        ("me@site:7000", "a user's name", "site:7000"),
        ("999.1.1.1:7000", "which is no address", "127.0.0.1:7000"),
        ("a,b:7000", "no name of a host", "127.0.0.1:7000"),
        ("", "names no host", "127.0.0.1:50051"),
    ],
)
def test_another_form_of_a_target_is_refused_with_the_right_one(text: str, fault: str, right: str) -> None:
    with pytest.raises(ValueError, match=f"{re.escape(fault)}.*; write host:port .* such as {re.escape(right)}$"):
        check_target(text)


def test_several_targets_stand_with_commas() -> None:
    for text in ("site:1", "a.example:50051, [::1]:50051,b:7000"):
        assert check_targets(text) == text
    assert targets("a:1, [::1]:2") == ["a:1", "[::1]:2"]
    for text, fault in (("a:1,b", "'b' names no port"), ("a:1,", "names no host"), ("a:1, a:1", "has a:1 twice")):
        with pytest.raises(ValueError, match=fault):
            check_targets(text)


@pytest.mark.parametrize("text", ["0.0.0.0", "::", "::1", "localhost", "a.example"])
def test_a_host_stands_alone(text: str) -> None:
    assert check_host(text) == text


@pytest.mark.parametrize(
    ("text", "fault", "right"),
    [
        ("[::1]", "has brackets", "::1"),
        ("127.0.0.1:8080", "a setting of its own", "127.0.0.1"),
        ("http://site", "starts with http://", "site"),
        ("site/", "has a path", "site"),
        ("a b", "has spaces", "ab"),
        ("höst", "beyond ASCII", "xn--hst-sna"),
        ("*", "no name of a host", "127.0.0.1"),
        ("", "names no host", "127.0.0.1"),
    ],
)
def test_another_form_of_a_host_is_refused_with_the_right_one(text: str, fault: str, right: str) -> None:
    with pytest.raises(ValueError, match=f"{re.escape(fault)}.*; write an address or name alone, .* {right}$"):
        check_host(text)


@pytest.mark.parametrize("text", ["http://site", "https://[::1]:8080/", "HTTP://site/under/path", "http://u:p@site:80"])
def test_a_url_has_a_scheme_and_a_host(text: str) -> None:
    assert check_url(text, ("http", "https"), 8080) == text


@pytest.mark.parametrize(
    ("text", "fault", "right"),
    [
        ("site:9", "does not start with http:// or https://", "http://site:9"),
        ("localhost", "does not start with", "http://localhost:8080"),
        ("grpc://site:50051", "does not start with", "http://site:50051"),
        ("http:/site", "does not start with", "http://site:8080"),
        ("https://::1:9", "without brackets", "https://[::1]:9"),
        ("https://u:secret@::1", "without brackets", "https://[::1]:8080"),
        ("http://site:99999", "numbers from 1 to 65535", "http://site:8080"),
        ("http://site ", "has spaces", "http://site:8080"),
        ("http://höst", "beyond ASCII", "http://xn--hst-sna:8080"),
        ("http://", "names no host", "http://127.0.0.1:8080"),
    ],
)
def test_another_form_of_a_url_is_refused_with_the_right_one(text: str, fault: str, right: str) -> None:
    with pytest.raises(ValueError, match=f"{re.escape(fault)}.*; write it such as {re.escape(right)}$") as caught:
        check_url(text, ("http", "https"), 8080)
    assert "secret" not in str(caught.value)
