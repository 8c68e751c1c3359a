"""The door to what customer service works with: `Store.desk`. Reads may run on any thread; writes return when on disk.

Writes take a `Doing` (who, when) and leave an audit row in the same transaction. Raises as `Store` does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bot.conversation import Standing
from bot.feedback import store_desk as writes
from bot.feedback import store_inbox as reads
from bot.feedback import store_pairs as pairs
from bot.feedback import store_people as people
from bot.feedback.desk_records import (
    Account,
    AuditRow,
    Case,
    CaseUse,
    Draft,
    InboxPage,
    InboxQuery,
    InboxRow,
    Judged,
    Note,
    Pair,
)
from bot.feedback.store_desk import Doing

__all__ = ["Desk", "Doing"]


Run = Callable[..., Any]
"""Calls its first argument, a function of (connection, ...), with the others."""


class Desk:
    """Inbox, take-over, corrections, accounts and the audit log of one store."""

    def __init__(self, read: Run, write: Run) -> None:
        self._read = read
        self._write = write

    # --- the inbox ----------------------------------------------------------------------------------------------------
    def inbox(self, wanted: InboxQuery, now: float) -> InboxPage:
        """One page of the list or of a search. Raises ValueError for a cursor that is none of ours."""
        page: InboxPage = self._read(reads.inbox, wanted, now)
        return page

    def line(self, conversation_id: str, now: float) -> InboxRow:
        """One conversation's line. Raises NotFound."""
        row: InboxRow = self._read(reads.line, conversation_id, now)
        return row

    def counts(self, who: str, now: float) -> dict[str, int]:
        """Conversations by state, and `mine`; a visit that ended at the greeting is none."""
        found: dict[str, int] = self._read(reads.counts, who, now)
        return found

    def values(self, kind: str) -> list[str]:
        """What a filter on `act`, `article`, `version` or `tag` can be."""
        found: list[str] = self._read(reads.values, kind)
        return found

    def standing(self, conversation_id: str) -> Standing:
        """Who speaks in a conversation, and its place in the queue."""
        standing: Standing = self._read(reads.standing, conversation_id)
        return standing

    def waiting(self) -> list[str]:
        """Conversations in which somebody waits for a person, the longest first."""
        found: list[str] = self._read(reads.waiting)
        return found

    def changed_since(self, revision: int) -> tuple[list[str], int]:
        """Conversations that changed after `revision`, and the revision reached."""
        found: tuple[list[str], int] = self._read(reads.changed_since, revision)
        return found

    def last_revision(self) -> int:
        """0 before the first conversation."""
        return int(self._read(reads.last_revision))

    # --- one conversation ---------------------------------------------------------------------------------------------
    def claim(self, doing: Doing, conversation_id: str, *, force: bool = False) -> None:
        """Make it the actor's. Raises ConflictError when it is somebody else's, unless `force`; NotAllowed while another
        speaks."""
        self._write(writes.claim, doing, conversation_id, force)

    def release(self, doing: Doing, conversation_id: str) -> None:
        """Nobody's again."""
        self._write(writes.release, doing, conversation_id)

    def snooze(self, doing: Doing, conversation_id: str, until: float) -> None:
        """Out of sight until then (epoch s), or until its person writes; 0: back at once."""
        self._write(writes.snooze, doing, conversation_id, until)

    def flag(self, doing: Doing, conversation_id: str, *, flagged: bool) -> None:
        """Marked for others to look at, or not."""
        self._write(writes.flag, doing, conversation_id, flagged)

    def tag(self, doing: Doing, conversation_id: str, value: str, *, present: bool) -> None:
        """Put a tag on, or take it off."""
        self._write(writes.tag, doing, conversation_id, value, present)

    def add_note(self, doing: Doing, conversation_id: str, text: str) -> Note:
        """Append a private note."""
        note: Note = self._write(writes.add_note, doing, conversation_id, text)
        return note

    def notes(self, conversation_id: str) -> list[Note]:
        """Oldest first."""
        found: list[Note] = self._read(writes.notes, conversation_id)
        return found

    def take_over(self, doing: Doing, conversation_id: str, *, force: bool = False) -> bool:
        """The actor speaks, the bot is silent; False: so it was. Raises ConflictError when somebody else has it."""
        return bool(self._write(writes.take_over, doing, conversation_id, force))

    def end_turn(self, doing: Doing, conversation_id: str, status: str) -> bool:
        """Back to the bot (`bot`, if a person speaks) or closed (`resolved`); False: so it was. Raises ConflictError."""
        return bool(self._write(writes.end_turn, doing, conversation_id, status))

    # --- corrections ----------------------------------------------------------------------------------------------------
    def add_case(self, doing: Doing, case: Case) -> None:
        """Store a trusted correction."""
        self._write(writes.add_case, doing, case)

    def remove_case(self, doing: Doing, case_id: str) -> Case:
        """Stop using it; what it taught the weights stays in their versions. Raises NotFound."""
        case: Case = self._write(writes.remove_case, doing, case_id)
        return case

    def case(self, case_id: str) -> Case:
        """Raises NotFound."""
        case: Case = self._read(writes.one_case, case_id)
        return case

    def cases(self, conversation_id: str = "", *, in_force: bool = False, limit: int = 10_000) -> list[Case]:
        """Newest first; of one conversation, or of all. In force: not taken back, and its person lets it be learned from."""
        found: list[Case] = self._read(writes.cases, conversation_id, in_force, limit)
        return found

    def followed(self, cases: Sequence[Case]) -> list[Case]:
        """The same cases, each with the first versions that its lesson and its words taught."""
        found: list[Case] = self._read(writes.followed, cases)
        return found

    def case_uses(self, conversation_id: str) -> list[CaseUse]:
        """The cases that spoke in a conversation's choices."""
        found: list[CaseUse] = self._read(writes.case_uses, conversation_id)
        return found

    def add_draft(self, doing: Doing, draft: Draft) -> None:
        """Store an article that is to be written."""
        self._write(writes.add_draft, doing, draft)

    def set_draft(self, doing: Doing, draft_id: str, changes: Mapping[str, str]) -> Draft:
        """Change title, question, answer or state. Raises NotFound."""
        draft: Draft = self._write(writes.set_draft, doing, draft_id, changes)
        return draft

    def drafts(self, state: str = "draft") -> list[Draft]:
        """Newest first."""
        found: list[Draft] = self._read(writes.drafts, state)
        return found

    # --- pairs ------------------------------------------------------------------------------------------------------------
    def add_pair(self, doing: Doing, pair: Pair) -> None:
        """Store a pair to be judged."""
        self._write(pairs.add_pair, doing, pair)

    def open_pair(self, left: str, right: str) -> Pair | None:
        """An unjudged pair of these two versions."""
        pair: Pair | None = self._read(pairs.open_pair, left, right)
        return pair

    def drop_pair(self, doing: Doing, pair_id: str) -> None:
        """Forget an unjudged pair of which something was erased."""
        self._write(pairs.drop_pair, doing, pair_id)

    def paired_decisions(self, left: str, right: str) -> set[str]:
        """Decisions for which these versions were put beside each other already."""
        found: set[str] = self._read(pairs.paired_decisions, left, right)
        return found

    def judge_pair(self, doing: Doing, pair_id: str, verdict: str) -> Pair:
        """Store a verdict: left, right, both or neither. Raises NotFound, ConflictError."""
        pair: Pair = self._write(pairs.judge_pair, doing, pair_id, verdict)
        return pair

    def verdicts(self) -> list[dict[str, Any]]:
        """[{a, b, a_wins, b_wins, both, neither}] by pair of versions."""
        found: list[dict[str, Any]] = self._read(pairs.verdicts)
        return found

    def judged(self, since: float = 0.0, limit: int = 500) -> list[Judged]:
        """The newest verdicts since then (epoch s) that found one answer better, newest first: what the gate hears."""
        found: list[Judged] = self._read(pairs.judged, since, limit)
        return found

    # --- people ---------------------------------------------------------------------------------------------------------
    def account(self, name: str) -> Account:
        """Raises NotFound."""
        account: Account = self._read(people.account, name)
        return account

    def accounts(self) -> list[Account]:
        """By name."""
        found: list[Account] = self._read(people.accounts)
        return found

    def add_account(self, doing: Doing, account: Account) -> None:
        """Raises ConflictError when the name is taken."""
        self._write(people.add_account, doing, account)

    def change_account(
        self, doing: Doing, name: str, changes: Mapping[str, Any], *, action: str = "change account"
    ) -> Account:
        """Change what is given and end its sessions; `action` is the audit log's word. Raises NotFound."""
        account: Account = self._write(people.change_account, doing, name, changes, action)
        return account

    def show_account_as(self, doing: Doing, name: str, display_name: str) -> Account:
        """What end users read of them from now on. Raises NotFound."""
        account: Account = self._write(people.show_account_as, doing, name, display_name)
        return account

    def saved_filters(self, owner: str) -> dict[str, dict[str, Any]]:
        """Name -> the list's parameters."""
        found: dict[str, dict[str, Any]] = self._read(people.saved_filters, owner)
        return found

    def save_filter(self, doing: Doing, name: str, query: Mapping[str, Any] | None) -> None:
        """Keep a filter of the actor's; None: forget it."""
        self._write(people.save_filter, doing, name, query)

    def macros(self) -> dict[str, str]:
        """Name -> text."""
        found: dict[str, str] = self._read(people.macros)
        return found

    def save_macro(self, doing: Doing, name: str, text: str | None) -> None:
        """Keep a reply for everybody; None: forget it."""
        self._write(people.save_macro, doing, name, text)

    # --- the audit log ----------------------------------------------------------------------------------------------------
    def note(
        self,
        doing: Doing,
        action: str,
        target: str,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
    ) -> int:
        """Append what was done elsewhere (to versions, say)."""
        return int(self._write(writes.note_in_audit, doing, action, target, before, after))

    def audit(self, before_seq: int = 0, limit: int = 100, target: str = "") -> list[AuditRow]:
        """Newest first."""
        found: list[AuditRow] = self._read(writes.audit_rows, before_seq, limit, target)
        return found

    def first_broken_audit_row(self) -> int:
        """The seq of the first row that was tampered with, or stands behind one that was; 0: none."""
        return int(self._read(writes.first_broken_audit_row))
