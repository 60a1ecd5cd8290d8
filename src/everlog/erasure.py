"""A session's handle as one whose events are erased, certified, held and released."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from everlog.certificates import Certificate, certify
from everlog.core.decide import Batch
from everlog.core.labels import check_reason
from everlog.core.retention import Policy
from everlog.erasing import certify_erasure, erase_events
from everlog.errors import NotFoundError, SessionExistsError
from everlog.holding import POLICIES, holds_of
from everlog.making import clean_reason, new_session
from everlog.policies import TITLE, hold_session, release_session
from everlog.reader import PlaceLike, View, resolve_event
from everlog.storage import Family
from everlog.summaries import SessionSummarizer

if TYPE_CHECKING:
    from everlog.planning import ErasurePlan
    from everlog.sealing import Sealer
    from everlog.signing import Keys


class SessionEraser(SessionSummarizer):
    """A session's handle as one whose events are erased, certified, held and released."""

    # --- erasing ---
    def erase(
        self,
        places: Sequence[PlaceLike],
        *,
        reason: str,
        actor: str | None = None,
        keys: Keys | str | os.PathLike[str] | None = None,
    ) -> Certificate:
        """Destroy bodies, attachments and salts of events; places, hashes and every proof stay. Give the certificate of it.

        places: events, by position, id or checkpoint's name; the certificate's `positions` leave out those erased before. In every fork
        that shares an event, it is erased too, and everywhere the summaries that stand for it. reason, actor (an opaque id of who has it
        done): recorded in the ledger. keys: that seal this store, or their folder: the record is sealed before anything is destroyed. Raises
        HeldError where a retention policy holds a session that shares one, BusyError where they are erased but a reader keeps old bytes
        in the file's write-ahead log.
        """
        check_reason(reason)
        reason = clean_reason(self._settings.redactor, reason)
        view, positions = self._at(places)
        sealer = None if keys is None else self._sealer(keys)
        erased = erase_events(self.storage, self._row, view, positions, reason, actor=actor, sealer=sealer)
        return certify_erasure(self.storage, self._row, view, positions, erased)

    def _sealer(self, keys: Keys | str | os.PathLike[str]) -> Sealer:
        from everlog.sealing import make_sealer

        return make_sealer(self.storage, self._settings.draw, keys)

    def plan_erasure(self, places: Sequence[PlaceLike]) -> ErasurePlan:
        """Tell what erasing events would do: what goes with them, what stays, who shares them, what is in the way. Changes nothing."""
        from everlog.planning import plan_erasure

        view, positions = self._at(places)
        return plan_erasure(self.storage, self._row, view, positions)

    def certificate(self, places: Sequence[PlaceLike]) -> Certificate:
        """Give the certificate of events that were erased before. NotFoundError where one of them was not."""
        view, positions = self._at(places)
        return certify(self.storage, self._row, view, positions)

    def _at(self, places: Sequence[PlaceLike]) -> tuple[View, list[int]]:
        view = self.view()
        return view, sorted({resolve_event(self.storage, view, place) for place in places})

    # --- holding ---
    def hold(self, *, reason: str, name: str | None = None, actor: str | None = None) -> Policy:
        """Hold this session: nobody can erase what it shares, nor delete it, until it is released. Recorded, in the ledger too.

        It is a retention policy, whose query names this session alone. name: of the policy, so that a session may be held by several,
        each for a reason of its own. Raises InvalidEventError where the name is that of another policy.
        """
        return hold_session(self._policies, self, name, reason=reason, actor=actor, now=self.storage.now())

    def release(self, *, reason: str, name: str | None = None, actor: str | None = None) -> None:
        """Release this session from a hold of its own; other policies may hold it still. NotFoundError where there is none."""
        release_session(self._policies_there_are, self, name, reason=reason, actor=actor)

    def holds(self) -> list[Policy]:
        """Give the policies that hold this session now, by name. Raises InvalidEventError where one cannot be read."""
        row = self.storage.session_by_id(self.uuid)
        return holds_of(self.storage, row, self.storage.current_branch(self.uuid))

    def _policies_there_are(self) -> SessionEraser:
        found = self.storage.find(POLICIES)
        return type(self)(self.storage, self._settings, self._keepers, found.session, found.branch)

    def _policies(self) -> SessionEraser:
        """Open the session that holds the policies, or make it."""
        try:
            return self._policies_there_are()
        except NotFoundError:
            pass
        draw = self._settings.draw
        made = new_session(
            self._settings,
            id=POLICIES,
            title=TITLE,
            labels=None,
            metadata=None,
            family=Family(draw(16).hex(), draw(32)),
            base=None,
            forked_from=None,
            batch=Batch(()),
        )
        with suppress(SessionExistsError):
            self.storage.write(made)
        return self._policies_there_are()
