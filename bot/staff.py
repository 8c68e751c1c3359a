"""The staff: accounts with a role, who is behind a session, and what a role may do.

Accounts are few and asked for at every request, so they are kept in memory; the store holds them, and one process serves
a home. Passwords are kept as argon2id hashes (RFC 9106, the library's default cost). An account of a provider has no
password: its `subject` says whose it is, and its role is what the provider said at the last sign-in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from bot.conversation import public_name
from bot.errors import NotAllowed, NotFound
from bot.feedback.desk import Desk, Doing
from bot.feedback.desk_records import ROLES, Account
from bot.identity import KEY_HOLDER
from bot.oidc import Person
from bot.wire_errors import BadFrame, Unauthenticated

MIN_PASSWORD_CHARS = 10
MAX_PASSWORD_CHARS = 256
_NO_ROLE = "your account has no role here: ask who manages the groups of your organisation"
_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")

ANYBODY = frozenset(ROLES)
"""Reads transcripts and everything about learning."""
SERVICE = frozenset({"operator", "admin"})
"""Speaks to customers, corrects, claims."""
DEVELOPMENT = frozenset({"developer", "admin"})
"""Changes what serves: versions, rules, articles."""
ADMIN = frozenset({"admin"})
"""Accounts and the audit log."""


@dataclass(frozen=True, slots=True)
class Member:
    """Somebody of the staff."""

    name: str
    role: str

    @property
    def author(self) -> str:
        """How rows name them."""
        return f"operator:{self.name}"


class Staff:
    """Who may sign in. `hasher` is for tests, which have no second to spend on each password."""

    def __init__(self, desk: Desk, hasher: PasswordHasher | None = None) -> None:
        self._desk = desk
        self._hasher = hasher or PasswordHasher()
        self._accounts = {account.name: account for account in desk.accounts()}
        self._nobodys_hash = ""

    def member(self, name: str, epoch: int) -> Member | None:
        """Who is behind a session; None when the account changed since, or is gone."""
        if name == KEY_HOLDER:
            return Member(KEY_HOLDER, "admin")
        account = self._accounts.get(name)
        if account is None or account.disabled or account.session_epoch != epoch:
            return None
        return Member(account.name, account.role)

    def accounts(self) -> list[Account]:
        """By name."""
        return sorted(self._accounts.values(), key=lambda account: account.name)

    def is_providers(self, name: str) -> bool:
        """Whether the account is signed in to by the provider."""
        return name in self._accounts and bool(self._accounts[name].subject)

    def shown_name(self, name: str) -> str:
        """What end users read of an account: never an e-mail address, empty where there is nothing else."""
        account = self._accounts.get(name)
        return public_name(account.display_name if account and account.subject else name)

    def sign_in(self, name: str, password: str) -> Account:
        """The account of this name and password; slow on purpose. Raises Unauthenticated, in the same words and time
        whether the name or the password is wrong."""
        account = self._accounts.get(name)
        usable = account is not None and not account.disabled
        # A provider's account has no hash: refused in no time, it would tell that it exists.
        expected = (account.password_hash if account and usable else "") or self._decoy()
        if not self._holds(expected, password) or account is None or not usable:
            raise Unauthenticated("name and password: expected those of an account, got others")
        return account

    def admit(self, doing: Doing, person: Person) -> Account:
        """The account of somebody a provider vouches for, with the role it says; made when there is none.

        Raises NotAllowed when the provider gives no role, an admin shut them out, or the name is another's. Whoever lost
        their role is signed out everywhere.
        """
        known = next((account for account in self._accounts.values() if account.subject == person.subject), None)
        if known is None:
            return self._welcome(doing, person)
        if not person.role or known.disabled:
            self._accounts[known.name] = self._desk.change_account(doing, known.name, {})
            raise NotAllowed(_NO_ROLE if not person.role else f"{known.name} was shut out by an admin")
        if known.role != person.role:
            self._accounts[known.name] = self._desk.change_account(doing, known.name, {"role": person.role})
        return self._shown_as(doing, known.name, person.display_name)

    def _shown_as(self, doing: Doing, name: str, display_name: str) -> Account:
        if self._accounts[name].display_name != display_name:
            self._accounts[name] = self._desk.show_account_as(doing, name, display_name)
        return self._accounts[name]

    def _welcome(self, doing: Doing, person: Person) -> Account:
        if not person.role:
            raise NotAllowed(_NO_ROLE)
        if not _NAME.fullmatch(person.name) or person.name == KEY_HOLDER:
            raise NotAllowed(f"name: expected 1 to 64 of a-z, 0-9 and ._@- from the provider, got {person.name[:64]!r}")
        if person.name in self._accounts:
            if self._accounts[person.name].is_released:
                return self._taken_over(doing, person)
            raise NotAllowed(f"{person.name} is somebody else's account here: an admin must give you another name")
        account = Account(
            person.name, person.role, "", doing.at, subject=person.subject, display_name=person.display_name
        )
        self._desk.add_account(doing, account)
        self._accounts[account.name] = account
        return account

    def _taken_over(self, doing: Doing, person: Person) -> Account:
        if self._accounts[person.name].disabled:
            raise NotAllowed(f"{person.name} was shut out by an admin")
        changes = {"subject": person.subject, "role": person.role, "display_name": person.display_name}
        self._accounts[person.name] = self._desk.change_account(doing, person.name, changes, action="take over account")
        return self._accounts[person.name]

    def release(self, doing: Doing, name: str) -> Account:
        """Let the next of the provider's people who signs in under this name have the account, with all that is theirs
        in it; nobody is signed in by it until then. Raises NotFound."""
        if name not in self._accounts:
            raise NotFound(f"no account {name[:64]!r}")
        changes = {"subject": "", "password_hash": "", "display_name": ""}
        self._accounts[name] = self._desk.change_account(doing, name, changes, action="release account")
        return self._accounts[name]

    def add(self, doing: Doing, name: str, role: str, password: str) -> Account:
        """A new account. Raises BadFrame, ConflictError."""
        if not _NAME.fullmatch(name) or name == KEY_HOLDER:
            raise BadFrame(f"name: expected 1 to 64 of a-z, 0-9 and ._@- (not {KEY_HOLDER}), got {name[:64]!r}")
        account = Account(name, role, self._hashed(password), doing.at)
        self._desk.add_account(doing, account)
        self._accounts[name] = account
        return account

    def change(
        self,
        doing: Doing,
        name: str,
        *,
        role: str | None = None,
        password: str | None = None,
        disabled: bool | None = None,
    ) -> Account:
        """Change what is given; the account must sign in again. Raises NotFound, BadFrame."""
        if name not in self._accounts:
            raise NotFound(f"no account {name[:64]!r}")
        if self._accounts[name].subject and (role is not None or password is not None):
            raise BadFrame(f"{name}: expected no role or password, which the sign-in provider gives; got one")
        given = {
            "role": role,
            "disabled": disabled,
            "password_hash": None if password is None else self._hashed(password),
        }
        changes = {key: value for key, value in given.items() if value is not None}
        self._accounts[name] = self._desk.change_account(doing, name, changes)
        return self._accounts[name]

    def _hashed(self, password: str) -> str:
        if not MIN_PASSWORD_CHARS <= len(password) <= MAX_PASSWORD_CHARS:
            raise BadFrame(
                f"password: expected {MIN_PASSWORD_CHARS} to {MAX_PASSWORD_CHARS} characters, got {len(password)}"
            )
        return self._hasher.hash(password)

    def _decoy(self) -> str:
        """A hash that no password fits: a name nobody has costs as long as a wrong password."""
        self._nobodys_hash = self._nobodys_hash or self._hasher.hash("nobody's password")
        return self._nobodys_hash

    def _holds(self, expected: str, password: str) -> bool:
        try:
            return self._hasher.verify(expected, password)
        except (VerificationError, InvalidHashError):
            return False
