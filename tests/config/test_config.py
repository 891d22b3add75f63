"""The configuration file: errors are reported, and the effective settings can be read back."""

from __future__ import annotations

from pathlib import Path

import pytest

from segue.api.errors import InvalidConfig
from segue.api.types import Role
from segue.config import read_file, read_text
from segue.engine.config import EngineConfig, PoolSizes, host_pool_sizes, pool_sizes
from segue.launch.config import ClusterConfig, Config, configure
from tests.kv_transfer.world import LAYOUT


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[engin]\n", "unknown section 'engin'"),
        ("model = 'demo'\n", "unknown section 'model'"),
        ("[engine]\npages = 3\n", r"\[engine\] has no 'pages'; it has "),
        ("[engine]\npage_tokens = '16'\n", r"\[engine\] page_tokens must be an integer, got '16'"),
        ("[engine]\npage_tokens = true\n", r"\[engine\] page_tokens must be an integer, got True"),
        ("[engine]\npage_tokens = 0\n", r"\[engine\] page_tokens must be >= 1, got 0"),
        ("[engine]\ndtype = 'int8'\n", r"dtype must be one of auto, float32, .*, got 'int8'"),
        ("[engine]\nkv_dtype = 'int8'\n", r"kv_dtype must be one of auto, fp8, got \'int8\'"),
        ("[engine]\ncache_bytes = '1 GiB'\n", r'cache_bytes must be a number or "auto", got'),
        (
            "[engine]\ncache_bytes = 1.5\n",
            r"\[engine\] cache_bytes must be an integer or a string, got 1.5",
        ),
        ("[engine]\ncache_bytes = 0\n", r"\[engine\] cache_bytes must be >= 1, got 0"),
        ("[engine]\ngpu_share = 0\n", r"gpu_share must be in \(0, 1\], got 0"),
        ("[prefill]\nniceness = 20\n", r"\[prefill\] niceness must be between 0 and 19, got 20"),
        ("[checkpoint]\nskip_tokenizer = 1\n", r"skip_tokenizer must be true or false, got 1"),
        ("[engine]\nhost_cache_bytes = -1\n", r"host_cache_bytes must be >= 0, got -1"),
        ("[router]\nport = 70000\n", r"\[router\] port must be in \[0, 65536\), got 70000"),
        ("[router]\nqueue_timeout_s = nan\n", "queue_timeout_s must be a finite number, got nan"),
        ("[gateway]\nping_s = inf\n", r"\[gateway\] ping_s must be a finite number, got inf"),
        ("engine = 5\n", r"\[engine\] must be a section, got 5"),
        ("[engine\n", "not valid TOML"),
    ],
)
def test_an_error_in_a_file_is_reported(text: str, reason: str) -> None:
    with pytest.raises(InvalidConfig, match=reason) as refused:
        Config.from_sections(read_text(text, "segue.toml"))

    assert str(refused.value).startswith("segue.toml")
    assert str(refused.value).count("segue.toml") == 1


def test_an_error_between_two_sections_names_the_file() -> None:
    text = "[engine]\ntensor_parallel = 2\ndevice = 'cuda'\n[cluster]\ngpus_per_decode = 0.5\n"

    with pytest.raises(InvalidConfig, match=r"^segue.toml: \[cluster\] gpus_per_decode must be 1"):
        Config.from_sections(read_text(text, "segue.toml"))


def test_the_error_of_a_flag_does_not_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "segue.toml"
    path.write_text("[engine]\npage_tokens = 32\n")
    with pytest.raises(InvalidConfig, match=r"^\[router\] port must be in"):
        configure(path, {"router": {"port": 70_000}})

    path.write_text("[engine]\npage_tokens = 0\n")
    with pytest.raises(InvalidConfig, match=r"segue.toml: \[engine\] page_tokens must be >= 1"):
        configure(path, {"router": {"port": 7000}})
    assert configure(path, {"engine": {"page_tokens": 8}}).engine.page_tokens == 8


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "segue.toml"
    path.write_bytes(b"\xff\xfe")

    with pytest.raises(InvalidConfig, match=r"segue.toml is not valid TOML: it is not UTF-8"):
        read_file(path)


