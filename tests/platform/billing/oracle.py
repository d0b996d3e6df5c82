"""What a period costs, counted unit by unit: slow, plain, and without a line of the code that it checks.

Nothing here is imported from the pricing code. A plan is read as the JSON document that people write, every
unit is priced by itself, every minor unit that is shared out goes out alone. `PLAN` forms: see plan_json.py.
"""

from __future__ import annotations

from datetime import timedelta
from fractions import Fraction
from functools import cache
from itertools import pairwise

DAY = timedelta(days=1)
TICK = timedelta(microseconds=1)


@cache
def exact_of(text):
    """Read a fraction; the same texts come again and again."""
    return Fraction(text)


def whole(exact, rounding):
    """Round by looking at both neighbours."""
    low = exact.numerator // exact.denominator
    high = low + 1
    if exact - low < high - exact:
        return low
    if exact - low > high - exact:
        return high
    if rounding == "half_even":
        return low if low % 2 == 0 else high
    return high if exact > 0 else low


def hand_out(total, parts):
    """Give whole units one at a time to whoever lacks most, until all are given."""
    given = [part.numerator // part.denominator for part in parts]
    while sum(given) < total:
        lacking = [part - mine for part, mine in zip(parts, given, strict=True)]
        given[lacking.index(max(lacking))] += 1
    return given


def unit_costs(price, count):
    """Return the cost of every unit, one after the other, when `count` are used in all."""
    if price["kind"] == "flat":
        return [exact_of(price["amount"])] + [Fraction(0)] * (count - 1) if count else []
    if price["kind"] == "per_unit":
        return [exact_of(price["unit_price"]) for _ in range(count)]
    if price["kind"] == "package":
        return [
            exact_of(price["amount"]) if number % price["size"] == 0 else Fraction(0)
            for number in range(count)
        ]
    costs = []
    for number in range(1, count + 1):
        decisive = number if price["kind"] == "graduated" else count
        place = 0
        while price["steps"][place]["up_to"] is not None and price["steps"][place]["up_to"] < decisive:
            place += 1
        step = price["steps"][place]
        first = 1 if place == 0 or price["kind"] == "volume" else price["steps"][place - 1]["up_to"] + 1
        fee = exact_of(step["flat_fee"]) if number == first else Fraction(0)
        costs.append(exact_of(step["unit_price"]) + fee)
    return costs


def cost_of_units(price, units, free):
    """Price units after the first `free` of them: (cost, how many were free)."""
    counted = units[free:]
    return sum(unit_costs(price, len(counted)), Fraction(0)), len(units) - len(counted)


def lines_of(charge, uses, part):
    """Return [cell, quantity, included, exact] of a charge."""
    share = part if charge["is_prorated"] else Fraction(1)
    least = exact_of(charge["minimum"]) * share
    if charge["meter"] is None:
        exact = sum(unit_costs(charge["price"], 1), Fraction(0)) * share
        return [[(), 1, 0, max(least, exact)]]
    units = [
        use
        for use in uses
        if use["meter"] == charge["meter"] and charge["tier"] in (None, use["tier"])
        for _ in range(use["quantity"])
    ]
    if charge["price"]["kind"] != "matrix":
        exact, free = cost_of_units(charge["price"], units, charge["included"])
        if not units and not exact_of(charge["minimum"]):
            return []
        return [[(), len(units), free, max(least, exact)]]
    matrix, left, lines = charge["price"], charge["included"], []
    piles = {tuple(cell["values"]): [] for cell in matrix["cells"]}
    for unit in units:
        for cell in matrix["cells"]:
            wanted = zip(matrix["dimensions"], cell["values"], strict=True)
            if all(value in ("*", unit[dimension]) for dimension, value in wanted):
                piles[tuple(cell["values"])].append(unit)
                break
    for cell in matrix["cells"]:
        pile = piles[tuple(cell["values"])]
        if pile:
            exact, free = cost_of_units(cell["price"], pile, left)
            left -= free
            lines.append([tuple(cell["values"]), len(pile), free, exact])
    return lines


def net_lines(plan, uses, part, so_far=None):
    """Return [charge, cell, quantity, included, exact, amount, discount, tax category] of every line.

    `so_far` are the exact sums of earlier parts of the month at this plan; the ones of this part are added.
    """
    rounding, lines = plan["rounding"], []
    so_far = {} if so_far is None else so_far

    def rise(key, exact):
        before = so_far.get(key, Fraction(0))
        so_far[key] = before + exact
        return whole(before + exact, rounding) - whole(before, rounding)

    for charge in plan["charges"]:
        for line in lines_of(charge, uses, part):
            amount = rise((charge["name"], line[0]), line[3])
            lines.append([charge["name"], *line, amount, 0, charge["tax_category"]])
    for discount in plan["discounts"]:
        names = discount["charges"] or [charge["name"] for charge in plan["charges"]]
        rests = [line[5] - line[6] if line[0] in names else 0 for line in lines]
        base = sum(rests)
        sought = discount["amount"] or whole(exact_of(discount["share"]) * base, rounding)
        taken = min(sought, base)
        if base and taken:
            parts = [Fraction(taken) * rest / base for rest in rests]
            for line, share in zip(lines, hand_out(taken, parts), strict=True):
                line[6] += share
    promised = rise("commitment", plan["commitment"] * part)
    reached = sum(line[5] - line[6] for line in lines)
    if reached < promised:
        missing = promised - reached
        lines.append(["commitment", (), 0, 0, Fraction(missing), missing, 0, "standard"])
    return lines


def bill(plan, uses, part, status, at):
    """Return (charge, cell, quantity, included, exact, amount, discount, tax) of every line."""
    lines = net_lines(plan, uses, part)
    return [(*line[:7], tax) for line, tax in zip(lines, taxes_of(plan, lines, status, at), strict=True)]


def holder(contracts, instant):
    """Return the place of the contract that holds at an instant; None: nobody's."""
    found = None
    for place, contract in enumerate(contracts):
        if contract["starts_at"] <= instant:
            found = place
    if found is None or (contracts[found]["ends_at"] or instant + DAY) <= instant:
        return None
    return found


def cut(contracts, listed, start, end):
    """Return [from, until, plan, its part of the month] of the parts of a month, looking at every instant.

    The list's plan prices what no contract covers; where there is none, the contract before it does, and
    before the first one that one.
    """
    instants = {start, end}
    for contract in contracts:
        instants |= {each for each in (contract["starts_at"], contract["ends_at"]) if each is not None}
    marks = sorted(each for each in instants if start <= each <= end)
    pieces = [[mark, following, holder(contracts, mark)] for mark, following in pairwise(marks)]
    if listed is None:
        last = next((piece[2] for piece in pieces if piece[2] is not None), None)
        for piece in pieces:
            piece[2] = last = last if piece[2] is None else piece[2]
    parts = []
    for since, until, place in pieces:
        if parts and parts[-1][2] == place:
            parts[-1][1] = until
        else:
            parts.append([since, until, place])
    return [
        (since, until, *((listed, None) if place is None else priced(contracts, place, start, end)))
        for since, until, place in parts
    ]


def priced(contracts, place, start, end):
    """Return the plan of a contract and the part of the month that it holds."""
    plan = contracts[place]["plan"]
    if plan["proration"] == "days":
        days = [start + number * DAY for number in range((end - start) // DAY)]
        return plan, Fraction(sum(holder(contracts, day) == place for day in days), len(days))
    begun, over = contracts[place]["starts_at"], contracts[place]["ends_at"]
    follows = [each["starts_at"] for each in contracts[place + 1 :]]
    held = min([end, *follows, *([over] if over else [])]) - max(start, begun)
    return plan, Fraction(held // TICK, (end - start) // TICK)


def bill_month(contracts, listed, uses, start, end):
    """Return (from, until, plan, lines before tax) of every part of a month; `uses` have their instant."""
    sums, found = [], []
    for since, until, plan, part in cut(contracts, listed, start, end):
        mine = [use for use in uses if since <= use["at"] < until]
        so_far = next((each for known, each in sums if known == plan), None)
        if so_far is None:
            so_far = {}
            sums.append((plan, so_far))
        share = Fraction(1) if part is None else part
        found.append((since, until, plan, net_lines(plan, mine, share, so_far)))
    return found


def taxes_of(plan, lines, status, at):
    jurisdiction, is_reversed = status
    rates = []
    for line in lines:
        rate, since = Fraction(0), None
        for each in plan["taxes"]:
            is_mine = (each["jurisdiction"], each["category"]) == (jurisdiction, line[7])
            if is_mine and each["valid_from"] <= at and (since is None or each["valid_from"] > since):
                rate, since = exact_of(each["rate"]), each["valid_from"]
        rates.append(Fraction(0) if is_reversed else rate)
    exact = [rate * (line[5] - line[6]) for rate, line in zip(rates, lines, strict=True)]
    if plan["tax_basis"] == "per_line":
        return [whole(tax, plan["rounding"]) for tax in exact]
    taxes = [0] * len(lines)
    for rate in set(rates):
        mine = [place for place, each in enumerate(rates) if each == rate]
        total = whole(sum((exact[place] for place in mine), Fraction(0)), plan["rounding"])
        for place, share in zip(mine, hand_out(total, [exact[place] for place in mine]), strict=True):
            taxes[place] = share
    return taxes


def draw(due, grants, at):
    """Pay one minor unit at a time from the grant whose turn it is."""
    rest = {grant["id"]: grant["remaining"] for grant in grants}
    paid = dict.fromkeys(rest, 0)
    for _ in range(due):
        best = None
        for grant in grants:
            is_over = grant["expires_at"] is not None and grant["expires_at"] <= at
            if is_over or not rest[grant["id"]]:
                continue
            if best is None or comes_before(grant, best):
                best = grant
        if best is None:
            break
        rest[best["id"]] -= 1
        paid[best["id"]] += 1
    return {grant: amount for grant, amount in paid.items() if amount}


def comes_before(one, other):
    if one["priority"] != other["priority"]:
        return one["priority"] < other["priority"]
    if one["expires_at"] != other["expires_at"]:
        if one["expires_at"] is None or other["expires_at"] is None:
            return other["expires_at"] is None
        return one["expires_at"] < other["expires_at"]
    return one["id"] < other["id"]
