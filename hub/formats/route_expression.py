"""Rule expressions in CEL, the Common Expression Language, compiled to predicates.

CEL has no side effects and no unbounded loops; its evaluation budget ends an expression that
would take too long. What an expression may see: ``hub.domain.routing.study_variables`` and
``series_variables``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cel_expr_python import cel

from hub.domain.routing import RuleFailedError, Variables


@dataclass(frozen=True, slots=True)
class CelPredicate:
    """A compiled expression (hub.domain.routing.Predicate)."""

    text: str
    _program: Any = field(repr=False)

    def __call__(self, variables: Variables) -> bool:
        """Raises:
        RuleFailedError: the evaluation failed, or its value is no boolean.
        """
        try:
            value = self._program.eval(data=dict(variables))
        except RuntimeError as error:  # the evaluation budget is used up
            raise RuleFailedError(f"{self.text}: {error}") from error
        if value.type() == cel.Type.ERROR:
            raise RuleFailedError(f"{self.text}: {value.plain_value()}")
        if value.type() != cel.Type.BOOL:
            raise RuleFailedError(f"{self.text}: is no true-or-false expression")
        return bool(value.plain_value())


def compile_expression(text: str, *, names: tuple[str, ...]) -> CelPredicate:
    """Compile once, evaluate often.

    Args:
        text: the expression.
        names: the variables that it may use, each a map.

    Raises:
        ValueError: the expression does not compile; the message says where.
    """
    environment = cel.NewEnv(variables=dict.fromkeys(names, cel.Type.DYN))
    try:
        return CelPredicate(text, environment.compile(text))
    except RuntimeError as error:
        raise ValueError(str(error).partition("[")[0].strip()) from error
