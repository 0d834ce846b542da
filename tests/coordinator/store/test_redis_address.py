"""URLs of Redis: each kind is read, a wrong one is refused in one sentence with the right form."""

from __future__ import annotations

import pytest

from coordinator.store.redis_address import RedisAddress
from coordinator.store.redis_client import client_at, key_prefix


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://:p%40@db:1/2", RedisAddress("server", "redis://:p%40@db:1/2")),
        ("rediss://db?ssl_ca_certs=/a", RedisAddress("server", "rediss://db?ssl_ca_certs=%2Fa")),
        ("unix:///run/redis.sock?replicas=1", RedisAddress("server", "unix:///run/redis.sock", replicas=1)),
        (
            "redis+sentinel://u:p@a,[::1]:7/fed/3?replicas=1&sentinel_password=s",
            RedisAddress(
                "sentinel", "redis://u:p@a/3", (("a", 26379), ("::1", 7)), "fed", 1, sentinel_login=(None, "s")
            ),
        ),
        (
            "rediss+cluster://a:1,b?ssl_check_hostname=false",
            RedisAddress("cluster", "rediss://a:1/0?ssl_check_hostname=false", (("a", 1), ("b", 6379))),
        ),
    ],
)
def test_a_url_is_read(url: str, address: RedisAddress) -> None:
    assert RedisAddress.parse(url) == address
    assert key_prefix(address) == ("{fedgalore}" if "cluster" in url else "fedgalore")


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("redis+sentinel://a:26379", "does not name the master .* redis\\+sentinel://host:26379"),
        ("redis+sentinel://a/fed/first", "does not name the master"),
        ("redis+sentinel://a:0/fed", "has the port '0'"),
        ("redis+cluster://a,b/1", "Redis Cluster has database 0 alone"),
        ("redis+ring://a", "starts with redis\\+ring://; write one of redis, rediss, unix, redis\\+sentinel"),
        ("http://x", "does not start with redis:// or rediss://"),
        ("redis://x?replicas=all", "'all' for replicas; write a number from 0 to 9"),
        ("redis://x?sock=1", "has the option 'sock', which is unknown; known: client_name"),
        ("redis://x?ssl_ca_certs=/a", "has ssl_ca_certs and speaks no TLS; write rediss"),
        ("redis://:a/b@x", "password with /, "),
        ("redis://x?db=first", "has an option with a value that it cannot have .*db.*; correct or remove it"),
        ("redis+cluster://x?health_check_interval=often", "it cannot have .*health_check_interval"),
    ],
)
def test_a_wrong_one_is_refused(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        RedisAddress.parse(url)


async def test_what_a_url_says_of_its_line_counts() -> None:
    url = "redis://db:6379/0?socket_timeout=15&socket_keepalive=true"
    async with client_at(RedisAddress.parse(url), socket_timeout=5.0, max_connections=7) as redis:
        pool = redis.connection_pool
        assert (pool.connection_kwargs["socket_timeout"], pool.connection_kwargs["socket_keepalive"]) == (15.0, True)
        assert pool.max_connections == 7
