"""The whole contract: one class that a backend's test module subclasses."""

from __future__ import annotations

from ptb_kvpersistence.testing.asynchronous import AsyncOnly, CheapLook
from ptb_kvpersistence.testing.committing import Committing, CommittingOnce
from ptb_kvpersistence.testing.exclusive import Exclusive, Sessions
from ptb_kvpersistence.testing.expiry import Expiry
from ptb_kvpersistence.testing.feed import Feed
from ptb_kvpersistence.testing.leases import Leases
from ptb_kvpersistence.testing.locks import Locks
from ptb_kvpersistence.testing.methods import Methods, SyncMethods
from ptb_kvpersistence.testing.modelled import Modelled
from ptb_kvpersistence.testing.processes import Processes
from ptb_kvpersistence.testing.reading import Reading
from ptb_kvpersistence.testing.serialisable import Serialisable
from ptb_kvpersistence.testing.stores import Opening, Stores
from ptb_kvpersistence.testing.transactions import Transactions
from ptb_kvpersistence.testing.watching import Watching


class Contract(
    Reading,
    Committing,
    CommittingOnce,
    Modelled,
    Feed,
    Opening,
    Stores,
    Leases,
    Transactions,
    Serialisable,
    Expiry,
    Watching,
    Sessions,
    Exclusive,
    Locks,
    Methods,
    SyncMethods,
    AsyncOnly,
    CheapLook,
    Processes,
):
    """Every test of the suite, on both faces; a subclass gives ``make_place``."""
