from __future__ import annotations

from prefill_worker.metrics import PrefillMetrics
from segue.api.turn import ShipReport

REPORT = ShipReport(shipped_bytes=100, transfer_s=0.5)


def test_a_handoff_counts_for_its_pair_of_workers() -> None:
    metrics = PrefillMetrics()
    for decode in ("decode-0", "decode-1", "decode-1"):
        metrics.shipped(REPORT, prefill="prefill-0", decode=decode)

    def value(name: str, decode: str) -> float | None:
        return metrics.registry.get_sample_value(name, {"prefill": "prefill-0", "decode": decode})

    assert value("segue_handoff_pair_bytes_sum", "decode-0") == 100
    assert value("segue_handoff_pair_bytes_sum", "decode-1") == 200
    assert value("segue_handoff_pair_seconds_sum", "decode-1") == 1.0
    assert value("segue_handoff_pair_seconds_count", "decode-1") == 2


def test_names_of_workers_make_a_bounded_number_of_series() -> None:
    metrics = PrefillMetrics()
    for number in range(1_000):
        metrics.shipped(REPORT, prefill="prefill-0", decode=f"decode-{number}")
    metrics.shipped(REPORT, prefill="prefill-0", decode="decode-0")
    (family,) = (f for f in metrics.registry.collect() if f.name == "segue_handoff_pair_bytes")
    counts = {s.labels["decode"]: s.value for s in family.samples if s.name.endswith("_count")}

    assert len(counts) == 257
    assert counts["decode-0"] == 2
    assert counts["other"] == 1_000 - 256


def test_the_first_failure_is_a_step_that_a_rate_sees() -> None:
    metrics = PrefillMetrics()
    before = metrics.registry.get_sample_value("segue_handoffs_total", {"outcome": "failed"})
    metrics.lost("failed")

    assert before == 0
    assert metrics.registry.get_sample_value("segue_handoffs_total", {"outcome": "failed"}) == 1
