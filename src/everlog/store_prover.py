"""A store's proofs: checking it whole, and sealing its ledger."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from everlog.errors import InvalidEventError
from everlog.storage import Storage
from everlog.writer import Settings

if TYPE_CHECKING:
    from everlog.anchors import SinceLike
    from everlog.audit import Report
    from everlog.certificates import Certificate, Checked
    from everlog.sealing import Sealer
    from everlog.seals import Seal
    from everlog.signing import Keys
    from everlog.tiles import TilesWritten


class StoreProver:
    """What a store proves of itself, for `Store`."""

    storage: Storage
    settings: Settings

    def verify(
        self,
        *,
        keys: Sequence[str] = (),
        seals: Sequence[str | os.PathLike[str]] = (),
        authorities: str | os.PathLike[str] | None = None,
        since: SinceLike | None = None,
        states: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Report:
        """Re-derive every session and the ledger from the stored bytes and compare; see `everlog.audit.Report`.

        keys: verifier keys that the caller trusts to seal this ledger. seals: files of seals that were kept elsewhere, as `seals.txt` is one.
        authorities: a file of certificates, as PEM: the time stamps beside the files of seals are checked against them.
        since: read only what came after this seal: "last", its size, its head (SIZE:ROOT), or a time, the last that was made until then; of
        the rest, that each line has the head that was sealed. The pinned keys are then those that sign since. states: also make the hashes
        of states on record again, by their reducers.
        """
        from everlog.audit import verify_store
        from everlog.seals import read_seals_files
        from everlog.timestamps import check_stamps, read_authorities

        if authorities is not None and not seals:
            raise InvalidEventError(
                "time stamps lie beside a file of seals, and none was given; nothing was checked; give seals too"
            )
        trusted = None if authorities is None else read_authorities(authorities)
        report = verify_store(
            self.storage,
            keys=keys,
            seals=read_seals_files(seals),
            since=since,
            states=states,
            progress=progress,
        )
        return report if trusted is None else check_stamps(report, seals, trusted)

    # --- seals ---
    def keys(self, folder: str | os.PathLike[str] | None = None) -> Keys:
        """The keys that seal this store's ledger, in a folder outside it; by default $EVERLOG_KEYS, else beside the user's data."""
        from everlog.signing import Keys

        chosen = self.settings.keys_folder() if folder is None else Path(folder)
        return Keys(chosen, self.storage.id, draw=self.settings.draw, clock=self.storage.now)

    def seal(
        self,
        *,
        keys: Keys | str | os.PathLike[str] | None = None,
        witnesses: Sequence[str] = (),
        to: Sequence[str] = (),
        timestamp: str | None = None,
    ) -> Seal:
        """Seal all that was recorded until now: sign the head of the ledger, which holds the head of every branch.

        keys: as `keys()` gives them, or their folder. witnesses: KEY@URL of each that is to cosign it. to: where else it is sent, see
        `everlog help sealing`. timestamp: the address of an authority (RFC 3161) that is to stamp it; the stamp is kept in `timestamps`, beside
        the key. Where nothing is new it gives the last seal. NotFoundError where there is no key; TamperedError where the ledger
        does not extend what was sealed last.
        """
        return self.sealer(keys=keys, witnesses=witnesses, to=to, timestamp=timestamp).seal()

    def sealer(
        self,
        *,
        keys: Keys | str | os.PathLike[str] | None = None,
        witnesses: Sequence[str] = (),
        to: Sequence[str] = (),
        timestamp: str | None = None,
    ) -> Sealer:
        """Give what seals, once with `seal()` or again and again with `run()`; see `seal`."""
        from everlog.sealing import Sealer
        from everlog.signing import Keys
        from everlog.timestamps import Stamper
        from everlog.witnesses import Witness

        chosen = keys if isinstance(keys, Keys) else self.keys(keys)
        asked = [Witness.parse(each) for each in witnesses]
        stamper = None if timestamp is None else Stamper.parse(timestamp, chosen.folder)
        return Sealer(self.storage, chosen, witnesses=asked, to=to, stamper=stamper)

    def seals(self, *, limit: int = 50) -> list[Seal]:
        """List the seals that are kept in the store, the last first. Who signed them is told by checking them: `verify`."""
        from everlog.seals import list_seals

        return list_seals(self.storage, limit)

    def write_tiles(self, folder: str | os.PathLike[str]) -> TilesWritten:
        """Write the ledger up to its last seal as files for any web server to serve (C2SP tlog-tiles); again only what is new.

        Records hold ids, sizes, hashes and times, and no name or body. `everlog check-tiles` checks such a folder without the store.
        """
        from everlog.tiles import write_tiles

        return write_tiles(self.storage, Path(folder))

    def check_certificate(self, certificate: Certificate) -> Checked:
        """Compare a certificate of an erasure with this store: its records, that what they name is gone, and its head."""
        from everlog.certificates import check_certificate

        return check_certificate(self.storage, certificate)
