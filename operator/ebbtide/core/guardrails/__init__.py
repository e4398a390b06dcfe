"""Guardrails: small functions of one signature, in the order of `ORDER`, each later one stronger than those before.

`guard(draft, cycle) -> Verdict | None`: None when it has nothing to say, else new counts and why. The order is the
precedence: never to zero on unknown data > mode and pause > priority > objectives > cost.
"""
