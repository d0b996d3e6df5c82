"""What has to be true of the books: after every commit of a transaction, and of the log on the disk.

The letters are those of the platform's invariants: I3 quota, I4 journal, I5 numbers, I6 documents,
I7 payments, I8 one audit entry per change, I9 the log.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter, defaultdict

from tritium_platform.audit.model import intent_to_dict
from tritium_platform.billing.invoice import InvoiceKind, InvoiceStatus
from tritium_platform.quotas.model import QuotaMeter, ReservationState

WRITTEN_ONCE = (
    "invoice_documents",
    "invoice_lines",
    "invoice_payments",
    "journal_groups",
    "usage_records",
    "contracts",
    "billing_operations",
    "price_plans",
)
TILE = 256
MONEY = ("invoice.", "credit_note.", "credit.")


def check_commit(before, after):
    """Check what one transaction changed."""
    for name in WRITTEN_ONCE:
        old, new = before[name], after[name]
        if old != new:
            assert all(new.get(key) == row for key, row in old.items()), f"I6: {name} was changed"
    _check_quotas(before, after)
    _check_money(before, after)
    _check_audit(before, after)


def _check_quotas(before, after):
    counters, reservations = after["quota_counters"], after["reservations"]
    if counters == before["quota_counters"] and reservations == before["reservations"]:
        return
    held, used, is_late = Counter(), Counter(), set()
    for each in reservations.values():
        key = (each.tenant_id, each.meter, each.period)
        if each.state is ReservationState.HELD:
            held[key] += each.amount - each.used
        assert 0 <= each.used <= each.amount, f"I3: {each}"
        old = before["reservations"].get(each.id)
        if old is not None and old != each:
            used[key] += each.used - old.used
            if old.state is ReservationState.EXPIRED:
                is_late.add(key)
    for key, counter in counters.items():
        assert counter.held >= 0, f"I3: {counter}"
        assert counter.used >= 0, f"I3: {counter}"
        assert counter.used + counter.held <= counter.limit, f"I3: overdrawn: {counter}"
        assert counter.held == held[key], f"I3: {counter} holds other than its reservations, {held[key]}"
        was = before["quota_counters"].get(key)
        moved = counter.used - (was.used if was else 0)
        is_capped = key in is_late and not counter.remaining
        assert moved == used[key] or (is_capped and moved <= used[key]), f"I3: {counter} moved by {moved}"


def _check_money(before, after):
    groups = after["journal_groups"]
    for identity in groups.keys() - before["journal_groups"].keys():
        entries = groups[identity].entries
        assert len(entries) > 1, f"I4: {groups[identity]}"
        assert sum(each.amount_minor for each in entries) == 0, f"I4: {groups[identity]}"
    if after["invoice_documents"] != before["invoice_documents"]:
        sequences = defaultdict(list)
        for each in after["invoice_documents"].values():
            sequences[each.series].append(each.sequence)
        for series, found in sequences.items():
            assert sorted(found) == list(range(1, len(found) + 1)), f"I5: {series} {sorted(found)}"
    check_numbers(after)
    if any(after[name] != before[name] for name in ("invoices", "journal_groups", "credit_grants")):
        check_balances(after)
    if after["invoice_events"] != before["invoice_events"]:
        billed = Counter(use for (_, use), is_void in after["invoice_events"].items() if not is_void)
        assert not billed or max(billed.values()) == 1, "a use is billed twice"


def check_numbers(tables):
    """The counters of numbers count the documents."""
    written = Counter(each.series for each in tables["invoice_documents"].values())
    assert tables["number_series"] == written, f"I5: numbers {tables['number_series']}, documents {written}"


def check_leases(leases, tables):
    """What a lease still has to give and what is used of it is never more than it holds."""
    for lease in [*leases._current.values(), *leases._ended]:
        kept = tables["reservations"].get(lease.reservation.id)
        used = kept.used if kept is not None else 0
        assert 0 <= lease.left <= lease.reservation.amount - used, f"I3: {used} are used of {lease}"


def check_balances(tables):
    """The journal says what invoices, payments and credit say."""
    sums = Counter()
    for group in tables["journal_groups"].values():
        for entry in group.entries:
            sums[entry.account] += entry.amount_minor
    invoices, paid = tables["invoices"].values(), Counter()
    for payment in tables["invoice_payments"].values():
        paid[payment.invoice_id] += payment.amount_minor
    for invoice in invoices:
        assert invoice.paid_minor == paid[invoice.id], f"I7: {invoice} has payments of {paid[invoice.id]}"
        settled = invoice.drawn_minor + invoice.paid_minor + invoice.credited_minor
        assert settled <= max(0, invoice.total_minor), f"I7: {invoice} is paid more than once"
    assert sums["receivable"] == sum(each.open_minor for each in invoices), f"I4: {sums} and {invoices}"
    grants = tables["credit_grants"].values()
    assert -sums["customer_credit"] == sum(each.remaining_minor for each in grants), f"I4: {sums}"
    granted = sum(each.amount_minor for each in grants if each.reason.startswith("key"))
    assert sums["cash_clearing"] == paid.total() + granted, f"I4: {sums}"


def _check_audit(before, after):
    """Each change of state brings one intent, in its own transaction; and no intent comes without one."""
    old = before["audit_outbox"]
    intents = [row[0] for key, row in after["audit_outbox"].items() if key not in old]
    said = Counter((each.action, each.resource_affected.id) for each in intents)
    money = Counter({key: count for key, count in said.items() if key[0].startswith(MONEY)})
    done = Counter(_money_changes(before, after))
    assert money == done, f"I8: the log says {dict(money)}, the books {dict(done)}"
    tenants = sum(before["tenants"].get(key) != row for key, row in after["tenants"].items())
    changes = sum(count for (action, _), count in said.items() if action.startswith("tenant."))
    assert tenants <= changes <= 1, f"I8: {tenants} tenants changed and {changes} are in the log"
    known = before["usage_records"]
    fresh = {record.id for key, record in after["usage_records"].items() if key not in known}
    uses = {each.id for each in intents if each.action.startswith("completion.")}
    assert fresh <= uses, "I8: a use was recorded without an audit entry"
    outcomes = sum(after["health_outcomes"].values()) - sum(before["health_outcomes"].values())
    refusals = {each.id for each in intents if each.action == "completion.refuse"}
    assert len(fresh | refusals) == outcomes, (
        f"{outcomes} outcomes of {len(fresh)} uses, {len(refusals)} refusals"
    )


def _money_changes(before, after):
    for identity, new in after["invoices"].items():
        old = before["invoices"].get(identity)
        if new != old:
            yield from ((action, str(identity)) for action in _changes_of(old, new))
    drawn = before["credit_draws"] == after["credit_draws"]
    for identity, new in after["credit_grants"].items():
        old = before["credit_grants"].get(identity)
        if old is None and new.reason.startswith("key"):
            yield "credit.grant", str(identity)
        elif old is not None and not new.remaining_minor and old.remaining_minor and drawn:
            yield "credit.expire", str(identity)


ENDS = {
    InvoiceStatus.OVERDUE: "invoice.overdue",
    InvoiceStatus.VOID: "invoice.void",
    InvoiceStatus.UNCOLLECTIBLE: "invoice.write_off",
}


def _changes_of(old, new):
    if new.kind is InvoiceKind.CREDIT_NOTE:
        yield "credit_note.finalize"
    elif old is None:
        yield "invoice.generate"
    else:
        if old.status is InvoiceStatus.DRAFT and new.status is not InvoiceStatus.VOID:
            yield "invoice.finalize"
        if new.paid_minor > old.paid_minor:
            yield "invoice.pay"
        if new.status is not old.status and new.status in ENDS:
            yield ENDS[new.status]


# ---------------------------------------------------------------------- the log
def check_log(disk, heads, outbox, *, order, is_turned):
    """Every intent has one leaf, and every head that anybody ever saw is that of a beginning of the log."""
    note, committed = disk.read("checkpoint"), disk.read(".writer/committed")
    # What is committed and lost its checkpoint is published at the next start; until then an older one may
    # lie there than was seen, if the power went before its name was synced.
    size = json.loads(committed)["size"] if committed is not None else 0
    leaves = leaves_of(disk, size)
    roots = roots_of(leaves)
    last = 0
    for size, root in heads:
        assert last <= size <= len(leaves), f"I9: the log went back from {max(last, size)} to {len(leaves)}"
        assert roots[size] == root, f"I9: the first {size} entries were others once"
        last = size
    if note is not None:
        size, root = _head(note)
        assert size <= len(leaves), f"I9: the log has {len(leaves)} leaves, and its checkpoint says {size}"
        assert roots[size] == root, "I9: the checkpoint is of another log"
    entries = [json.loads(leaf) for leaf in leaves]
    ids = [entry["id"] for entry in entries]
    assert len(set(ids)) == len(ids), "I8: an intent has two leaves"
    places = {str(key): index for key, (_, index) in outbox.items()}
    assert {key: index for key, index in places.items() if index is not None}.items() <= {
        identity: index for index, identity in enumerate(ids)
    }.items(), "I8: an intent is marked at a place that is another's"
    assert set(ids) <= places.keys(), "I8: a leaf says what is in no outbox"
    said = {str(key): intent for key, (intent, _) in outbox.items()}
    for entry in entries:
        plain = intent_to_dict(said[entry["id"]])
        assert {key: entry[key] for key in plain} == plain, "I8: a leaf says something else than its intent"
    if not is_turned:
        _check_order(entries, order)
    return set(places) - set(ids)


def _check_order(entries, order):
    """What happened to one thing stands in the log in the order in which it was committed."""
    seen = {}
    for entry in entries:
        thing, place = entry["resource_affected"]["id"], order[entry["id"]]
        if thing != "d":  # every use has the same deployment; uses wait for nobody
            assert seen.get(thing, -1) < place, f"I8: {entry['action']} of {thing} stands before its cause"
            seen[thing] = place


def _head(note):
    _, size, root = note.decode().splitlines()[:3]
    return int(size), root


def leaves_of(disk, size):
    """Read the entry bundles of a log without its code."""
    leaves = []
    for index in range(-(-size // TILE)):
        width = min(TILE, size - index * TILE)
        data = disk.read(f"tile/entries/{index:03d}") if width == TILE else None
        if data is None:
            data = disk.read(f"tile/entries/{index:03d}.p/{width}") or disk.read(f"tile/entries/{index:03d}")
        for _ in range(width):
            length = int.from_bytes(data[:2], "big")
            leaves.append(data[2 : 2 + length])
            data = data[2 + length :]
    return leaves


def roots_of(leaves):
    """Return the root of every beginning of the log (RFC 6962), by whole subtrees from the left."""
    roots, peaks = [base64.b64encode(hashlib.sha256().digest()).decode()], []
    for leaf in leaves:
        width, node = 1, hashlib.sha256(b"\0" + leaf).digest()
        while peaks and peaks[-1][0] == width:
            node = hashlib.sha256(b"\1" + peaks.pop()[1] + node).digest()
            width *= 2
        peaks.append((width, node))
        root = peaks[-1][1]
        for _, left in reversed(peaks[:-1]):
            root = hashlib.sha256(b"\1" + left + root).digest()
        roots.append(base64.b64encode(root).decode())
    return roots


# ---------------------------------------------------------------------- the end
def check_end(tables):
    """Nothing is held, what is used is what was counted, everything is billed once."""
    check_balances(tables)
    check_numbers(tables)
    used, counted = Counter(), Counter()
    for each in tables["reservations"].values():
        assert each.state is not ReservationState.HELD, f"I3: {each} is held for ever"
        if each.meter is QuotaMeter.REQUESTS:
            used[each.tenant_id] += each.used
    for each in tables["usage_records"].values():
        if each.quantities.input_tokens:
            counted[each.tenant_id] += 1
    assert used == counted, f"I3: used {dict(used)}, counted {dict(counted)}"


def check_billed(tables):
    """Whatever was used is charged by one invoice."""
    billed = {
        use
        for (invoice_id, use), is_void in tables["invoice_events"].items()
        if not is_void and tables["invoices"][invoice_id].status is not InvoiceStatus.VOID
    }
    uses = {each.id for each in tables["usage_records"].values() if each.quantities.input_tokens}
    assert uses <= billed, f"{len(uses - billed)} uses are billed by nobody"
