"""An engine that hangs in a pass is noticed; one that takes long is not."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from decode_worker.config import DecodeConfig
from decode_worker.engine.stepper import HostStepper
from router.config import RouterConfig
from segue.api.cluster.status import WorkerHealth
from segue.model.config import ModelConfig
from segue.worker import watchdog
from segue.worker.engine_thread import EngineLoop
from segue.worker.watchdog import EngineProgress, EngineStuck, Patience, Watchdog, end_when_stuck
from tests.virtual.clock import run

LIMITS = Patience(pass_s=10.0, shipping_s=20.0)


def ticks(dog: Watchdog, number: int) -> bool:
    for _ in range(number):
        dog.tick(1.0)
    return dog.is_stuck


def test_silence_in_a_pass_is_stuck_after_its_limit() -> None:
    dog = Watchdog(LIMITS)
    dog.progress.beat()

    assert not ticks(dog, 11)
    assert ticks(dog, 1)


def test_any_beat_starts_the_count_anew() -> None:
    dog = Watchdog(LIMITS)
    for _ in range(3):
        dog.progress.beat()
        assert not ticks(dog, 11)


def test_an_engine_that_waits_for_commands_is_not_stuck() -> None:
    dog = Watchdog(LIMITS)
    dog.progress.beat()
    dog.progress.rests()

    assert not ticks(dog, 100)
    assert dog.silent_s == 0.0


def test_the_shipping_thread_may_take_longer_than_a_pass() -> None:
    dog = Watchdog(LIMITS)
    dog.progress.beat(is_shipping=True)
    assert not ticks(dog, 21)
    assert ticks(dog, 1)


def test_a_process_that_was_stopped_is_not_stuck_when_it_goes_on() -> None:
    dog = Watchdog(LIMITS)
    dog.progress.beat()
    dog.tick(1.0)
    dog.tick(600.0)

    assert not dog.is_stuck


DEMO = Path("segue/demo/checkpoint")


def patience(
    config: ModelConfig, *, num_params: float, device: str = "cpu", max_context: int = 65_536
) -> Patience:
    return Patience.of(
        num_params=num_params,
        num_layers=config.num_layers,
        width=config.hidden_size,
        vocab_size=config.vocab_size,
        max_context=max_context,
        pass_tokens=512,
        device=device,
        write_s=15.0,
    )


def test_the_limit_follows_from_the_model_and_the_settings() -> None:
    config = ModelConfig.from_folder(DEMO)
    small, large = (patience(config, num_params=n) for n in (3e6, 27e9))

    assert 20.0 < small.pass_s < 60.0
    # A layer of 27e9 / 4 parameters and 512 tokens takes this long at 10 GFLOP/s.
    assert large.pass_s > 2 * 512 * 27e9 / config.num_layers / 10e9
    # A GPU may compile kernels for minutes.
    assert patience(config, num_params=3e6, device="cuda").pass_s > 300.0
    # A peer that hangs holds the shipping thread for a minute, and then for a write.
    assert small.shipping_s > 61.0 + 15.0


def test_turns_on_a_stuck_worker_of_a_small_model_free_their_places_before_others_give_up() -> None:
    config = ModelConfig.from_folder(DEMO)
    step = patience(config, num_params=3e6, max_context=16_384)

    assert step.pass_s < RouterConfig().queue_timeout_s - watchdog.NOTICE_S - watchdog.LOOK_EVERY_S


async def test_a_thread_held_in_a_step_is_silent_and_can_be_found() -> None:
    dog, held, entered = Watchdog(LIMITS), threading.Event(), threading.Event()

    def held_step(commands: list[str]) -> bool:
        entered.set()
        held.wait()
        return False

    engine = EngineLoop("engine", held_step, lambda error: None, dog.progress)
    try:
        assert not ticks(dog, 100), "it waits for commands"
        engine.submit("a turn")
        assert await asyncio.to_thread(entered.wait, 5)
        assert ticks(dog, 12)
        assert "held_step" in dog.where()
    finally:
        held.set()
        await engine.close()
    dog.tick(1.0)
    assert not dog.is_stuck


def test_a_stuck_engine_is_reported_before_its_process_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def stuck() -> float:
        dog, presence = Watchdog(LIMITS), SimpleNamespace(health=WorkerHealth.READY)
        loop = asyncio.get_running_loop()
        dog.progress.beat()
        watching = asyncio.ensure_future(end_when_stuck(dog, presence))
        await asyncio.sleep(11.5)
        assert presence.health is WorkerHealth.READY
        await asyncio.sleep(1.0)
        assert presence.health is WorkerHealth.STUCK
        reported_at = loop.time()
        with pytest.raises(EngineStuck, match="made no progress for 11 s, expected some within 10"):
            await watching
        return loop.time() - reported_at

    assert run(stuck()) > watchdog.NOTICE_S - 1.0
    assert "the engine is stuck" in caplog.text


def test_a_step_on_the_host_beats_with_each_layer() -> None:
    progress = EngineProgress()

    class Layers:
        layout = SimpleNamespace(page_tokens=16)

        def forward(self, chunks: object, *, on_layer: object) -> None:
            for layer in range(7):
                on_layer(layer)  # type: ignore[operator]
            raise KeyboardInterrupt

    stepper = HostStepper(Layers(), DecodeConfig(), progress)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        stepper.launch([], 0)

    assert progress.num_beats == 7
