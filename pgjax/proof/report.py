"""What `assert_unbiased` reports: a finding for each problem, and all of them in words."""

from typing import NamedTuple

ITSELF = "the policy itself"


class Finding(NamedTuple):
    """What was found on one problem.

    Attributes:
        problem: its name.
        tier: "enumeration" or "sampling"; of a pipeline also "record", "independence" and "law".
        passed: unbiased to `tolerance`, or, if that was accepted, up to scale.
        bias: ‖E ĝ − ∇J‖ / ‖∇J‖; when sampled, of the sample mean.
        scale: the c that brings c ∇J closest to E ĝ.
        shape_error: ‖E ĝ − c ∇J‖ / ‖∇J‖, the part that no scale explains.
        tolerance: a relative bias above this would have been found.
        detail: how it was shown.
        worst: where the deviation is largest, and by how much.
        hint: a known mistake that gives this very mean, or "".
        acting: the policy that made the trajectories; "" if there is none, as for ∇E[f(x)].
        is_theorem: false if the orders within a batch, or the draws of an expectation, were only
            sampled.
        batch_sizes: the sizes of the batches that were looked at.
    """

    problem: str
    tier: str
    passed: bool
    bias: float
    scale: float
    shape_error: float
    tolerance: float
    detail: str
    worst: str
    hint: str
    acting: str = ITSELF
    is_theorem: bool = True
    batch_sizes: tuple[int, ...] = ()


class Report(NamedTuple):
    """What `assert_unbiased` showed, problem by problem; print it.

    Attributes:
        findings: one a problem, tier and policy that acts.
        not_seen: what was not looked at, in one sentence.
    """

    findings: tuple[Finding, ...]
    not_seen: str = ""

    @property
    def passed(self) -> bool:
        """Whether every finding passed."""
        return all(finding.passed for finding in self.findings)

    def __str__(self) -> str:
        failed = [finding for finding in self.findings if not finding.passed]
        wrong = len({finding.problem for finding in failed})
        problems = len({finding.problem for finding in self.findings})
        scaled = any(
            finding.passed and finding.bias > finding.tolerance for finding in self.findings
        )
        word = "wrong" if failed else "unbiased up to scale" if scaled else "unbiased"
        actors = dict.fromkeys(f.acting for f in self.findings if f.acting)
        acting = "".join(f", when {who} acts" for who in actors).replace(", when", " and when")
        acting = acting.replace(" and when", ", when", 1)
        lines = [f"{word} on {wrong if failed else problems} of {problems} problems{acting}"]
        lines += [_line(finding) for finding in self.findings]
        lines += [f"  {f.problem}: {f.worst}" for f in failed if f.worst]
        lines += [f"hint: {hint}" for hint in dict.fromkeys(f.hint for f in failed if f.hint)]
        lines += [self.not_seen] if self.not_seen else []
        return "\n".join(lines)


def _line(finding: Finding) -> str:
    mark = "✓" if finding.passed else "✗"
    if finding.tier in ("independence", "law", "record"):
        return f"{mark} {finding.problem} ({finding.tier}): {finding.detail}"
    bias = f"bias {100 * finding.bias:.3g}%"
    if finding.bias <= 1e-10:
        bias = "no bias"
    elif finding.tier == "enumeration" and finding.shape_error <= finding.tolerance * max(
        abs(finding.scale), 1
    ):
        bias += f", a pure scale of {finding.scale:.6g}"
    acting = "" if finding.acting in (ITSELF, "") else f", {finding.acting.rstrip(',')} acting"
    seen = f"; a bias of {finding.tolerance:g} would have been seen" if finding.is_theorem else ""
    return f"{mark} {finding.problem} ({finding.tier}{acting}): {bias}; {finding.detail}{seen}"
