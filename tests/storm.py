"""A storm of faults for the proxy: to a share of all requests something happens, drawn from a seed, kind by kind.

Pure: it draws the rules that `proxy_server` carries out. What a store may do to a client is in it, not what would be a
lie that nobody can find out (another body under a right length, a wrong etag).
"""

import random
from collections import Counter
from dataclasses import dataclass, field, replace

from tests.proxy import Rule, Seen

ERROR = "<?xml version='1.0'?>\n<Error><Code>InternalError</Code><Message>injected by the tests</Message></Error>"
FAULTS: dict[str, tuple[float, Rule]] = {
    "500": (3, Rule(fault="error", status=500)),
    "502 without a word": (1, Rule(fault="answer", status=502)),
    "503 SlowDown": (2, Rule(fault="error", status=503, code="SlowDown")),
    "503 SlowDown, Retry-After": (1, Rule(fault="error", status=503, code="SlowDown", retry_after_seconds=1)),
    "429": (1, Rule(fault="error", status=429, code="TooManyRequests", retry_after_seconds=1)),
    "403": (1, Rule(fault="error", status=403, code="AccessDenied")),
    "500 after the effect": (2, Rule(fault="replace", status=500, body=ERROR)),
    "reset before the effect": (3, Rule(fault="reset")),
    "reset after the effect": (3, Rule(fault="drop_reply")),
    "request cut": (2, Rule(fault="cut_request")),
    "reply cut in its head": (1, Rule(fault="cut_head")),
    "reply cut in its body": (4, Rule(fault="cut_body")),
    "no reply, no effect": (0.4, Rule(fault="black_hole")),
    "no reply, but the effect": (0.4, Rule(fault="hang_reply")),
}
"""Each with its weight."""
LATE_ERROR = "200 with an error"
"""Where S3 sends the head before it knows how it ends."""
LATE_ERROR_KINDS = frozenset({"copy", "copy_part", "complete_upload"})
LATE_ERROR_SHARE = 0.3


@dataclass(slots=True)
class Storm:
    """See the module. The mutable state: the draws, and what was injected, by fault."""

    seed: int
    rate: float
    """The share of requests to which something happens."""
    delay_rate: float
    delay_max_seconds: float
    counts: Counter[str] = field(default_factory=Counter)
    draws: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.draws = random.Random(self.seed)

    def rule_for(self, request: Seen) -> Rule:
        rule = Rule()
        if self.draws.random() < self.rate:
            rule = self._fault(request)
        if self.draws.random() < self.delay_rate:
            # Most are short; some are as long as they may be.
            seconds = self.delay_max_seconds * self.draws.random() ** 3
            rule = replace(rule, delay_seconds=seconds)
            self.counts["delay"] += 1
            self.counts["delay over a second"] += seconds > 1
        return rule

    def _fault(self, request: Seen) -> Rule:
        if request.kind in LATE_ERROR_KINDS and self.draws.random() < LATE_ERROR_SHARE:
            self.counts[LATE_ERROR] += 1
            return Rule(fault=self.draws.choice(("answer", "replace")), status=200, body=ERROR)
        (name,) = self.draws.choices([*FAULTS], [weight for weight, _ in FAULTS.values()])
        self.counts[name] += 1
        return replace(FAULTS[name][1], cut_share=self.draws.random())
