"""Lifetimes for the ledger's tests."""

from ebbtide.model.money import Lifetime, Payer
from ebbtide.money.bill import HOUR_S

CHAT = Payer("h100", "ml", "chat", "h100", "llama", "search")
DAY_S = 24 * HOUR_S
T0 = 20_000 * DAY_S  # midnight of UTC


def life(uid: str, begin_s: int, end_s: int | None = None, payer: Payer = CHAT) -> Lifetime:
    return Lifetime(uid, payer, 4, T0 + begin_s, T0 + (end_s or begin_s), None if end_s is None else T0 + end_s, "n")
