"""The gated delta rule: chunks of a prompt in parallel, or a few tokens of many sequences."""

from segue.kernels.gated_delta_rule.reference import (
    gated_delta_rule_prompts,
    gated_delta_rule_runs,
)

__all__ = ["gated_delta_rule_prompts", "gated_delta_rule_runs"]
