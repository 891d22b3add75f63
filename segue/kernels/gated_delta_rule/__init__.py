"""The gated delta rule: chunks of a prompt in parallel, or one token of many sequences."""

from segue.kernels.gated_delta_rule.reference import (
    gated_delta_rule_prompts,
    gated_delta_rule_steps,
)

__all__ = ["gated_delta_rule_prompts", "gated_delta_rule_steps"]