def test_the_effective_settings_read_back_to_the_same() -> None:
    config = Config(cluster=ClusterConfig(model='a "b" \\ c', decode=3))

    assert Config.from_sections(read_text(config.to_toml(), "shown")) == config


def test_an_integer_is_a_valid_number_of_seconds() -> None:
    config = Config.from_sections(read_text("[router]\ndrain_s = 5\n", "segue.toml"))

    assert repr(config.router.drain_s) == "5.0"


def test_memory_goes_to_slots_first_and_then_to_usable_pages() -> None:
    slots = 4 * LAYOUT.slot_bytes
    engine = EngineConfig(
        max_running=2, max_checkpoints=0, cache_bytes=slots + 10 * LAYOUT.page_bytes
    )

    assert pool_sizes(LAYOUT, engine, max_context=1000 * LAYOUT.page_tokens).num_pages == 10
    assert pool_sizes(LAYOUT, engine, max_context=2 * LAYOUT.page_tokens).num_pages == 8


def test_checkpoints_take_at_most_half_of_the_memory() -> None:
    engine = EngineConfig(max_running=2, max_checkpoints=64, cache_bytes=2 * 10 * LAYOUT.slot_bytes)

    assert pool_sizes(LAYOUT, engine, max_context=10**6).num_slots == 10


def test_memory_too_small_for_a_page_is_refused_with_the_numbers() -> None:
    engine = EngineConfig(max_running=2, cache_bytes=4 * LAYOUT.slot_bytes)

    with pytest.raises(InvalidConfig, match=f"cache_bytes = {engine.cache_bytes} is too small"):
        pool_sizes(LAYOUT, engine, max_context=100)


def test_a_quarter_of_the_host_tier_is_slots_and_without_a_tier_there_are_none() -> None:
    engine = EngineConfig(host_cache_bytes=4 * 3 * LAYOUT.slot_bytes)
    sizes = host_pool_sizes(LAYOUT, engine)

    assert sizes.num_slots == 3
    assert sizes.num_pages == 9 * LAYOUT.slot_bytes // LAYOUT.page_bytes
    assert host_pool_sizes(LAYOUT, EngineConfig()) == PoolSizes(num_pages=0, num_slots=0)


def test_a_host_tier_too_small_for_a_state_is_refused_with_the_numbers() -> None:
    engine = EngineConfig(host_cache_bytes=4 * LAYOUT.slot_bytes - 4)

    with pytest.raises(InvalidConfig, match=f"host_cache_bytes = {engine.host_cache_bytes} is too"):
        host_pool_sizes(LAYOUT, engine)


@pytest.mark.parametrize(("one_per_node", "port"), [(False, 7422), (True, 7420)])
def test_workers_on_nodes_of_their_own_may_have_the_same_ports(
    one_per_node: bool, port: int
) -> None:
    from segue.launch.ray.starting import worker_options

    cluster = ClusterConfig(prefill=3, prefill_port=7420, one_worker_per_node=one_per_node)
    options = worker_options(cluster, Role.PREFILL, 2, "demo", ["router:7411"])

    assert (options.port, options.metrics_port) == (port, 0)


def test_the_last_port_is_checked_for_as_many_workers_as_share_a_machine() -> None:
    ClusterConfig(decode=9, decode_port=65535, one_worker_per_node=True)

    with pytest.raises(ValueError, match="decode_port must be 0, or leave 9 ports below 65536"):
        ClusterConfig(decode=9, decode_port=65530)
    with pytest.raises(ValueError, match="room_timeout_s must be >= 0, got -1"):
        ClusterConfig(room_timeout_s=-1.0)
